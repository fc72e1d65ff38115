import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { accountsDatabase, appOn, backendOf, failureOf, proxyTo } from './fixture.ts'

const database = await accountsDatabase()

// The pool looks after its leases every now and then: its clock is turned by hand, the network's is not.
beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] }))
afterEach(() => void vi.useRealTimers())

it('a statement that the server never answers is lost some seconds after its own statement_timeout', async () => {
  const proxy = await proxyTo(database)
  const app = appOn(proxy.url(database.url), { max: 1, statementTimeoutMs: 1_000, connectTimeoutMs: 500 })
  await app.start()
  const scope = app.open({ id: 'r-1', kind: 'request', name: 'GET /accounts' })
  await backendOf(scope)
  proxy.blackHole()
  let settled = false
  const failure = failureOf(backendOf(scope)).finally(() => void (settled = true))
  await vi.advanceTimersByTimeAsync(5_500)
  expect(settled).toBe(false)
  await vi.advanceTimersByTimeAsync(1_000)
  const error = await failure
  expect(error).toMatchObject({ code: 'RSC_CONNECTION_LOST', reason: 'lost' })
  expect((error as Error).message).toMatch(/no answer came within \d+ ms, past the statement timeout/)
  await proxy.resume()
  // Its connection is replaced, for this scope too.
  expect(await backendOf(scope)).toBeGreaterThan(0)
  await scope.end({ tag: 'completed' })
})

it('a statement that takes long is left alone without a statement_timeout', async () => {
  const app = appOn(database, { max: 1, statementTimeoutMs: 0 })
  await app.run({ name: 'slow' }, async (scope) => {
    const slow = scope.db.$client`select pg_sleep(0.1), 1 as one`.execute()
    await vi.advanceTimersByTimeAsync(3_600_000)
    expect(await slow).toMatchObject([{ one: 1 }])
  })
})
