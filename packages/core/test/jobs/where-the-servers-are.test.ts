import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createScopes, InvalidOptionError } from '../../src/index.ts'
import { type BullmqOptions, bullmq, defineJob } from '../../src/jobs/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { redis } from '../../src/redis/index.ts'
import { memoryLogger } from '../memory-logger.ts'
import { failureOf, Gate, jobApp, ordersDatabase } from './fixture.ts'

const database = await ordersDatabase()
const prefix = `where-${process.pid}`

describe('on Redis', () => {
  const appOf = (resources: Record<string, ReturnType<typeof redis>>, options?: BullmqOptions) => {
    const app = createScopes({ resources, jobs: bullmq(options), logger: memoryLogger().logger })
    onTestFinished(() => app.close())
    return app
  }

  it('they are where the runtime’s redis(…) is, over connections of their own and with a prefix of their own', async () => {
    const connection = { keyPrefix: 'app:' }
    const app = appOf({ cache: redis({ url: await testRedis(), connection }) }, { prefix })
    const seen = new Gate<number>()
    const job = defineJob<{ n: number }>()({ name: 'here', queue: 'here', run: ({ data }) => seen.open(data.n) })
    await app.start()
    await app.work([job])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 3 }))
    expect(await seen.passed).toBe(3)
    const outside = new Redis(await testRedis())
    onTestFinished(() => outside.disconnect())
    expect(await outside.exists(`${prefix}:here:meta`)).toBe(1)
  })

  it('no options at all are enough', async () => {
    const app = appOf({ cache: redis({ url: await testRedis() }) })
    await app.start()
    expect(await app.health()).toMatchObject({ jobs: { status: 'up', transport: 'redis' } })
  })

  it('they must be named where there is no redis(…), or more than one', async () => {
    const url = await testRedis()
    expect(() => appOf({})).toThrow(InvalidOptionError)
    expect(() => appOf({})).toThrow(/bullmq\.url.*there are 0/)
    expect(() => appOf({ one: redis({ url }), two: redis({ url }) })).toThrow(/bullmq\.url.*there are 2/)
  })

  it('two places are refused', () => {
    expect(() => bullmq({ url: 'redis://user:hush@localhost', connection: {} })).toThrow(/bullmq\.url/)
    expect(() => bullmq({ url: 'redis://user:hush@localhost', connection: {} })).not.toThrow(/hush/)
  })
})

describe('on Postgres', () => {
  const works = async (url: string, more: object = {}) => {
    const app = await jobApp({ url }, { transport: 'postgres', db: more })
    const seen = new Gate<string>()
    const job = defineJob<{ n: number }>()({ name: 'there', queue: 'there', run: ({ id }) => seen.open(id) })
    await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 3 }))
    expect(await seen.passed).toBe(id)
  }
  const { username, password, host, hostname, port, pathname } = new URL(database.url)
  const start = `postgres://${username}:${password}@`

  it('they are at the first of several hosts that can be reached', async () => {
    await works(`${start}127.0.0.1:1,${host}${pathname}`)
  })

  it('they may be behind a unix socket, with a port of its own', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'reqscope-'))
    const sockets = new Set<net.Socket>()
    const server = net.createServer((socket) => {
      const upstream = net.connect(Number(port), hostname)
      for (const each of [socket, upstream]) sockets.add(each.on('error', () => {}))
      socket.pipe(upstream).pipe(socket)
    })
    server.listen(join(folder, '.s.PGSQL.5433'))
    await once(server, 'listening')
    onTestFinished(async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await rm(folder, { recursive: true })
    })
    await works(`${start}${pathname}?host=${folder}&port=5433`.replace('@/', '@localhost/'))
  })

  it('they take TLS where the server has it, and none where it has not', async () => {
    await works(database.url, { ssl: 'prefer' })
  })

  it('they ask a function for the password each time', async () => {
    let asked = 0
    const ask = () => {
      asked++
      return decodeURIComponent(password)
    }
    await works(`postgres://${username}@${host}${pathname}`, { password: ask })
    expect(asked).toBeGreaterThan(2)
  })

  it('are named when they can not be reached, without the password', async () => {
    const app = createScopes({
      resources: { db: postgres({ url: database.url }) },
      jobs: bullmq({ transport: 'postgres', connection: { host: '127.0.0.1', port: 1, password: 'hush' } }),
      logger: memoryLogger().logger,
    })
    onTestFinished(() => app.close())
    const failure = await failureOf(app.start())
    expect(failure).toMatchObject({ code: 'RSC_CONNECTION_LOST', resource: 'jobs' })
    expect(String(failure)).toContain('127.0.0.1:1')
    expect(JSON.stringify(failure)).not.toContain('hush')
  })
})
