import { beforeEach, describe, expect, it, vi } from 'vitest'
import { InvalidOptionError, PoolExhaustedError, TransactionEndedError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, backendOf, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
const mistake = new Error('only this part')

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

async function transactionIdOf(scope: { db: { $client: import('postgres').Sql } }): Promise<string | undefined> {
  const [row] = await scope.db.$client<{ id: string }[]>`select pg_current_xact_id()::text as id`
  return row?.id
}

describe('scope.transaction inside a transaction, by default (required)', () => {
  it('joins it: same transaction, nothing committed before the outermost one is', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        const outer = await transactionIdOf(scope)
        const inner = await scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'joined' })
          return transactionIdOf(scope)
        })
        expect(inner).toBe(outer)
        expect(await ownersIn(database)).toEqual([])
      })
    })
    expect(await ownersIn(database)).toEqual(['joined'])
  })

  it('joins a db.transaction too', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'outer' })
        await scope.transaction(() => scope.db.insert(accounts).values({ owner: 'joined' }))
        tx.rollback()
      })
      await failureOf(work)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('makes the whole transaction rollback-only by an error that leaves it, even though that is caught', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'outer' })
          const joined = scope.transaction(async () => {
            await scope.db.insert(accounts).values({ owner: 'joined' })
            throw mistake
          })
          expect(await failureOf(joined)).toBe(mistake)
          await scope.db.insert(accounts).values({ owner: 'after' })
          return 'looks fine'
        }),
      )
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'rollback-only', cause: mistake, scope: { name: 'order' } })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('remembers the first such error when there are several', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const join = (error: Error) =>
        failureOf(
          scope.transaction(() => {
            throw error
          }),
        )
      const failure = await failureOf(
        scope.transaction(async () => {
          await join(mistake)
          await join(new Error('a later one'))
        }),
      )
      expect(failure).toMatchObject({ reason: 'rollback-only', cause: mistake })
    })
  })

  it('gives the error itself to the caller of the outermost one when nobody catches it', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(() =>
        scope.transaction(async () => {
          throw mistake
        }),
      )
      expect(await failureOf(work)).toBe(mistake)
    })
  })

  it.each([
    [{ retries: 2 }, 'transaction.retries'],
    [{ isolationLevel: 'serializable' }, 'transaction.isolationLevel'],
    [{ accessMode: 'read only' }, 'transaction.accessMode'],
    [{ deferrable: true }, 'transaction.deferrable'],
  ] as const)('refuses %j: that is for the outermost one only', async (options, option) => {
    const app = appOn(database)
    const fn = vi.fn(async () => {})
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction({ isolationLevel: 'repeatable read' }, async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        for (const propagation of ['required', 'nested'] as const) {
          const failure = await failureOf(scope.transaction({ ...options, propagation }, fn))
          expect(failure).toBeInstanceOf(InvalidOptionError)
          expect(failure).toMatchObject({ option })
        }
        if (option !== 'transaction.retries') {
          const failure = await failureOf(scope.db.transaction(fn, options as never))
          expect(failure).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
        }
      })
    })
    expect(fn).not.toHaveBeenCalled()
    expect(await ownersIn(database)).toEqual(['outer'])
  })

  it('takes the same isolation level as the outermost one has, and no retries at all', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction({ isolationLevel: 'serializable', retries: 3 }, () =>
        scope.transaction({ isolationLevel: 'serializable', retries: 0 }, async () => 'joined'),
      )
      expect(await work).toBe('joined')
    })
  })
})

describe("propagation 'requiresNew'", () => {
  it('is an independent transaction on another connection: it commits although the outer one rolls back', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        const outer = await backendOf(scope)
        const inner = await scope.transaction({ propagation: 'requiresNew' }, async () => {
          await scope.db.insert(accounts).values({ owner: 'audit' })
          return backendOf(scope)
        })
        expect(inner).not.toBe(outer)
        expect(await ownersIn(database)).toEqual(['audit'])
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual(['audit'])
  })

  it('rolls back by itself, and leaves the outer one as it was', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        const inner = scope.transaction({ propagation: 'requiresNew' }, async () => {
          await scope.db.insert(accounts).values({ owner: 'inner' })
          throw mistake
        })
        expect(await failureOf(inner)).toBe(mistake)
      })
    })
    expect(await ownersIn(database)).toEqual(['outer'])
  })

  it('may have its own isolation level, and what runs after it is in the outer one again', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const level = async () => {
        const [row] = await scope.db.$client<
          { level: string }[]
        >`select current_setting('transaction_isolation') as level`
        return row?.level
      }
      await scope.transaction(async () => {
        const inner = await scope.transaction(
          { propagation: 'requiresNew', isolationLevel: 'serializable', retries: 1 },
          level,
        )
        expect([inner, await level()]).toEqual(['serializable', 'read committed'])
      })
    })
  })

  it('fails within the acquire timeout, and says why, when its own scope holds the only connection', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 100 })
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        await scope.transaction({ propagation: 'requiresNew' }, () =>
          scope.db.insert(accounts).values({ owner: 'inner' }),
        )
      })
      const failure = await failureOf(work)
      expect(failure).toBeInstanceOf(PoolExhaustedError)
      expect((failure as Error).message).toMatch(/This scope holds 1 of them itself.*requiresNew/)
    })
    expect(await ownersIn(database)).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })
})

describe("propagation 'nested'", () => {
  it('is a savepoint inside a transaction: its failure is contained', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        const inner = scope.transaction({ propagation: 'nested' }, async () => {
          await scope.db.insert(accounts).values({ owner: 'undone' })
          throw mistake
        })
        expect(await failureOf(inner)).toBe(mistake)
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['outer', 'after'])
  })

  it('is a transaction of its own where there is none', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction({ propagation: 'nested', isolationLevel: 'serializable' }, async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        expect(await ownersIn(database)).toEqual([])
      })
    })
    expect(await ownersIn(database)).toEqual(['ann'])
  })
})

describe("propagation 'notSupported'", () => {
  it('runs outside of the transaction around, on another connection, and commits at once', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        const outer = await backendOf(scope)
        await scope.transaction({ propagation: 'notSupported' }, async () => {
          expect(await backendOf(scope)).not.toBe(outer)
          await scope.db.insert(accounts).values({ owner: 'log line' })
        })
        expect(await ownersIn(database)).toEqual(['log line'])
        expect(await backendOf(scope)).toBe(outer)
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual(['log line'])
  })

  it('begins a transaction of its own when one is asked for inside', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        await scope.transaction({ propagation: 'notSupported' }, () =>
          scope.transaction(() => scope.db.insert(accounts).values({ owner: 'independent' })),
        )
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual(['independent'])
  })

  it('just calls its function where there is no transaction', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const before = await backendOf(scope)
      const inside = new Gate<number>()
      await scope.transaction({ propagation: 'notSupported' }, async () => inside.open(await backendOf(scope)))
      expect(await inside.passed).toBe(before)
    })
  })

  it('still reaches the transaction through its handle', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.db.transaction(async (tx) => {
        await scope.transaction({ propagation: 'notSupported' }, async () => {
          await tx.insert(accounts).values({ owner: 'by the handle' })
          expect(await ownersIn(database)).toEqual([])
        })
        tx.rollback()
      })
      await failureOf(work)
    })
    expect(await ownersIn(database)).toEqual([])
  })
})

describe('a transaction that joined inside a savepoint and failed', () => {
  const failing = async (app: ReturnType<typeof appOn>, swallow: 'inside' | 'outside') =>
    app.run({ name: 'order' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        const joined = () =>
          scope.transaction(async () => {
            await scope.db.insert(accounts).values({ owner: 'joined' })
            throw mistake
          })
        const nested = scope.transaction({ propagation: 'nested' }, () =>
          swallow === 'inside' ? joined().catch(() => {}) : joined(),
        )
        await nested.catch(() => {})
      }),
    )

  it('is undone with the savepoint, and the rest is committed', async () => {
    await failing(appOn(database), 'outside')
    expect(await ownersIn(database)).toEqual(['outer'])
  })

  it('makes the whole transaction rollback-only where the savepoint is kept', async () => {
    const error = await failureOf(failing(appOn(database), 'inside'))
    expect(error).toMatchObject({ code: 'RSC_TRANSACTION_ENDED', reason: 'rollback-only', cause: mistake })
    expect(await ownersIn(database)).toEqual([])
  })
})
