import { AsyncLocalStorage } from 'node:async_hooks'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { accounts, accountsDatabase, appOn, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
const mistake = new Error('roll back')

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

describe('afterCommit', () => {
  it('runs once the transaction has committed, and not before', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const seen: string[][] = []
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        scope.afterCommit(async () => seen.push(await ownersIn(database)))
        await watch`select 1`
        expect(seen).toEqual([])
      })
      expect(seen).toEqual([['ann']])
    })
  })

  it('runs functions in the order they were registered, each after the one before has settled', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const steps: string[] = []
      await scope.transaction(async () => {
        scope.afterCommit(async () => {
          steps.push('first begins')
          await watch`select 1`
          steps.push('first ends')
        })
        await scope.transaction({ propagation: 'nested' }, async () => {
          scope.afterCommit(() => steps.push('nested'))
        })
        await scope.transaction(async () => scope.afterCommit(() => steps.push('joined')))
        scope.afterCommit(() => steps.push('last'))
      })
      expect(steps).toEqual(['first begins', 'first ends', 'nested', 'joined', 'last'])
    })
  })

  it('does not run when the transaction rolls back', async () => {
    const app = appOn(database)
    const fn = vi.fn()
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        scope.afterCommit(fn)
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
    expect(fn).not.toHaveBeenCalled()
  })

  it('does not run for what a savepoint has undone, and runs for the rest', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        scope.afterCommit(() => ran.push('outer'))
        await tx.transaction(async () => scope.afterCommit(() => ran.push('kept')))
        await failureOf(
          tx.transaction(async (inner) => {
            scope.afterCommit(() => ran.push('undone'))
            await inner.transaction(async () => scope.afterCommit(() => ran.push('undone with the outer one')))
            throw mistake
          }),
        )
        expect(ran).toEqual([])
      })
    })
    expect(ran).toEqual(['outer', 'kept'])
  })

  it('runs with its own transaction when that is a requiresNew one, although the outer one rolls back', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        scope.afterCommit(() => ran.push('outer'))
        await scope.transaction({ propagation: 'requiresNew' }, async () => {
          await scope.db.insert(accounts).values({ owner: 'audit' })
          scope.afterCommit(() => ran.push('inner'))
        })
        expect(ran).toEqual(['inner'])
        throw mistake
      })
      await failureOf(work)
    })
    expect(ran).toEqual(['inner'])
  })

  it('runs at once outside of a transaction, also inside notSupported', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      scope.afterCommit(() => ran.push('no transaction'))
      expect(ran).toEqual(['no transaction'])
      await scope.transaction(async () => {
        await scope.transaction({ propagation: 'notSupported' }, async () =>
          scope.afterCommit(() => ran.push('outside')),
        )
        expect(ran).toEqual(['no transaction', 'outside'])
      })
    })
  })

  it('that throws is logged, stops none of the others and does not make the transaction fail', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      const result = await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        scope.afterCommit(() => {
          throw mistake
        })
        scope.afterCommit(() => Promise.reject(mistake))
        scope.afterCommit(() => ran.push('the third'))
        return 'done'
      })
      expect(result).toBe('done')
    })
    expect(ran).toEqual(['the third'])
    expect(await ownersIn(database)).toEqual(['ann'])
    const logged = app.logs.filter(({ message }) => message.includes('afterCommit'))
    expect(logged).toMatchObject([{ facts: { err: mistake } }, { facts: { err: mistake } }])
  })

  it('that throws outside of a transaction is logged too', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      scope.afterCommit(() => Promise.reject(mistake))
      await vi.waitFor(() => expect(app.logs).toMatchObject([{ level: 'error', facts: { err: mistake } }]))
    })
  })

  it('has the handles of its scope, and is outside of the transaction by then', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        scope.afterCommit(() => scope.db.insert(accounts).values({ owner: 'receipt' }))
      })
      expect(await ownersIn(database)).toEqual(['ann', 'receipt'])
    })
  })

  it('of work that goes on after a rollback does not run, after a commit it runs at once', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      let inRolledBack: (fn: () => void) => void = (fn) => fn()
      await failureOf(
        scope.transaction(async () => {
          inRolledBack = AsyncLocalStorage.snapshot()
          throw mistake
        }),
      )
      inRolledBack(() => scope.afterCommit(() => ran.push('rolled back')))
      let inCommitted: (fn: () => void) => void = (fn) => fn()
      await scope.transaction(async () => {
        inCommitted = AsyncLocalStorage.snapshot()
      })
      inCommitted(() => scope.afterCommit(() => ran.push('committed')))
      expect(ran).toEqual(['committed'])
    })
  })

  it('of work that goes on after its savepoint follows that savepoint', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      let inUndone: (fn: () => void) => void = (fn) => fn()
      let inKept: (fn: () => void) => void = (fn) => fn()
      await scope.db.transaction(async (tx) => {
        await failureOf(
          tx.transaction(async () => {
            inUndone = AsyncLocalStorage.snapshot()
            throw mistake
          }),
        )
        await tx.transaction(async () => {
          inKept = AsyncLocalStorage.snapshot()
        })
        inUndone(() => scope.afterCommit(() => ran.push('undone')))
        inKept(() => scope.afterCommit(() => ran.push('kept')))
        expect(ran).toEqual([])
      })
      expect(ran).toEqual(['kept'])
    })
  })

  it('runs before scope.transaction resolves', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const gate = new Gate()
      let resolved = false
      const work = scope
        .transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          scope.afterCommit(() => gate.passed)
        })
        .then(() => {
          resolved = true
        })
      await vi.waitFor(async () => expect(await ownersIn(database)).toEqual(['ann']))
      expect(resolved).toBe(false)
      gate.open()
      await work
    })
  })
})
