import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { startPostgres } from '@reqscope/services'
import { sql } from 'drizzle-orm'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { DeadlineExceededError, ScopeAbortedError } from '../../src/index.ts'
import { heard } from '../heard.ts'
import {
  type App,
  accounts,
  accountsDatabase,
  appOn,
  backendOf,
  backendsOf,
  failureOf,
  Gate,
  proxyTo,
} from './fixture.ts'

const database = await accountsDatabase()

type Scope = ReturnType<App['open']>

const request = { id: 'r-1', kind: 'request', name: 'GET /report' } as const
const sleep = (scope: Scope, seconds = 600) => scope.db.execute(sql`select pg_sleep(${seconds}::float8)`)

/** The backends that run `pg_sleep`, seen from outside. */
async function sleepers(): Promise<number[]> {
  const backends = await backendsOf(database)
  return backends.filter(({ state, query }) => state === 'active' && query.includes('pg_sleep')).map(({ pid }) => pid)
}

describe('a statement is cancelled on the server when', () => {
  it('the deadline of its scope passes, and its connection serves the next scope', async () => {
    const app = appOn(database, { max: 1 })
    let backend = 0
    const running = app.run({ name: 'slow', timeoutMs: 400 }, async (scope) => {
      backend = await backendOf(scope)
      await sleep(scope)
    })
    const failure = failureOf(running)
    await expect.poll(sleepers).toHaveLength(1)
    expect(await failure).toBeInstanceOf(DeadlineExceededError)
    expect(await sleepers()).toEqual([])
    // The connection is as good as before: only what it ran was cancelled.
    expect(await app.run({ name: 'next' }, backendOf)).toBe(backend)
  })

  it('its client goes away and onAbort is cancel', async () => {
    const app = appOn(database)
    const scope = app.open({ ...request, onAbort: 'cancel' })
    const failure = failureOf(sleep(scope))
    await expect.poll(sleepers).toHaveLength(1)
    scope.clientGone()
    const error = await failure
    expect(error).toBeInstanceOf(ScopeAbortedError)
    expect(error).toMatchObject({ statusCode: 499, reason: 'client', cause: { code: '57014' } })
    await scope.end({ tag: 'aborted', error })
    expect(await sleepers()).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })

  it('the signal that was given to run fires', async () => {
    const app = appOn(database)
    const controller = new AbortController()
    const failure = failureOf(app.run({ name: 'nightly', signal: controller.signal }, (scope) => sleep(scope)))
    await expect.poll(sleepers).toHaveLength(1)
    controller.abort()
    expect(await failure).toBeInstanceOf(ScopeAbortedError)
    expect(await sleepers()).toEqual([])
  })

  it('the application shuts down and its scope does not listen', async () => {
    const app = appOn(database)
    const failure = failureOf(app.run({ name: 'nightly' }, (scope) => sleep(scope)))
    await expect.poll(sleepers).toHaveLength(1)
    await app.close({ timeoutMs: 300 })
    expect(await failure).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'shutdown' })
    expect(await sleepers()).toEqual([])
  })

  it('it is one of many that its scope runs at the same time: all of them are', async () => {
    const app = appOn(database, { max: 3 })
    const running = app.run({ name: 'parallel', timeoutMs: 400 }, (scope) =>
      Promise.all([
        ...[1, 2, 3].map(() => failureOf(sleep(scope))),
        ...[1, 2].map(() => failureOf(scope.transaction(() => sleep(scope)))),
      ]),
    )
    await expect.poll(sleepers).toHaveLength(3)
    for (const failure of await running) expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await sleepers()).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })

  it('it runs in a transaction, which is rolled back', async () => {
    const app = appOn(database)
    const running = app.run({ name: 'slow', timeoutMs: 400 }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'not to be' })
        await sleep(scope)
      }),
    )
    expect(await failureOf(running)).toBeInstanceOf(DeadlineExceededError)
    expect(await database.watch`select from accounts where owner = 'not to be'`).toHaveLength(0)
    expect((await backendsOf(database)).map(({ state }) => state)).not.toContain('idle in transaction')
  })
})

describe('a statement is not cancelled when', () => {
  it('its client goes away and onAbort is finish: a client that hangs up must not stop the insert', async () => {
    const app = appOn(database)
    const scope = app.open({ ...request, onAbort: 'finish' })
    const inserting = scope.db.execute(sql`insert into accounts (owner) select 'charged' from pg_sleep(0.2)`).execute()
    await expect.poll(sleepers).toHaveLength(1)
    scope.clientGone()
    await inserting
    await scope.end({ tag: 'completed' })
    expect(await database.watch`select from accounts where owner = 'charged'`).toHaveLength(1)
  })

  it('it belongs to another scope, on the connection that a cancelled one had just before', async () => {
    const app = appOn(database, { max: 1 })
    for (let round = 0; round < 20; round++) {
      const scope = app.open({ ...request, onAbort: 'cancel' })
      const failure = failureOf(sleep(scope))
      await expect.poll(sleepers, { interval: 5 }).toHaveLength(1)
      scope.clientGone()
      const next = app.run({ name: 'next' }, (other) => sleep(other, 0.01))
      expect(await failure).toBeInstanceOf(ScopeAbortedError)
      await scope.end({ tag: 'completed' })
      await next
    }
  })

  it('it belongs to another scope: hundreds are cancelled at random moments, and no foreign statement is hit', async () => {
    const app = appOn(database, { max: 4, acquireTimeoutMs: 20_000 })
    const outcomes = { cancelled: 0, finished: 0 }
    let going = true
    const bystanders = Array.from({ length: 6 }, async () => {
      let served = 0
      while (going) {
        await app.run({ name: 'bystander' }, async (scope) => {
          await scope.db.$client`select ${served}::int as nr`
          await scope.transaction(async () => {
            await scope.db.$client`select 1 as one`
            await scope.db.$client`select pg_sleep(0.001)`
          })
        })
        served++
      }
      return served
    })
    const random = seeded(42)
    const victims = Array.from({ length: 8 }, async (_each, nr) => {
      for (let round = 0; round < 100; round++) {
        const controller = new AbortController()
        const abort = async () => {
          const ms = Math.floor(random() * 8)
          if (ms > 0) await delay(ms)
          controller.abort()
        }
        const running = app.run({ name: `victim ${nr}`, signal: controller.signal }, async (scope) => {
          for (let statement = 0; statement < 3; statement++) {
            if (random() < 0.3) await scope.transaction(() => sleep(scope, 0.003))
            else await sleep(scope, 0.003)
          }
        })
        const [result] = await Promise.allSettled([running, abort()])
        if (result.status === 'fulfilled') outcomes.finished++
        else {
          expect(result.reason).toBeInstanceOf(ScopeAbortedError)
          outcomes.cancelled++
        }
      }
    })
    await Promise.all(victims)
    going = false
    for (const served of await Promise.all(bystanders)) expect(served).toBeGreaterThan(0)
    expect(outcomes.cancelled).toBeGreaterThan(100)
    expect(app.snapshot().leases).toEqual([])
    expect(app.logs).toEqual([])
    expect((await backendsOf(database)).map(({ state }) => state)).toEqual(
      expect.not.arrayContaining(['idle in transaction', 'active']),
    )
  })

  it('the server ends it by its own statement_timeout: that is the server’s error, and not one of ours', async () => {
    const app = appOn(database, { statementTimeoutMs: 100 })
    await app.run({ name: 'slow' }, async (scope) => {
      const raw = await failureOf(scope.db.$client`select pg_sleep(600)`)
      expect(raw).toMatchObject({
        name: 'PostgresError',
        code: '57014',
        message: expect.stringContaining('statement timeout'),
      })
      const throughDrizzle = await failureOf(sleep(scope))
      expect(throughDrizzle).toMatchObject({ name: 'Error', cause: { name: 'PostgresError', code: '57014' } })
      expect(await backendOf(scope)).toBeGreaterThan(0)
    })
    expect(app.logs).toEqual([])
  })
})

describe('the cancel() of a single query', () => {
  const nap = (scope: Scope, seconds: number) => scope.db.$client`select pg_sleep(${seconds})`.execute()

  it('cancels that one, and not the one before it on the same connection', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'picks' }, async (scope) => {
      const before = nap(scope, 0.1)
      const chosen = nap(scope, 600)
      const cancelled = failureOf(chosen)
      chosen.cancel()
      expect(await before).toHaveLength(1)
      expect(await cancelled).toMatchObject({ name: 'PostgresError', code: '57014' })
      expect(await backendOf(scope)).toBeGreaterThan(0)
    })
  })

  it('lets it run where one waits behind it on the same connection, which could be hit instead', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'picks' }, async (scope) => {
      const chosen = nap(scope, 0.2)
      const behind = nap(scope, 0.01)
      chosen.cancel()
      expect(await Promise.all([chosen, behind])).toHaveLength(2)
    })
  })

  it('before it was sent keeps it from being sent', async () => {
    const app = appOn(database, { max: 1 })
    const held = new Gate()
    const release = new Gate()
    const holder = app.run({ name: 'holder' }, (scope) =>
      scope.transaction(async () => {
        await backendOf(scope)
        held.open()
        await release.passed
      }),
    )
    await held.passed
    const picks = app.run({ name: 'picks' }, async (scope) => {
      const chosen = scope.db.$client`insert into accounts (owner) values ('cancelled')`.execute()
      const cancelled = failureOf(chosen)
      chosen.cancel()
      release.open()
      expect(await cancelled).toMatchObject({ code: '57014' })
    })
    await Promise.all([holder, picks])
    expect(await database.watch`select from accounts where owner = 'cancelled'`).toHaveLength(0)
    expect(app.snapshot().leases).toEqual([])
  })
})

describe('the cancel request', () => {
  it('goes over TLS to a server that requires it, with nothing in the clear', async () => {
    const server = await startPostgres({ tls: 'required' })
    onTestFinished(() => server.stop())
    const firstMessages: number[] = []
    const tap = await relay(server.url, (socket) =>
      socket.once('data', (data) => void firstMessages.push(data.readInt32BE(4))),
    )
    const app = appOn(tap.url, { ssl: 'require' })
    const failure = await failureOf(app.run({ name: 'slow', timeoutMs: 500 }, (scope) => sleep(scope)))
    expect(failure).toMatchObject({ code: 'RSC_DEADLINE_EXCEEDED', cause: { code: '57014' } })
    const SSL_REQUEST = 80877103
    expect(firstMessages.length).toBeGreaterThanOrEqual(2)
    expect(new Set(firstMessages)).toEqual(new Set([SSL_REQUEST]))
  })

  it('goes to the server that runs the statement, where the URL names several', async () => {
    const accepted: string[] = []
    const first = await relay(database.url, () => accepted.push('first'))
    const second = await relay(database.url, () => accepted.push('second'))
    await first.stop()
    const hosts = `127.0.0.1:${new URL(first.url).port},127.0.0.1:${new URL(second.url).port}`
    const app = appOn(database.url.replace(new URL(database.url).host, hosts))
    await app.start()
    await first.resume() // the one that was down when the connection was opened is back
    const failure = await failureOf(app.run({ name: 'slow', timeoutMs: 300 }, (scope) => sleep(scope)))
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await sleepers()).toEqual([])
    expect(new Set(accepted)).toEqual(new Set(['second']))
  })

  it('that gets no answer costs the connection, and keeps nobody waiting', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { max: 1, connectTimeoutMs: 200 })
    const closed = heard('reqscope:connection:closed')
    const running = app.run({ name: 'slow', timeoutMs: 300 }, (scope) => sleep(scope))
    const failure = failureOf(running)
    await expect.poll(sleepers).toHaveLength(1)
    proxy.blackHole()
    const startedAt = performance.now()
    expect(await failure).toBeInstanceOf(DeadlineExceededError)
    expect(performance.now() - startedAt).toBeLessThan(2_000)
    expect(closed).toMatchObject([{ reason: expect.stringContaining('could not be cancelled') }])
    expect(app.snapshot().leases).toEqual([])
    await proxy.resume()
    expect(await app.run({ name: 'next' }, backendOf)).toBeGreaterThan(0)
    for (const pid of await sleepers()) await database.watch`select pg_terminate_backend(${pid})`
  })

  it('that arrives before its statement is repeated, so that the statement does not run on', async () => {
    // The statement is on its way for longer than the cancel request takes.
    let slow = false
    const lines: Socket[] = []
    const tap = await relay(
      database.url,
      (client) => void lines.push(client),
      async (data, client) => {
        if (slow && client === lines[0]) await delay(60)
        return data
      },
    )
    const app = appOn(tap.url, { max: 1 })
    const backend = await app.run({ name: 'warms up' }, backendOf)
    slow = true
    const scope = app.open({ ...request, onAbort: 'cancel' })
    const failure = failureOf(scope.db.$client`select pg_sleep(600)`)
    await delay(0) // the statement has left, and has not arrived
    scope.clientGone()
    expect(await failure).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    await scope.end({ tag: 'completed' })
    expect(await sleepers()).toEqual([])
    slow = false
    expect(await app.run({ name: 'next' }, backendOf)).toBe(backend)
  })
})

describe('who is cancelled', () => {
  it('is refused whatever it asks for afterwards, with the same reason, and sends nothing more', async () => {
    const app = appOn(database)
    const gate = new Gate()
    const controller = new AbortController()
    const failures: unknown[] = []
    const running = app.run({ name: 'goes on', signal: controller.signal }, async (scope) => {
      await backendOf(scope)
      await gate.passed
      failures.push(await failureOf(scope.db.insert(accounts).values({ owner: 'too late' })))
      failures.push(await failureOf(scope.transaction(() => scope.db.insert(accounts).values({ owner: 'too late' }))))
      failures.push(await failureOf(scope.db.$client`insert into accounts (owner) values ('too late')`))
    })
    await vi.waitFor(() => expect(app.snapshot().leases).toHaveLength(1))
    controller.abort()
    gate.open()
    await running
    expect(failures).toHaveLength(3)
    for (const failure of failures) expect(failure).toBe(failures[0])
    expect(failures[0]).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    expect(await database.watch`select from accounts where owner = 'too late'`).toHaveLength(0)
  })
})

/** A relay to the database's server that shows each connection, and may hold back what the client sends. */
async function relay(
  url: string,
  seen: (client: Socket) => unknown,
  hold: (data: Buffer, client: Socket) => Promise<Buffer> = async (data) => data,
) {
  const { hostname, port } = new URL(url)
  const server = net.createServer((client) => {
    seen(client)
    const upstream = net.connect(Number(port), hostname)
    let order = Promise.resolve()
    client
      .on('error', () => {})
      .on('data', (data) => {
        order = order.then(async () => void upstream.write(await hold(data, client)))
      })
    client.on('close', () => void order.then(() => upstream.end()))
    upstream.on('error', () => {}).pipe(client)
  })
  const listen = async (at: number) => {
    server.listen(at, '127.0.0.1')
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }
  const at = await listen(0)
  onTestFinished(() => void server.close())
  return {
    url: Object.assign(new URL(url), { port: String(at) }).href,
    stop: () => new Promise((resolve) => server.close(resolve)),
    resume: () => listen(at),
  }
}

/** Random numbers that are the same in every run (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
