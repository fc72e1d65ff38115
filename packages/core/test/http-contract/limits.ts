import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { testRedis } from '@reqscope/services/testing'
import { describe, expect, it } from 'vitest'
import { Gate } from '../gate.ts'
import { CountedRedis } from '../limits/counted-redis.ts'
import { type Answer, answered } from './client.ts'
import type { ContractRoute, Exchange, HttpDriver } from './driver.ts'
import { notes } from './schema.ts'
import { type ContractDatabase, fired, Stage, type StageOptions, until } from './stage.ts'

const write = (exchange: Exchange, note: string) => exchange.scope.db.insert(notes).values({ text: note })
const problem = ({ body }: Answer) => JSON.parse(body) as Record<string, unknown>
const NOT_JSON = 'this is not JSON, so whoever parses it answers 400'

/** Who is let in, who waits, who is refused, and what each is told. */
export function describeLimits(driver: HttpDriver, database: () => ContractDatabase): void {
  const open = (routes: readonly ContractRoute[], options?: StageOptions) =>
    Stage.open(driver, database(), routes, options)
  const get = (more: Partial<ContractRoute>): ContractRoute => ({
    method: 'GET',
    path: '/',
    handle: () => ({ done: true }),
    ...more,
  })
  const post = (more: Partial<ContractRoute>) => get({ method: 'POST', ...more })
  const minute = (limit: number) => ({ limit, windowMs: 60_000 })
  const openScopes = (stage: Stage) => stage.scopes.snapshot().openScopes.total
  const statuses = async (stage: Stage, count: number, path = '/') => {
    const all: number[] = []
    for (let each = 0; each < count; each++) all.push((await stage.client.get(path)).status)
    return all
  }

  describe('of the rate', () => {
    it('tells what passes its limits, and what does not 429 and why', async () => {
      const rateLimit = [
        { ...minute(2), name: 'burst' },
        { limit: 1_000, windowMs: 86_400_000, name: 'daily' },
      ]
      const stage = await open([get({ rateLimit })])
      expect((await stage.client.get('/')).headers).toMatchObject({
        'ratelimit-policy': '"burst";q=2;w=60, "daily";q=1000;w=86400',
        ratelimit: '"burst";r=1;t=30, "daily";r=999;t=87',
      })
      await stage.client.get('/')
      const refused = await stage.client.get('/')
      expect(refused.status).toBe(429)
      expect(refused.headers).toMatchObject({
        'content-type': expect.stringMatching(/^application\/problem\+json/),
        'ratelimit-policy': '"burst";q=2;w=60, "daily";q=1000;w=86400',
        ratelimit: '"burst";r=0;t=30, "daily";r=998;t=173',
        'retry-after': '30',
      })
      expect(refused.headers['x-ratelimit-limit']).toBeUndefined()
      expect(problem(refused)).toEqual({
        type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
        title: 'Too Many Requests',
        status: 429,
        detail: expect.stringMatching(/^Rate limit exceeded: "burst" \(2 in 60000 ms\)\. Try again in \d+ ms\.$/),
        code: 'RSC_RATE_LIMIT_EXCEEDED',
        'violated-policies': ['burst'],
      })
      await stage.expectNothingLeft()
    })

    it('sends the headers of old where it is told to', async () => {
      const stage = await open([get({ rateLimit: { ...minute(3), legacyHeaders: true } })])
      expect((await stage.client.get('/')).headers).toMatchObject({
        'x-ratelimit-limit': '3',
        'x-ratelimit-remaining': '2',
        'x-ratelimit-reset': '20',
      })
    })

    it('decides on Redis in one round trip for all windows, and refuses again without any', async () => {
      const redis = new CountedRedis({ url: await testRedis() })
      const group = randomUUID()
      const rateLimit = [1, 2, 3].map((times) => ({ limit: 2 * times, windowMs: 60_000 * times, group }))
      const stage = await open([get({ rateLimit })], { redis: redis.resource })
      expect(await statuses(stage, 2)).toEqual([200, 200])
      expect(redis.calls).toBe(2)
      expect(await statuses(stage, 5)).toEqual([429, 429, 429, 429, 429])
      expect(redis.calls).toBe(3)
      await stage.expectNothingLeft()
    })

    it('refuses before the body is parsed, before the handler, and before a connection is touched', async () => {
      let runs = 0
      const handle: ContractRoute['handle'] = async (exchange) => {
        runs++
        await write(exchange, exchange.scope.id)
      }
      const stage = await open([post({ rateLimit: minute(1), transaction: true, handle })])
      expect((await stage.client.post('/')).status).toBe(200)
      const idle = await stage.backends()
      const socket = await stage.client.socket()
      const head = `POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${NOT_JSON.length}\r\n\r\n`
      socket.write(head + NOT_JSON)
      expect(String((await once(socket, 'data'))[0])).toContain('429 Too Many Requests')
      socket.destroy()
      expect(runs).toBe(1)
      expect(await stage.notes()).toHaveLength(1)
      expect((await stage.backends()).map(({ query }) => query)).toEqual(idle.map(({ query }) => query))
      await stage.expectNothingLeft()
    })

    it('keeps the connection of what it refused, whose body nobody has read', async () => {
      const stage = await open([post({ rateLimit: minute(1) }), get({ path: '/next' })])
      await stage.client.post('/')
      const socket = await stage.client.socket()
      const body = JSON.stringify({ long: 'x'.repeat(100_000) })
      const head = `POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`
      let heard = ''
      socket.on('data', (chunk) => (heard += String(chunk)))
      socket.write(`${head}${body}GET /next HTTP/1.1\r\nhost: x\r\n\r\n`)
      await until(() => heard.includes('{"done":true}'))
      expect(heard.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 429', 'HTTP/1.1 200'])
      socket.destroy()
      await stage.expectNothingLeft()
    })

    it('counts for each route, together in a group, and HEAD with GET', async () => {
      const shared = { ...minute(1), group: `letters ${randomUUID()}` }
      const stage = await open([
        get({ path: '/a', rateLimit: minute(1) }),
        get({ path: '/other', rateLimit: minute(1) }),
        get({ path: '/b', rateLimit: shared }),
        get({ path: '/c', rateLimit: shared }),
      ])
      const head = async (path: string) => (await answered(stage.client.begin('HEAD', path))).status
      expect([await head('/a'), ...(await statuses(stage, 1, '/a'))]).toEqual([200, 429])
      expect(await statuses(stage, 2, '/other')).toEqual([200, 429])
      expect([...(await statuses(stage, 1, '/b')), ...(await statuses(stage, 1, '/c'))]).toEqual([200, 429])
      await stage.expectNothingLeft()
    })

    it('answers a key that fails as the failure it is', async () => {
      const key = () => {
        throw new Error('no session store')
      }
      const stage = await open([get({ rateLimit: { ...minute(1), key } })])
      expect((await stage.client.get('/')).status).toBe(500)
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'failed' }])
    })

    it('ends the scopes of a flood of refusals, and does not make a flood of warnings of it', async () => {
      const stage = await open([get({ rateLimit: minute(1) })])
      expect((await statuses(stage, 20)).filter((status) => status === 429)).toHaveLength(19)
      await stage.expectNothingLeft()
      expect(stage.logs.filter(({ level }) => level === 'warn' || level === 'error')).toEqual([])
    })
  })

  describe('of how much at once', () => {
    it('lets so many in, so many wait, and answers the others 503 with Retry-After before their body is parsed', async () => {
      const gate = new Gate()
      let runs = 0
      const handle = async () => {
        runs++
        await gate.passed
        return { done: true }
      }
      const stage = await open([post({ concurrency: { max: 2, maxQueued: 1, maxWaitMs: 10_000 }, handle })])
      const all = [stage.client.post('/'), stage.client.post('/'), stage.client.post('/')]
      await until(() => openScopes(stage) === 3)
      const socket = await stage.client.socket()
      const head = `POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${NOT_JSON.length}\r\n\r\n`
      socket.write(head + NOT_JSON)
      expect(String((await once(socket, 'data'))[0])).toContain('503 Service Unavailable')
      socket.destroy()
      const refused = await stage.client.post('/')
      expect(refused.headers['retry-after']).toBe('1')
      expect(problem(refused)).toEqual({
        type: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
        title: 'Temporary Reduced Capacity',
        status: 503,
        detail: 'The server does not take this request at the moment. Try again later.',
        code: 'RSC_OVERLOADED',
      })
      expect(runs).toBe(2)
      gate.open()
      expect((await Promise.all(all)).map(({ status }) => status)).toEqual([200, 200, 200])
      await stage.expectNothingLeft()
      expect((await stage.client.post('/')).status).toBe(200)
    })

    it('shares the places of a group', async () => {
      const gate = new Gate()
      const concurrency = { max: 1, group: 'reports' }
      const stage = await open([
        get({ path: '/a', concurrency, handle: () => gate.passed.then(() => ({})) }),
        get({ path: '/b', concurrency }),
      ])
      const first = stage.client.get('/a')
      await until(() => openScopes(stage) === 1)
      expect(await statuses(stage, 1, '/b')).toEqual([503])
      gate.open()
      await first
      await until(() => openScopes(stage) === 0)
      expect(await statuses(stage, 1, '/b')).toEqual([200])
    })

    it('gives the place back however a request ends: by a throw, an abort, a deadline', async () => {
      const concurrency = { max: 1 }
      const untilSignalled = async ({ scope }: Exchange) => {
        await fired(scope.signal)
        throw scope.signal.reason
      }
      const stage = await open([
        get({
          path: '/throws',
          concurrency,
          handle: () => {
            throw new Error('no')
          },
        }),
        get({ path: '/late', concurrency, timeoutMs: 30, handle: untilSignalled }),
        get({ path: '/aborted', concurrency, handle: untilSignalled }),
      ])
      for (let round = 0; round < 3; round++) {
        expect(await statuses(stage, 1, '/throws')).toEqual([500])
        expect(await statuses(stage, 1, '/late')).toEqual([504])
        const outgoing = stage.client.begin('GET', '/aborted')
        await until(() => openScopes(stage) === 1)
        outgoing.destroy()
        await until(() => openScopes(stage) === 0)
      }
      await stage.expectNothingLeft()
    })

    it('does not run the handler of a client that went away while it waited', async () => {
      const gate = new Gate()
      let runs = 0
      const handle = async () => {
        runs++
        await gate.passed
        return {}
      }
      const stage = await open([get({ concurrency: { max: 1, maxQueued: 5, maxWaitMs: 10_000 }, handle })])
      const first = stage.client.get('/')
      await until(() => runs === 1)
      const outgoing = stage.client.begin('GET', '/')
      await until(() => openScopes(stage) === 2)
      outgoing.destroy()
      await until(() => openScopes(stage) === 1)
      gate.open()
      await first
      expect(await statuses(stage, 1)).toEqual([200])
      expect(runs).toBe(2)
      await stage.expectNothingLeft()
    })

    it('gives back what the rate limit took of a request that found no place', async () => {
      const gate = new Gate()
      const rateLimit = { limit: 2, windowMs: 3_600_000 }
      const handle = () => gate.passed.then(() => ({}))
      const stage = await open([get({ concurrency: { max: 1 }, rateLimit, handle })])
      const first = stage.client.get('/')
      await until(() => openScopes(stage) === 1)
      expect(await statuses(stage, 5)).toEqual([503, 503, 503, 503, 503])
      gate.open()
      await first
      await until(() => openScopes(stage) === 0)
      expect(await statuses(stage, 2)).toEqual([200, 429])
    })

    it('lets those go who wait when the application is closed', async () => {
      const [begun, finish] = [new Gate(), new Gate()]
      const handle = async () => {
        begun.open()
        await finish.passed
        return { done: true }
      }
      const concurrency = { max: 1, maxQueued: 1, maxWaitMs: 60_000 }
      const stage = await open([get({ concurrency, handle })], { closeTimeoutMs: 5_000 })
      const first = stage.client.get('/')
      await begun.passed
      const second = stage.client.get('/')
      await until(() => openScopes(stage) === 2)
      const closed = stage.app.close()
      finish.open()
      expect((await first).status).toBe(200)
      expect((await second).status).toBe(200)
      await closed
      expect(stage.scopes.snapshot()).toMatchObject({ state: 'closed', openScopes: { total: 0 } })
    })
  })
}
