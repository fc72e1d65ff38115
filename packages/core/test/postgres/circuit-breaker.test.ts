import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { sql } from 'drizzle-orm'
import { expect, it, onTestFinished } from 'vitest'
import { CircuitOpenError } from '../../src/index.ts'
import { accountsDatabase, appOn, backendOf, failureOf, Gate, proxyTo } from './fixture.ts'

const database = await accountsDatabase()

function eventsOf(name: string): unknown[] {
  const events: unknown[] = []
  const keep = (event: unknown) => void events.push(event)
  subscribe(name, keep)
  onTestFinished(() => void unsubscribe(name, keep))
  return events
}

it('fails fast once the server could not be reached several times, and works by itself when it is back', async () => {
  const proxy = await proxyTo(database)
  const app = appOn(proxy.url(database.url), { circuitBreaker: { failures: 3, halfOpenAfterMs: 200 } })
  const opened = eventsOf('reqscope:circuit:opened')
  const closed = eventsOf('reqscope:circuit:closed')
  await app.run({ name: 'before' }, backendOf)
  proxy.refuse()
  proxy.cut()
  const ask = () => app.run({ name: 'during' }, backendOf)
  await expect.poll(async () => failureOf(ask())).toBeInstanceOf(CircuitOpenError)
  const since = performance.now()
  for (let count = 0; count < 50; count++) {
    const failure = (await failureOf(ask())) as CircuitOpenError
    if (failure.code !== 'RSC_CIRCUIT_OPEN') continue // the one attempt that was let through
    expect(failure).toMatchObject({ resource: 'db', statusCode: 503 })
    expect(failure.message).toContain('ECONNREFUSED')
    expect(failure.retryAfterMs).toBeLessThanOrEqual(200)
  }
  expect(performance.now() - since).toBeLessThan(1_000)
  expect(opened).toMatchObject([{ resource: 'db', kept: 0 }])
  expect(app.logs.filter(({ message }) => message.includes('the pool was reset'))).toHaveLength(1)
  await proxy.resume()
  const back = performance.now()
  await expect
    .poll(
      () =>
        ask().then(
          () => 'works',
          () => 'fails',
        ),
      { interval: 20 },
    )
    .toBe('works')
  expect(performance.now() - back).toBeLessThan(2_000)
  expect(closed).toEqual([{ resource: 'db' }])
  expect(app.snapshot().leases).toEqual([])
})

it('keeps what is alive when it opens, and throws out what is dead', async () => {
  const proxy = await proxyTo(database)
  const app = appOn(proxy.url(database.url), { max: 4, circuitBreaker: { failures: 1, halfOpenAfterMs: 50 } })
  const opened = eventsOf('reqscope:circuit:opened')
  const gate = new Gate()
  const holding = app.run({ name: 'holds' }, (scope) =>
    scope.transaction(async () => {
      await scope.db.execute(sql`select 1`)
      await gate.passed
      return backendOf(scope)
    }),
  )
  await expect.poll(() => app.snapshot().leases.length).toBe(1)
  proxy.refuse() // those that are open go on
  void app.run({ name: 'wants another' }, backendOf).catch(() => {})
  await expect.poll(() => opened).toMatchObject([{ kept: 1, discarded: 0 }])
  gate.open()
  expect(await holding).toBeGreaterThan(0)
  await proxy.resume()
})

it('never opens for what the server answers', async () => {
  const app = appOn(database, { circuitBreaker: { failures: 1 } })
  for (let count = 0; count < 5; count++) {
    await failureOf(app.run({ name: 'errs' }, (scope) => scope.db.execute(sql`select 1 / 0`)))
  }
  expect(await app.health()).toMatchObject({ resources: { db: { status: 'up', pool: { circuit: 'closed' } } } })
})

it.each([
  [{ failures: 0 }, 'postgres.circuitBreaker.failures'],
  [{ halfOpenAfterMs: '1s' }, 'postgres.circuitBreaker.halfOpenAfterMs'],
  [{ threshold: 1 }, 'postgres.circuitBreaker.threshold'],
])('refuses %o', (circuitBreaker, option) => {
  expect(() => appOn(database, { circuitBreaker: circuitBreaker as never })).toThrow(
    expect.objectContaining({ option }),
  )
})
