import { type PostgresServer, startPostgres } from '@reqscope/services'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { PoolExhaustedError } from '../../src/index.ts'
import { expectFailure, type Options, SECRET, shown, urlOf } from './connect-fixture.ts'
import { appOn, backendOf, failureOf, Gate } from './fixture.ts'

describe('on a server that requires TLS', () => {
  let server: PostgresServer
  let url: string

  beforeAll(async () => {
    server = await startPostgres({ tls: 'required' })
    url = server.url
  })
  afterAll(() => server.stop())

  it('a connection without TLS is refused, and the message says what to set', async () => {
    await expectFailure(url, {}, 'tls', /takes connections with TLS only\. Set postgres\.ssl, or sslmode=require/)
  })

  it.each<[string, string, Options]>([
    ["ssl: 'require'", '', { ssl: 'require' }],
    ["ssl: 'prefer'", '', { ssl: 'prefer' }],
    ['sslmode=require in the URL', '?sslmode=require', {}],
    ['an ssl that accepts any certificate', '', { ssl: { rejectUnauthorized: false } }],
  ])('%s encrypts without verifying', async (_name, query, options) => {
    const app = appOn(url + query, options)
    await app.run({ name: 'looks' }, async (scope) => {
      const [row] = await scope.db.$client`select ssl from pg_stat_ssl where pid = pg_backend_pid()`
      expect(row).toEqual({ ssl: true })
    })
  })

  it.each<[string, Options]>([
    ["ssl: 'verify-full'", { ssl: 'verify-full' }],
    ['ssl: true', { ssl: true }],
    ['an ssl with the CA of somebody else', { ssl: {} }],
  ])('%s refuses a certificate it does not know', async (_name, options) => {
    await expectFailure(url, options, 'tls', /certificate was not accepted.*Give ssl its ca/)
  })

  it("the server's own certificate as ca is accepted", async () => {
    const app = appOn(url, { ssl: { ca: server.certificate, checkServerIdentity: () => undefined } })
    expect(await app.run({ name: 'looks' }, backendOf)).toBeGreaterThan(0)
  })
})

describe('on a server that', () => {
  it('has no connection left, the error says so at start, and is the cause of a PoolExhaustedError later', async () => {
    const server = await startPostgres({ settings: { max_connections: '10', superuser_reserved_connections: '3' } })
    onTestFinished(() => server.stop())
    const guest = urlOf(server.url, { username: 'guest', password: SECRET })
    const first = appOn(server.url)
    await first.run({ name: 'creates the role' }, (scope) =>
      scope.db.$client.unsafe(`create role guest login password '${SECRET}'`),
    )
    const gate = new Gate()
    const greedy = appOn(guest, { max: 20, acquireTimeoutMs: 700 })
    await greedy.start()
    const holders = Array.from({ length: 6 }, () => new Gate<number>())
    const done = holders.map((holding) =>
      greedy.run({ name: 'holder' }, (scope) =>
        scope.transaction(async () => {
          holding.open(await backendOf(scope))
          await gate.passed
        }),
      ),
    )
    await Promise.all(holders.map(({ passed }) => passed))
    const error = await failureOf(greedy.run({ name: 'one too many' }, backendOf))
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect((error as Error).cause).toMatchObject({ code: 'RSC_CONNECTION_LOST', reason: 'too-many-connections' })
    expect(shown(error)).not.toContain(SECRET)
    await expectFailure(guest, {}, 'too-many-connections', /no connection left \(max_connections\): lower max/)
    gate.open()
    await Promise.all(done)
  })

  it('is shutting down, the error says that it is not ready', async () => {
    const server = await startPostgres({ own: true })
    onTestFinished(() => server.stop())
    const app = appOn(server.url)
    await app.start() // a smart shutdown waits for this connection
    server.kill('SIGTERM')
    await vi.waitFor(
      async () => expect(await failureOf(appOn(server.url).start())).toMatchObject({ reason: 'not-ready' }),
      5_000,
    )
    await expectFailure(server.url, {}, 'not-ready', /is starting up, shutting down or recovering/)
    await app.close()
  })
})
