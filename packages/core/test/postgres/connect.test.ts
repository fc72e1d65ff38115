import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import type { ChaosProxy } from '@reqscope/services/chaos-proxy'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { ConnectionLostError, tryCurrentScope } from '../../src/index.ts'
import { expectFailure, SECRET, urlOf } from './connect-fixture.ts'
import { accountsDatabase, appOn, backendOf, Gate, proxyTo } from './fixture.ts'

const database = await accountsDatabase()
const role = `shop_${database.name}`
const clerk = urlOf(database.url, { username: role, password: SECRET })

beforeAll(() => database.watch.unsafe(`create role ${role} login password '${SECRET}'`))
afterAll(() => database.watch.unsafe(`drop role ${role}`))

describe('no connection can be opened, and the error says why, at start and later, when', () => {
  it('the server is down', async () => {
    const proxy = await proxyTo(database)
    proxy.refuse()
    await expectFailure(
      proxy.url(clerk),
      {},
      'unreachable',
      /127\.0\.0\.1:\d+ \(db\).*ECONNREFUSED.*Is the server running/,
    )
  })

  it('its host does not exist', async () => {
    const url = urlOf(clerk, { hostname: 'no-such-host.invalid' })
    await expectFailure(
      url,
      { connectTimeoutMs: 5_000 },
      'unreachable',
      /no-such-host\.invalid:\d+ .*(ENOTFOUND|EAI_AGAIN)/,
    )
  })

  it('there is no such database', async () => {
    await expectFailure(urlOf(clerk, { pathname: '/atlantis' }), {}, 'no-such-database', /no database 'atlantis'/)
  })

  it('the password is wrong', async () => {
    const url = urlOf(database.url, { username: role, password: `${SECRET}-not` })
    await expectFailure(url, {}, 'authentication', new RegExp(`refused the password or the user '${role}'`))
  })

  it('the password option is wrong, whatever the URL says', async () => {
    await expectFailure(clerk, { password: `${SECRET}-not` }, 'authentication', /refused the password/)
  })

  it('there is no such user', async () => {
    await expectFailure(urlOf(clerk, { username: 'nobody_at_all' }), {}, 'authentication', /'nobody_at_all'/)
  })

  it('a setting is not one of the server’s', async () => {
    await expectFailure(clerk, { settings: { serach_path: 'shop' } }, 'unreachable', /refused a setting.*serach_path/)
  })

  it('the server does not answer', async () => {
    const proxy = await proxyTo(database)
    proxy.blackHole()
    await expectFailure(
      proxy.url(clerk),
      { connectTimeoutMs: 100 },
      'timeout',
      /did not answer within the connect timeout/,
    )
  })

  it('the server does not answer, and TLS is asked for', async () => {
    const proxy = await proxyTo(database)
    proxy.blackHole()
    await expectFailure(proxy.url(clerk), { connectTimeoutMs: 100, ssl: 'require' }, 'timeout', /did not answer/)
  })

  it('the server has no TLS, and TLS is asked for', async () => {
    await expectFailure(clerk, { ssl: 'require' }, 'tls', /has no TLS, and postgres\.ssl asks for it/)
    await expectFailure(`${clerk}?sslmode=require`, {}, 'tls', /has no TLS/)
  })

  it('the server accepts and closes at once: that does not make us loop', async () => {
    let accepted = 0
    const server = net.createServer((socket) => {
      accepted++
      socket.destroy()
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    await expectFailure(
      urlOf(clerk, { port: String(port) }),
      {},
      'unreachable',
      /the server closed the connection|ECONNRESET|EPIPE/,
    )
    // Once for start, once for the statement, and health looks again.
    expect(accepted).toBe(3)
  })

  it('the server is no Postgres', async () => {
    const server = net.createServer(
      (socket) => void socket.on('error', () => {}).end('HTTP/1.1 400 Bad Request\r\n\r\n'),
    )
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    await expectFailure(urlOf(clerk, { port: String(port) }), {}, 'unreachable', /could not be opened/)
  })
})

describe('a connection', () => {
  it('that is lost at whatever moment while it is opened is an error for who waits, and crashes nothing', async () => {
    const { port, hostname } = new URL(database.url)
    // Cuts the line once so many bytes have come from the server.
    let cutAfter = 0
    const server = net.createServer((client) => {
      const upstream = net.connect(Number(port), hostname)
      let passed = 0
      client.on('error', () => {}).pipe(upstream.on('error', () => {}))
      upstream.on('data', (data) => {
        const rest = data.subarray(0, Math.max(0, cutAfter - passed))
        passed += data.length
        if (passed < cutAfter) return client.write(data)
        return client.write(rest, () => {
          client.resetAndDestroy()
          upstream.destroy()
        })
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const url = urlOf(clerk, { port: String((server.address() as AddressInfo).port) })
    let opened = false
    let tried = 0
    for (cutAfter = 1; !opened; cutAfter = Math.ceil(cutAfter * 1.15)) {
      const app = appOn(url, { connectTimeoutMs: 2_000 })
      tried++
      const error = await app.start().then(
        () => undefined,
        (failure: unknown) => failure,
      )
      opened = error === undefined
      if (!opened) expect(error).toBeInstanceOf(ConnectionLostError)
      await app.close({ timeoutMs: 500 })
    }
    expect(tried).toBeGreaterThan(20)
  })

  it('is opened outside of every scope, whoever needs it: the password function sees nobody’s context', async () => {
    const users = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const app = appOn(clerk, {
      max: 2,
      password() {
        seen.push(tryCurrentScope(), users.getStore())
        return SECRET
      },
    })
    const holding = new Gate()
    const release = new Gate()
    await app.start()
    const holder = app.run({ name: 'holder' }, (scope) =>
      scope.transaction(async () => {
        await backendOf(scope)
        holding.open()
        await release.passed
      }),
    )
    await holding.passed
    await users.run('a user’s store', () => app.run({ name: 'opens the second' }, backendOf))
    release.open()
    await holder
    expect(seen).toEqual([undefined, undefined, undefined, undefined])
  })

  it('reads values in nobody’s context: not in that of whoever made it necessary to open it', async () => {
    const users = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const point = {
      to: 600,
      from: [600],
      serialize: String,
      parse(text: string) {
        seen.push(tryCurrentScope(), users.getStore())
        return text
      },
    }
    const app = appOn(clerk, { max: 1, types: { point } })
    for (const user of ['the first', 'the second']) {
      await users.run(user, () => app.run({ name: user }, (scope) => scope.db.$client`select '(1,2)'::point as p`))
    }
    expect(seen).toEqual([undefined, undefined, undefined, undefined])
  })

  it('shows its password to nobody who prints what has to do with it', async () => {
    for (const options of [{}, { password: SECRET }]) {
      const app = appOn(clerk, options)
      await app.run({ name: 'prints' }, async (scope) => {
        await backendOf(scope)
        for (const value of [app, app.resources, app.snapshot(), scope, scope.db, scope.db.$client, scope.db.select]) {
          expect(inspect(value, { depth: Number.POSITIVE_INFINITY })).not.toContain(SECRET)
        }
      })
    }
  })

  it('shows its applicationName and has its settings', async () => {
    const app = appOn(clerk, { applicationName: 'till-7', settings: { search_path: 'till, public', work_mem: '8MB' } })
    await app.run({ name: 'looks' }, async (scope) => {
      const [row] = await scope.db.$client`
        select current_setting('application_name') as name, current_setting('search_path') as path,
               current_setting('work_mem') as mem, current_setting('statement_timeout') as statement,
               current_setting('idle_in_transaction_session_timeout') as idle`
      expect(row).toEqual({ name: 'till-7', path: 'till, public', mem: '8MB', statement: '1min', idle: '30s' })
    })
  })

  it('with timeouts of 0 is told of none: the server’s own hold', async () => {
    const app = appOn(clerk, { statementTimeoutMs: 0, idleInTransactionTimeoutMs: 0 })
    await app.run({ name: 'looks' }, async (scope) => {
      const [row] = await scope.db.$client`
        select source from pg_settings where name = 'statement_timeout' and source <> 'client'`
      expect(row).toMatchObject({ source: 'default' })
    })
  })

  it.each<[string, (proxy: ChaosProxy) => void]>([
    ['is down', (proxy) => proxy.refuse()],
    ['does not answer', (proxy) => proxy.blackHole()],
  ])('goes to the next host when the first %s', async (_name, fails) => {
    const [first, second] = [await proxyTo(database), await proxyTo(database)]
    const url = clerk.replace(new URL(clerk).host, `127.0.0.1:${first.port},127.0.0.1:${second.port}`)
    fails(first)
    const app = appOn(url, { connectTimeoutMs: 800, ssl: 'prefer' })
    expect(await app.run({ name: 'anywhere' }, backendOf)).toBeGreaterThan(0)
    expect(second.connections).toBe(1)
  })
})

describe("ssl: 'prefer'", () => {
  it('takes a connection without TLS where the server has none', async () => {
    expect(
      await appOn(clerk, { ssl: 'prefer', connectTimeoutMs: 1_000 }).run({ name: 'looks' }, backendOf),
    ).toBeGreaterThan(0)
  })
})
