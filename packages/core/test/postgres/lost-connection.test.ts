import { Readable, type Writable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import { startPostgres } from '@reqscope/services'
import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { sql } from 'drizzle-orm'
import type { Sql } from 'postgres'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { ConnectionLostError, isReqscopeError } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { crashes } from '../crashes.ts'
import { heard } from '../heard.ts'
import { accounts, accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate, ownersIn } from './fixture.ts'
import { wireTo } from './wire.ts'

const database = await accountsDatabase()
const { watch } = database
await watch.unsafe(`
  create function sleep_if_asked() returns trigger language plpgsql as $$
    begin if new.owner = 'sleep' then perform pg_sleep(30); end if; return null; end $$;
  create constraint trigger sleep_at_commit after insert on accounts deferrable initially deferred
    for each row execute function sleep_if_asked()`)

let found: unknown[] = []
beforeEach(async () => {
  await watch`truncate accounts restart identity`
  found = crashes()
})
afterEach(() => {
  // Whatever was killed, nothing of it may reach the process.
  expect(found).toEqual([])
})

/** Kills a backend; it is gone when this resolves, and its client may not know yet. */
const kill = (backend: number) => watch`select pg_terminate_backend(${backend}, 5000)`

async function killWhileItRuns(text: string): Promise<void> {
  await vi.waitFor(async () => {
    const rows = await watch<{ pid: number }[]>`
      select pid from pg_stat_activity
      where datname = ${database.name} and state = 'active' and query like ${`${text}%`} and pid <> pg_backend_pid()`
    expect(rows).toHaveLength(1)
    await kill(rows[0]?.pid ?? 0)
  })
}

describe('a backend that is killed', () => {
  it('during a query: that one rejects with ConnectionLostError, and the next one has another connection', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'reader' }, async (scope) => {
      const before = await backendOf(scope)
      const query = failureOf(scope.db.execute(sql`select pg_sleep(30)`))
      await killWhileItRuns('select pg_sleep')
      const failure = await query
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect(failure).toMatchObject({
        statusCode: 503,
        code: 'RSC_CONNECTION_LOST',
        reason: 'lost',
        resource: 'db',
        outcome: undefined,
      })
      expect((failure as ConnectionLostError).retryAfterMs).toBeGreaterThan(0)
      expect(await backendOf(scope)).not.toBe(before)
    })
  })

  it('during a query through $client and with others sent behind it: all of them reject', async () => {
    const app = appOn(database)
    await app.run({ name: 'reader' }, async (scope) => {
      const client = scope.db.$client
      const all = Promise.allSettled([client`select pg_sleep(30)`, client`select 1`, scope.db.select().from(accounts)])
      await killWhileItRuns('select pg_sleep')
      for (const each of await all) {
        expect(each.status === 'rejected' && each.reason).toBeInstanceOf(ConnectionLostError)
      }
    })
  })

  it('while idle: it is replaced behind the scenes, and nobody is told', async () => {
    const app = appOn(database, { max: 1 })
    const closed = heard('reqscope:connection:closed')
    await app.run({ name: 'reader' }, async (scope) => {
      const before = await backendOf(scope)
      await kill(before)
      await vi.waitFor(() => expect(closed).toMatchObject([{ backend: before }]))
      expect(await backendOf(scope)).not.toBe(before)
    })
    await app.run({ name: 'next' }, backendOf)
  })

  it('during a query in a transaction: everything in that transaction rejects, and no row is left of it', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const rejected: unknown[] = []
      const note = (error: unknown) => rejected.push(error)
      const transaction = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'before' })
        await Promise.all([
          scope.db.execute(sql`select pg_sleep(30)`).catch(note),
          scope.db.insert(accounts).values({ owner: 'behind' }).catch(note),
        ])
        await scope.db.insert(accounts).values({ owner: 'after' }).catch(note)
        await scope.db.transaction((tx) => tx.insert(accounts).values({ owner: 'nested' })).catch(note)
        await scope.transaction(() => scope.db.insert(accounts).values({ owner: 'joined' })).catch(note)
      })
      const failed = failureOf(transaction)
      await killWhileItRuns('select pg_sleep')
      expect(await failed).toSatisfy(isReqscopeError)
      expect(rejected).toHaveLength(5)
      for (const error of rejected) expect(error).toBeInstanceOf(ConnectionLostError)
      expect(await ownersIn(database)).toEqual([])
      await scope.db.insert(accounts).values({ owner: 'outside, afterwards' })
    })
    expect(await ownersIn(database)).toEqual(['outside, afterwards'])
    expect(app.snapshot().leases).toEqual([])
  })

  it('while idle in a transaction: what follows rejects and never runs in autocommit', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.db.transaction(async (tx) => {
          await tx.insert(accounts).values({ owner: 'before' })
          await kill(await backendOf(scope))
          expect(await failureOf(tx.insert(accounts).values({ owner: 'after' }))).toBeInstanceOf(ConnectionLostError)
          expect(await failureOf(scope.db.insert(accounts).values({ owner: 'after' }))).toBeInstanceOf(
            ConnectionLostError,
          )
          expect(
            await failureOf(tx.transaction((inner) => inner.insert(accounts).values({ owner: 'nested' }))),
          ).toBeInstanceOf(ConnectionLostError)
        }),
      )
      // The function swallowed them all: the commit still says so.
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect(failure).toMatchObject({ outcome: undefined })
      expect((await scope.db.select().from(accounts)).length).toBe(0)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('while idle in a transaction that then just returns: the commit rejects', async () => {
    const app = appOn(database)
    const closed = heard('reqscope:connection:closed')
    const committed = vi.fn()
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'before' })
        scope.afterCommit(committed)
        await kill(await backendOf(scope))
        await vi.waitFor(() => expect(closed).toHaveLength(1))
      })
      const failure = await failureOf(work)
      expect(failure).toBeInstanceOf(ConnectionLostError)
      // COMMIT was not sent any more, so the outcome is known.
      expect(failure).toMatchObject({ outcome: undefined })
    })
    expect(committed).not.toHaveBeenCalled()
    expect(await ownersIn(database)).toEqual([])
  })

  it('in a transaction whose function throws something of its own: that is not hidden by the loss', async () => {
    const app = appOn(database)
    const mistake = new Error('out of stock')
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await kill(await backendOf(scope))
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
  })

  it('inside a savepoint: the savepoint rejects, and so does the rest of the transaction', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.db.transaction(async (tx) => {
          await tx.insert(accounts).values({ owner: 'outer' })
          const inside = new Gate()
          const queued = new Gate()
          const inner = tx.transaction(async (level) => {
            await level.insert(accounts).values({ owner: 'inner' })
            inside.open()
            await queued.passed
            await kill(await backendOf(scope))
            await level.insert(accounts).values({ owner: 'inner, later' })
          })
          await inside.passed
          const waiting = failureOf(tx.insert(accounts).values({ owner: 'outer, queued' }))
          queued.open()
          expect(await failureOf(inner)).toBeInstanceOf(ConnectionLostError)
          expect(await waiting).toBeInstanceOf(ConnectionLostError)
          await tx.insert(accounts).values({ owner: 'outer, later' })
        }),
      )
      expect(failure).toBeInstanceOf(ConnectionLostError)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('during COMMIT: the outcome is unknown, and says so', async () => {
    const app = appOn(database)
    const committed = vi.fn()
    await app.run({ name: 'order' }, async (scope) => {
      const work = failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'sleep' })
          scope.afterCommit(committed)
        }),
      )
      await killWhileItRuns('commit')
      const failure = await work
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect(failure).toMatchObject({ outcome: 'unknown', statusCode: 503, message: expect.stringContaining('COMMIT') })
    })
    expect(committed).not.toHaveBeenCalled()
  })

  it('inside a pin: what follows in it rejects, outside it goes on', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'pinned' }, async (scope) => {
      const failure = await failureOf(
        pin(scope.db, async () => {
          await kill(await backendOf(scope))
          await failureOf(scope.db.select().from(accounts))
          await scope.db.insert(accounts).values({ owner: 'on another connection' })
        }),
      )
      expect(failure).toBeInstanceOf(ConnectionLostError)
      await scope.db.insert(accounts).values({ owner: 'after' })
    })
    expect(await ownersIn(database)).toEqual(['after'])
    expect(app.snapshot().leases).toEqual([])
  })

  it('while others wait for its connection: they get the one that replaces it', async () => {
    const app = appOn(database, { max: 1 })
    const inside = new Gate<number>()
    const leave = new Gate()
    const holder = failureOf(
      app.run({ name: 'holder' }, (scope) =>
        scope.transaction(async () => {
          inside.open(await backendOf(scope))
          await leave.passed
          await scope.db.insert(accounts).values({ owner: 'holder' })
        }),
      ),
    )
    const backend = await inside.passed
    const waiting = ['ann', 'bob', 'eve'].map((owner) =>
      app.run({ name: 'waits' }, (scope) =>
        scope.transaction(() => scope.db.insert(accounts).values({ owner }).returning()),
      ),
    )
    await kill(backend)
    for (const rows of await Promise.all(waiting)) expect(rows).toHaveLength(1)
    leave.open()
    expect(await holder).toBeInstanceOf(ConnectionLostError)
    expect((await ownersIn(database)).sort()).toEqual(['ann', 'bob', 'eve'])
    expect(await backendsOf(database)).toHaveLength(1)
  })
})

describe('a backend that is killed under a cursor', () => {
  it('that is suspended, in a loop: the next step rejects, and does not look like the end of the rows', async () => {
    const app = appOn(database)
    const closed = heard('reqscope:connection:closed')
    await app.run({ name: 'report' }, async (scope) => {
      for (const waitUntilKnown of [true, false]) {
        const seen: number[] = []
        const loop = async () => {
          const rows = scope.db.$client<
            { n: number; pid: number }[]
          >`select n, pg_backend_pid() as pid from generate_series(1, 100) n`
          for await (const [row] of rows.cursor(1)) {
            seen.push(row?.n ?? 0)
            if (row?.n !== 2) continue
            const before = closed.length
            await kill(row.pid)
            if (waitUntilKnown) await vi.waitFor(() => expect(closed.length).toBe(before + 1))
          }
        }
        expect(await failureOf(loop())).toBeInstanceOf(ConnectionLostError)
        expect(seen).toEqual([1, 2])
      }
      expect(await scope.db.$count(accounts)).toBe(0)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('that is suspended, in its function: it rejects', async () => {
    const app = appOn(database)
    await app.run({ name: 'report' }, async (scope) => {
      const seen: unknown[] = []
      const work = scope.db.$client`select n, pg_backend_pid() as pid from generate_series(1, 100) n`.cursor(
        1,
        async ([row]) => {
          seen.push(row?.n)
          if (row?.n === 2) await kill(row.pid)
        },
      )
      expect(await failureOf(work)).toBeInstanceOf(ConnectionLostError)
      expect(seen).toEqual([1, 2])
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('that is broken off afterwards, or abandoned: nothing happens', async () => {
    const app = appOn(database)
    await app.run({ name: 'report' }, async (scope) => {
      const rows = () => scope.db.$client`select pg_backend_pid() as pid from generate_series(1, 100)`.cursor(1)
      for await (const [row] of rows()) {
        await kill(row?.pid)
        break
      }
      const abandoned = rows()[Symbol.asyncIterator]()
      const { value } = await abandoned.next()
      await kill(value?.[0].pid)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('while it fetches: it rejects', async () => {
    const app = appOn(database)
    await app.run({ name: 'report' }, async (scope) => {
      const work = failureOf(scope.db.$client`select pg_sleep(30)`.cursor(1, () => {}))
      await killWhileItRuns('select pg_sleep')
      expect(await work).toBeInstanceOf(ConnectionLostError)
    })
  })

  it('of a transaction: the transaction rejects and nothing of it remains', async () => {
    const app = appOn(database)
    await app.run({ name: 'report' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'before' })
          for await (const [row] of scope.db.$client`select pg_backend_pid() as pid from generate_series(1, 5)`.cursor(
            1,
          )) {
            await kill(row?.pid)
          }
        }),
      )
      expect(failure).toBeInstanceOf(ConnectionLostError)
    })
    expect(await ownersIn(database)).toEqual([])
  })
})

describe('a backend that is killed under a COPY', () => {
  it('out: the stream ends with ConnectionLostError', async () => {
    const app = appOn(database)
    await app.run({ name: 'export' }, async (scope) => {
      const text = 'copy (select n, case when n > 1000 then pg_sleep(30) end from generate_series(1, 2000) n) to stdout'
      const read = async () => {
        for await (const _chunk of await scope.db.$client.unsafe(text).readable()) {
          // until it fails
        }
      }
      const work = failureOf(read())
      await killWhileItRuns('copy')
      expect(await work).toBeInstanceOf(ConnectionLostError)
      expect(await scope.db.$count(accounts)).toBe(0)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('in, between two rows: the stream ends with ConnectionLostError, and nothing was written', async () => {
    const app = appOn(database)
    await app.run({ name: 'import' }, async (scope) => {
      const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
      stream.write('ann\n')
      const ended = failureOf(finished(stream))
      await killWhileItRuns('copy')
      expect(await ended).toBeInstanceOf(ConnectionLostError)
      expect(await scope.db.$count(accounts)).toBe(0)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('in, after the last row: whoever waits for it to finish is told', async () => {
    const app = appOn(database)
    await app.run({ name: 'import' }, async (scope) => {
      // Outside of a transaction the deferred trigger runs at the end of the COPY.
      const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
      const work = failureOf(pipeline(Readable.from(['sleep\n']), stream))
      await vi.waitFor(async () => {
        const [row] =
          await watch`select 1 from pg_stat_activity where datname = ${database.name} and wait_event = 'PgSleep'`
        expect(row).toBeDefined()
      })
      await killWhileItRuns('copy')
      expect(await work).toBeInstanceOf(ConnectionLostError)
    })
    expect(await ownersIn(database)).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })

  it.each<[string, (client: Sql) => Promise<Readable | Writable>]>([
    ['out', (client) => client`copy (select repeat('x', 999) from generate_series(1, 20000)) to stdout`.readable()],
    ['in', (client) => client`copy accounts (owner) from stdin`.writable()],
  ])(
    '%s, with nobody listening to the stream: no error goes astray, and the transaction rejects',
    async (_way, open) => {
      const app = appOn(database)
      await app.run({ name: 'leaks' }, async (scope) => {
        const failure = await failureOf(
          scope.transaction(async () => {
            const backend = await backendOf(scope)
            await open(scope.db.$client)
            await kill(backend)
          }),
        )
        expect(failure).toSatisfy(isReqscopeError)
        expect(await scope.db.$count(accounts)).toBe(0)
      })
      expect(app.snapshot().leases).toEqual([])
    },
  )
})

describe('a connection that is cut on its way', () => {
  it('during a query: it rejects, and the next one works', async () => {
    const proxy = await startChaosProxy({ target: database.url })
    onTestFinished(() => proxy.close())
    const app = appOn(proxy.url(database.url), { max: 1 })
    await app.run({ name: 'reader' }, async (scope) => {
      const query = failureOf(scope.db.execute(sql`select pg_sleep(30)`))
      await vi.waitFor(async () =>
        expect(await backendsOf(database)).toMatchObject([{ state: 'active', query: 'select pg_sleep(30)' }]),
      )
      proxy.cut()
      expect(await query).toBeInstanceOf(ConnectionLostError)
      expect(await scope.db.$count(accounts)).toBe(0)
    })
  })

  it('while idle in a transaction: what follows rejects, and nothing of it remains', async () => {
    const proxy = await startChaosProxy({ target: database.url })
    onTestFinished(() => proxy.close())
    const app = appOn(proxy.url(database.url))
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'before' })
        proxy.cut()
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
      expect(await failureOf(work)).toBeInstanceOf(ConnectionLostError)
      expect(await scope.db.$count(accounts)).toBe(0)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('before COMMIT reaches the server: the outcome is unknown to the client, and the server has rolled back', async () => {
    const proxy = await startChaosProxy({ target: database.url })
    onTestFinished(() => proxy.close())
    const app = appOn(proxy.url(database.url))
    const committed = vi.fn()
    await app.run({ name: 'order' }, async (scope) => {
      const work = failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'lost' })
          scope.afterCommit(committed)
          proxy.blackHole()
        }),
      )
      await vi.waitFor(() => expect(app.snapshot().leases).toMatchObject([{ statement: 'commit' }]))
      proxy.cut()
      const failure = await work
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect(failure).toMatchObject({ outcome: 'unknown' })
      await proxy.resume()
      expect(await scope.db.$count(accounts)).toBe(0)
    })
    expect(committed).not.toHaveBeenCalled()
  })

  it('after COMMIT has reached the server: the outcome is unknown to the client, although the server has committed', async () => {
    const wire = await wireTo(database, (text, connection) => {
      if (!text.includes('commit\0')) return
      connection.holdAnswers()
      void vi.waitFor(async () => expect(await ownersIn(database)).toEqual(['kept'])).then(() => connection.cut())
    })
    const app = appOn(wire.url)
    const committed = vi.fn()
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction({ retries: 3 }, async () => {
          await scope.db.insert(accounts).values({ owner: 'kept' })
          scope.afterCommit(committed)
        }),
      )
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect(failure).toMatchObject({ outcome: 'unknown' })
    })
    // Not run again either: it might have happened twice then.
    expect(await ownersIn(database)).toEqual(['kept'])
    expect(committed).not.toHaveBeenCalled()
  })
})

describe('a server that crashes', () => {
  it('makes everything on it reject, and serves again after its recovery, with no half-done transaction', async () => {
    const server = await startPostgres({ own: true })
    onTestFinished(() => server.stop())
    const app = appOn(server.url, { max: 3 })
    await app.run({ name: 'set-up' }, (scope) =>
      scope.db.execute(
        sql`create table accounts (id serial primary key, owner text not null, balance integer not null default 0)`,
      ),
    )
    const inside = new Gate()
    const crashed = new Gate()
    const transaction = failureOf(
      app.run({ name: 'in a transaction' }, (scope) =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'half done' })
          inside.open()
          await crashed.passed
          await scope.db.insert(accounts).values({ owner: 'late' })
        }),
      ),
    )
    await inside.passed
    const query = failureOf(app.run({ name: 'in a query' }, (scope) => scope.db.execute(sql`select pg_sleep(30)`)))
    await app.run({ name: 'committed' }, (scope) =>
      scope.transaction(() => scope.db.insert(accounts).values({ owner: 'committed' })),
    )
    server.kill('SIGKILL')
    expect(await query).toBeInstanceOf(ConnectionLostError)
    crashed.open()
    expect(await transaction).toBeInstanceOf(ConnectionLostError)
    const down = await failureOf(app.run({ name: 'meanwhile' }, (scope) => scope.db.$count(accounts)))
    expect(down).toBeInstanceOf(ConnectionLostError)
    await server.restart()
    await vi.waitFor(async () => {
      const rows = await app.run({ name: 'afterwards' }, (scope) => scope.db.select().from(accounts))
      expect(rows.map(({ owner }) => owner)).toEqual(['committed'])
    }, 5_000)
  })
})

describe('a transaction that is idle for too long', () => {
  it('is ended by the server: typed, and the message names the option', async () => {
    const app = appOn(database, { idleInTransactionTimeoutMs: 80 })
    const closed = heard('reqscope:connection:closed')
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await vi.waitFor(() => expect(closed).toHaveLength(1), 3_000)
          await scope.db.insert(accounts).values({ owner: 'bob' })
        }),
      )
      expect(failure).toBeInstanceOf(ConnectionLostError)
      expect((failure as Error).message).toMatch(/idle in a transaction.*80 ms.*idleInTransactionTimeoutMs/)
      await scope.db.insert(accounts).values({ owner: 'eve' })
    })
    expect(await ownersIn(database)).toEqual(['eve'])
  })

  it('is not blamed on an option that is switched off', async () => {
    const app = appOn(database, { idleInTransactionTimeoutMs: 0 })
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(async () => {
        await kill(await backendOf(scope))
        await scope.db.insert(accounts).values({ owner: 'bob' })
      })
      expect(((await failureOf(work)) as Error).message).not.toContain('idleInTransactionTimeoutMs')
    })
  })
})
