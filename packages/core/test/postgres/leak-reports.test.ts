import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { sql } from 'drizzle-orm'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { tryCurrentScope } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { heard } from '../heard.ts'
import { here } from '../here.ts'
import { type App, accountsDatabase, appOn, backendOf, Gate } from './fixture.ts'
import { warmUp } from './pool-fixture.ts'

const database = await accountsDatabase()
const leakThresholdMs = 60

type Scope = Parameters<Parameters<App['run']>[1]>[0]

/** A scope that does something and then waits until it is let go. */
async function holding(app: App, name: string, hold: (scope: Scope, wait: () => Promise<void>) => Promise<unknown>) {
  const [held, gate] = [new Gate(), new Gate()]
  const done = app.run({ name }, (scope) =>
    hold(scope, async () => {
      held.open()
      await gate.passed
    }),
  )
  done.catch(held.fail)
  await held.passed
  return {
    letGo() {
      gate.open()
      return done
    },
  }
}

const inTransaction = (scope: Scope, wait: () => Promise<void>) =>
  scope.transaction(async () => {
    await backendOf(scope)
    await wait()
  })

describe('a lease that cannot yield for longer than leakThresholdMs', () => {
  it('is reported, once, with where it was taken: as an event and in the log', async () => {
    const app = appOn(database, { leakThresholdMs })
    const leaking = heard('reqscope:lease:leaking')
    const startedAt = here(2)
    const leak = await holding(app, 'leaks', (scope, wait) =>
      scope.transaction(async () => {
        await backendOf(scope)
        await wait()
      }),
    )
    await vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)
    // When the second one is reported, the first has been looked at several times more.
    const second = await holding(app, 'leaks too', inTransaction)
    await vi.waitFor(() => expect(leaking).toHaveLength(2), 5_000)
    expect(leaking.map(({ lease }) => lease.scope.name)).toEqual(['leaks', 'leaks too'])
    expect(leaking[0]?.lease).toMatchObject({
      resource: 'db',
      state: 'transaction',
      statement: 'select pg_backend_pid() as pid',
      site: expect.stringContaining(startedAt),
    })
    expect(leaking[0]?.lease.heldMs).toBeGreaterThanOrEqual(leakThresholdMs)
    expect(app.logs[0]).toMatchObject({
      level: 'warn',
      message: expect.stringContaining('is it leaking?'),
      facts: { resource: 'db', lease: { site: expect.stringContaining(startedAt) } },
    })
    await Promise.all([leak.letGo(), second.letGo()])
  })

  it('and is returned after all is reported as that', async () => {
    const app = appOn(database, { leakThresholdMs })
    const leaking = heard('reqscope:lease:leaking')
    const returned = heard('reqscope:lease:returned-late')
    const leak = await holding(app, 'late', inTransaction)
    await vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)
    expect(returned).toEqual([])
    await leak.letGo()
    expect(returned).toMatchObject([{ lease: { scope: { name: 'late' } } }])
    expect(app.logs.at(-1)).toMatchObject({ level: 'warn', message: expect.stringContaining('returned after all') })
  })

  it('is reported as returned when its transaction ends, although the scope goes on', async () => {
    const app = appOn(database, { leakThresholdMs })
    const leaking = heard('reqscope:lease:leaking')
    const returned = heard('reqscope:lease:returned-late')
    const leak = await holding(app, 'goes on', async (scope, wait) => {
      await scope.transaction(async () => {
        await backendOf(scope)
        await vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)
      })
      await wait()
    })
    expect(returned).toMatchObject([{ lease: { scope: { name: 'goes on' } } }])
    await leak.letGo()
    expect(returned).toHaveLength(1)
  })

  it('is reported again when it happens a second time', async () => {
    const app = appOn(database, { leakThresholdMs })
    const leaking = heard('reqscope:lease:leaking')
    const returned = heard('reqscope:lease:returned-late')
    await app.run({ name: 'twice' }, async (scope) => {
      for (const count of [1, 2]) {
        await scope.transaction(async () => {
          await backendOf(scope)
          await vi.waitFor(() => expect(leaking).toHaveLength(count), 5_000)
        })
      }
    })
    expect(returned).toHaveLength(2)
  })

  it.each<[string, string, (scope: Scope, wait: () => Promise<void>) => Promise<unknown>]>([
    [
      'pinned',
      'pinned',
      (scope, wait) =>
        pin(scope.db, async () => {
          await backendOf(scope)
          await wait()
        }),
    ],
    [
      'with session state',
      'session',
      async (scope, wait) => {
        await scope.db.execute(sql`set search_path to public`)
        await wait()
      },
    ],
    ['under a cursor', 'cursor', (scope, wait) => scope.db.$client`select generate_series(1, 2)`.cursor(1, wait)],
  ])('is reported also when it is %s', async (_name, state, hold) => {
    const app = appOn(database, { leakThresholdMs })
    const leaking = heard('reqscope:lease:leaking')
    const leak = await holding(app, 'leaks', hold)
    await vi.waitFor(() => expect(leaking).toMatchObject([{ lease: { state } }]), 5_000)
    await leak.letGo()
  })
})

describe('a report', () => {
  it('is made outside of every scope, by whichever scope the first connection was opened', async () => {
    const app = appOn(database, { leakThresholdMs })
    const users = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const listen = () => void seen.push(tryCurrentScope(), users.getStore())
    subscribe('reqscope:lease:leaking', listen)
    onTestFinished(() => void unsubscribe('reqscope:lease:leaking', listen))
    const leak = await users.run('somebody', () => holding(app, 'leaks', inTransaction))
    await vi.waitFor(() => expect(seen).toHaveLength(2), 5_000)
    expect(seen).toEqual([undefined, undefined])
    await leak.letGo()
  })
})

describe('a lease that could yield', () => {
  it.each<[string, (scope: Scope, wait: () => Promise<void>) => Promise<unknown>]>([
    [
      'idle',
      async (scope, wait) => {
        await backendOf(scope)
        await wait()
      },
    ],
    [
      'after a transaction that was short',
      async (scope, wait) => {
        await scope.transaction(() => backendOf(scope))
        await wait()
      },
    ],
    [
      'which runs a long statement',
      async (scope, wait) => {
        const running = Promise.resolve(scope.db.execute(sql`select pg_sleep(0.4)`))
        await wait()
        await running
      },
    ],
  ])('%s is never reported: the leak clock does not run', async (_name, hold) => {
    const app = appOn(database, { leakThresholdMs })
    await warmUp(app, 2) // an idle lease would yield if somebody had to wait for long
    const leaking = heard('reqscope:lease:leaking')
    const innocent = await holding(app, 'innocent', hold)
    // A lease that is taken later and does leak is the clock.
    const leak = await holding(app, 'leaks', inTransaction)
    await vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)
    expect(leaking[0]?.lease.scope.name).toBe('leaks')
    expect(app.snapshot().leases.map(({ scope }) => scope.name)).toContain('innocent')
    await Promise.all([innocent.letGo(), leak.letGo()])
    expect(leaking).toHaveLength(1)
  })

  it('is never reported with leakThresholdMs 0', async () => {
    const [silent, clock] = [appOn(database, { leakThresholdMs: 0 }), appOn(database, { leakThresholdMs })]
    const leaking = heard('reqscope:lease:leaking')
    const quiet = await holding(silent, 'not reported', inTransaction)
    const leak = await holding(clock, 'reported', inTransaction)
    await vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)
    expect(leaking[0]?.lease.scope.name).toBe('reported')
    await Promise.all([quiet.letGo(), leak.letGo()])
  })
})
