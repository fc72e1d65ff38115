import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import { createScopes, defineResource, type Resources, tryCurrentScope } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import { testRedis } from '@reqscope/services/testing'
import type { ErrorRequestHandler, Express, Request, RequestHandler } from 'express'
import { rateLimit as expressRateLimit } from 'express-rate-limit'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import { notes } from '../../core/test/http-contract/schema.ts'
import { memoryLogger } from '../../core/test/memory-logger.ts'
import { concurrency, health, onShutdown, rateLimit, reqscope, reqscopeErrors, transactional } from '../src/index.ts'
import { appStage, type ContractDatabase, contractDatabase, db } from './app-stage.ts'
import { frameworks, listening } from './driver.ts'

const minute = (limit: number) => ({ limit, windowMs: 60_000 })
const scopesWith = (resources: Resources = {}) => createScopes({ resources, logger: memoryLogger().logger })
const done: RequestHandler = (_request, response) => void response.json({ done: true })

async function serve(app: Express): Promise<string> {
  app.set('env', 'test')
  const server = createServer(app)
  onTestFinished(() => void server.close().closeAllConnections())
  return `http://127.0.0.1:${await listening(server)}`
}

async function statuses(count: number, url: string, init?: RequestInit): Promise<number[]> {
  const all: number[] = []
  for (let each = 0; each < count; each++) {
    const answer = await fetch(url, init)
    await answer.arrayBuffer()
    all.push(answer.status)
  }
  return all
}

const lateErrors: ErrorRequestHandler = (error, _request, response, _next) => {
  response.status(500).json({ code: error.code, message: error.message })
}

for (const { name, express } of frameworks) {
  describe(`rateLimit(), on ${name}`, () => {
    const limited = (build: (app: Express) => void, resources?: Resources) => {
      const app = express()
      app.use(reqscope({ scopes: scopesWith(resources) }))
      build(app)
      app.use(reqscopeErrors())
      return serve(app)
    }

    it('counts for itself wherever it is used, whatever the client writes of the path', async () => {
      const url = await limited((app) => {
        const songs = express.Router()
        songs.get('/:id', rateLimit(minute(2)), done)
        const plans = express.Router()
        plans.get('/:id', rateLimit(minute(1)), done)
        app.use('/songs', songs)
        app.use('/books/:book/songs', songs)
        app.use('/plans', plans)
      })
      expect(await statuses(1, `${url}/songs/1`)).toEqual([200])
      expect(await statuses(1, `${url}/SONGS/2/`)).toEqual([200])
      expect(await statuses(2, `${url}/books/7/songs/1?a=b`)).toEqual([429, 429])
      expect(await statuses(2, `${url}/plans/1`)).toEqual([200, 429])
    })

    it('counts together in every process that runs the application, and apart from its other limits', async () => {
      // Of this test only, though its Redis is everybody's.
      const user = randomUUID()
      const key = () => user
      const build = (app: Express) => {
        app.use('/api', rateLimit({ ...minute(100), key, name: 'api' }))
        const router = express.Router()
        router.get('/:id', rateLimit({ ...minute(2), key }), done)
        router.post('/:id', rateLimit({ ...minute(2), key }), done)
        const other = express.Router()
        other.get('/:id', rateLimit({ ...minute(2), key }), done)
        app.use('/api/a', router)
        app.use('/api/b', other)
      }
      const [here, there] = [
        await limited(build, { redis: redis({ url: redisUrl }) }),
        await limited(build, { redis: redis({ url: redisUrl }) }),
      ]
      expect(await statuses(1, `${here}/api/a/1`)).toEqual([200])
      expect(await statuses(1, `${there}/api/a/1`)).toEqual([200])
      expect(await statuses(1, `${here}/api/a/1`)).toEqual([429])
      expect(await statuses(2, `${there}/api/b/1`)).toEqual([200, 200])
      expect(await statuses(2, `${there}/api/a/1`, { method: 'POST' })).toEqual([200, 200])
      const answer = await fetch(`${here}/api/b/1`)
      expect(answer.status).toBe(429)
    })

    it('tells of all limits that a request has met, and gives back what the first took when the second refuses', async () => {
      const url = await limited((app) => {
        app.use(rateLimit({ ...minute(10), name: 'all' }))
        app.get('/', rateLimit({ limit: 2, windowMs: 3_600_000 }), done)
        app.get('/other', done)
      })
      const { headers } = await fetch(url)
      expect(headers.get('ratelimit-policy')).toBe('"all";q=10;w=60, "1h";q=2;w=3600')
      expect(headers.get('ratelimit')).toMatch(/^"all";r=9;t=\d+, "1h";r=1;t=\d+$/)
      expect(await statuses(20, url)).toEqual([200, ...new Array(19).fill(429)])
      const other = await fetch(`${url}/other`)
      expect(other.headers.get('ratelimit-policy')).toBe('"all";q=10;w=60')
      expect(other.headers.get('ratelimit')).toMatch(/^"all";r=[78];/)
    })

    it('is decided where it stands: behind what its key needs', async () => {
      const key = (request: Request) => request.user as unknown as string | undefined
      const url = await limited((app) => {
        app.use((request, _response, next) => {
          setTimeout(() => next(Object.assign(request, { user: request.headers.user }) && undefined))
        })
        app.get('/', rateLimit({ ...minute(1), key }), (request, response) => {
          response.json(tryCurrentScope() === (request.scope as unknown))
        })
      })
      const as = (user: string) => fetch(url, { headers: { user } })
      expect(await (await as('a')).json()).toBe(true)
      expect([(await as('a')).status, (await as('b')).status]).toEqual([429, 200])
    })

    it('counts the address that "trust proxy" lets it believe', async () => {
      for (const trusts of [true, false]) {
        const url = await limited((app) => {
          app.set('trust proxy', trusts)
          app.get('/', rateLimit(minute(1)), done)
        })
        const ask = async (client: number) =>
          (await fetch(url, { headers: { 'x-forwarded-for': `203.0.113.${client}` } })).status
        expect([await ask(1), await ask(2), await ask(2)]).toEqual(trusts ? [200, 200, 429] : [200, 429, 429])
      }
    })

    it("lets the application's own error handler answer, with the limits and Retry-After in its headers", async () => {
      const url = await limited((app) => {
        app.get('/', rateLimit(minute(1)), done)
        const own: ErrorRequestHandler = (error, request, response, _next) => {
          response.status(418).json({ code: error.code, isCurrent: tryCurrentScope() === (request.scope as unknown) })
        }
        app.use(own)
      })
      await fetch(url)
      const refused = await fetch(url)
      expect([refused.status, await refused.json()]).toEqual([
        418,
        { code: 'RSC_RATE_LIMIT_EXCEEDED', isCurrent: true },
      ])
      expect([refused.headers.get('retry-after'), refused.headers.get('ratelimit')]).toEqual(['60', '"60s";r=0;t=60'])
    })

    it('stands beside express-rate-limit', async () => {
      const url = await limited((app) => {
        app.use(expressRateLimit({ limit: 3, windowMs: 60_000, standardHeaders: false, validate: false }))
        app.get('/', rateLimit(minute(2)), done)
      })
      expect(await statuses(4, url)).toEqual([200, 200, 429, 429])
      const answer = await fetch(url)
      expect([answer.headers.get('x-ratelimit-limit'), answer.headers.get('ratelimit')]).toEqual(['3', null])
    })

    it('says so where a function of the application calls it, and takes a group for a name there', async () => {
      const hidden = rateLimit(minute(1))
      const grouped = rateLimit({ ...minute(1), group: 'ours' })
      const app = express()
      app.use(reqscope({ scopes: scopesWith() }))
      app.get('/hidden', (request, response, next) => hidden(request, response, next), done)
      app.get('/grouped', (request, response, next) => grouped(request, response, next), done)
      app.use(lateErrors)
      const url = await serve(app)
      expect(await (await fetch(`${url}/hidden`)).json()).toMatchObject({
        code: 'RSC_REGISTRATION',
        message: expect.stringContaining('rateLimit() was reached by GET /hidden, but it is not among'),
      })
      expect(await statuses(2, `${url}/grouped`)).toEqual([200, 500])
    })

    it('counts in an application that is used by another one', async () => {
      const url = await limited((app) => {
        const inner = express()
        inner.get('/', rateLimit(minute(1)), done)
        app.use('/inner', inner)
        app.get('/', rateLimit(minute(1)), done)
      })
      expect(await statuses(2, `${url}/inner`)).toEqual([200, 429])
      expect(await statuses(2, url)).toEqual([200, 429])
    })
  })

  describe(`rateLimit() and concurrency() in a transaction, on ${name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })

    it('keep nothing of what was written before a refusal, and lose no context', async () => {
      const write = (note: string): RequestHandler => {
        return (request, _response, next) => {
          db(request)
            .insert(notes)
            .values({ text: `${note} of ${request.scope.id}` })
            .then(() => next(), next)
        }
      }
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(),
          write('before'),
          rateLimit(minute(1)),
          concurrency({ max: 1 }),
          write('after'),
          done,
        )
        app.use(reqscopeErrors())
      })
      expect([(await stage.client.post('/')).status, (await stage.client.post('/')).status]).toEqual([200, 429])
      expect((await stage.notes()).map((note) => note.split(' ')[0])).toEqual(['before', 'after'])
      await stage.expectNothingLeft()
      expect(stage.endings.map(({ outcome }) => outcome)).toEqual(['completed', 'failed'])
    })
  })

  describe(`concurrency(), on ${name}`, () => {
    it('lets those in first who matter more, and gives places back at every door that was passed', async () => {
      const gate = new Gate()
      const order: string[] = []
      const scopes = scopesWith()
      const app = express()
      app.use(reqscope({ scopes }), concurrency({ max: 10 }))
      const shared = { max: 1, maxQueued: 2, maxWaitMs: 10_000, group: 'shared' }
      for (const priority of ['background', 'normal', 'critical'] as const) {
        app.get(`/${priority}`, concurrency({ ...shared, priority }), async (_request, response) => {
          order.push(priority)
          await gate.passed
          response.end()
        })
      }
      app.use(reqscopeErrors())
      const url = await serve(app)
      const asked: Promise<number[]>[] = []
      const ask = async (priority: string) => {
        asked.push(statuses(1, `${url}/${priority}`))
        await expect.poll(() => scopes.snapshot().openScopes.total).toBe(asked.length)
      }
      await ask('normal')
      await ask('background')
      await ask('normal')
      asked.push(statuses(1, `${url}/critical`)) // takes the place of who matters least
      expect(await asked[1]).toEqual([503])
      gate.open()
      expect((await Promise.all(asked)).flat()).toEqual([200, 503, 200, 200])
      expect(order).toEqual(['normal', 'critical', 'normal'])
      for (let count = 0; count < 12; count++) expect(await statuses(1, `${url}/normal`)).toEqual([200])
    })

    it('refuses a group that does not agree with itself, with the first request', async () => {
      const app = express()
      app.use(reqscope({ scopes: scopesWith() }))
      app.get('/a', concurrency({ max: 1, group: 'reports' }), done)
      app.get('/b', concurrency({ max: 2, group: 'reports' }), done)
      app.use(lateErrors)
      const url = await serve(app)
      expect(await statuses(1, `${url}/a`)).toEqual([200])
      expect(await (await fetch(`${url}/b`)).json()).toMatchObject({
        code: 'RSC_INVALID_OPTION',
        message: expect.stringContaining('concurrency.max'),
      })
    })
  })

  describe(`health(), on ${name}`, () => {
    it('is 503 as soon as the application shuts down, while liveness is not', async () => {
      const scopes = scopesWith()
      const app = express()
      app.use(health())
      app.use(reqscope({ scopes }))
      const url = await serve(app)
      const gate = new Gate()
      const working = scopes.run({ name: 'long' }, () => gate.passed)
      expect(await statuses(1, `${url}/health/ready`)).toEqual([200])
      const closing = scopes.close({ timeoutMs: 5_000 })
      const answer = await fetch(`${url}/health/ready`)
      expect([answer.status, await answer.json()]).toMatchObject([503, { status: 'down', state: 'closing' }])
      expect(await statuses(1, `${url}/health/live`)).toEqual([200])
      gate.open()
      await Promise.all([working, closing])
    })

    it('is 503 while something is down, at the path and in the router where it is said to be', async () => {
      let status: 'up' | 'down' = 'down'
      const thing = defineResource({ handle: () => ({}), health: () => ({ status, queryMs: 5 }) })
      const scopes = scopesWith({ thing })
      const app = express()
      const internal = express.Router()
      internal.use(health({ scopes, path: '/status', cacheMs: 0, details: true }))
      app.use('/internal', internal)
      app.use(reqscope({ scopes }))
      const url = await serve(app)
      expect(await statuses(1, `${url}/internal/status/ready`)).toEqual([503])
      status = 'up'
      const answer = await fetch(`${url}/internal/status/ready`)
      expect(await answer.json()).toMatchObject({ resources: { thing: { status: 'up', queryMs: 5 } } })
      expect(await statuses(1, `${url}/status/ready`)).toEqual([404])
    })

    it('wants to be told the runtime where it can not find it', async () => {
      const app = express()
      app.use(health())
      app.use(lateErrors)
      expect(await (await fetch(`${await serve(app)}/health/live`)).json()).toMatchObject({
        code: 'RSC_INVALID_OPTION',
      })
    })
  })

  describe(`the order of limits and health, on ${name}`, () => {
    it.each([
      ['rateLimit()', () => rateLimit(minute(1))],
      ['concurrency()', () => concurrency({ max: 1 })],
    ])('names %s before reqscope() at the start, else at the first request', async (what, make) => {
      const seen = express()
      seen.use(make())
      seen.use(reqscope({ scopes: scopesWith() }))
      expect(() => onShutdown(createServer(seen))).toThrow(
        `app.use(${what}) comes before app.use(reqscope({ scopes }))`,
      )

      const unseen = express()
      const router = express.Router()
      router.get('/songs', make(), done)
      unseen.use('/api', router)
      unseen.use(reqscope({ scopes: scopesWith() }))
      unseen.use(lateErrors)
      expect(await (await fetch(`${await serve(unseen)}/api/songs`)).json()).toEqual({
        code: 'RSC_REGISTRATION',
        message: `${what} was reached by GET /api/songs without a scope. Put app.use(reqscope({ scopes })) before it.`,
      })
    })

    it('names health() behind reqscope() at the start, else at the first request', async () => {
      const seen = express()
      seen.use(reqscope({ scopes: scopesWith() }), health())
      expect(() => onShutdown(createServer(seen))).toThrow(
        'app.use(health()) comes after app.use(reqscope({ scopes }))',
      )

      const unseen = express()
      const router = express.Router()
      router.use(health())
      unseen.use(reqscope({ scopes: scopesWith() }), router, lateErrors)
      expect(await (await fetch(`${await serve(unseen)}/health/live`)).json()).toMatchObject({
        code: 'RSC_REGISTRATION',
      })
    })
  })
}

const redisUrl = await testRedis()

describe('the options of limits and health', () => {
  it.each([
    [() => rateLimit({ limit: '100', windowMs: 1_000 } as never), 'rateLimit.limit'],
    [() => rateLimit({ limit: 10 } as never), 'rateLimit.windowMs'],
    [() => rateLimit({ max: 10, windowMs: 1_000 } as never), 'rateLimit.max'],
    [() => rateLimit({ ...minute(1), key: 'ip' } as never), 'rateLimit.key'],
    [() => rateLimit({ ...minute(1), stage: 'preHandler' } as never), 'rateLimit.stage'],
    [() => rateLimit([minute(1), minute(2)]), 'rateLimit[1].name'],
    [() => rateLimit([]), 'rateLimit'],
    [() => rateLimit(undefined as never), 'rateLimit'],
    [() => rateLimit(true as never), 'rateLimit'],
    [() => concurrency({ max: '20' } as never), 'concurrency.max'],
    [() => concurrency({} as never), 'concurrency.max'],
    [() => concurrency(20 as never), 'concurrency'],
    [() => concurrency({ max: 1, maxWait: 5 } as never), 'concurrency.maxWait'],
    [() => concurrency({ max: 1, priority: 'high' } as never), 'concurrency.priority'],
    [() => health({ path: 'health' }), 'health.path'],
    [() => health({ cacheMs: '1s' } as never), 'health.cacheMs'],
    [() => health({ detail: true } as never), 'health.detail'],
    [() => health({ scopes: {} } as never), 'health.scopes'],
    [() => health('/health' as never), 'health'],
  ])('are checked when they are given, and named: %#', (make, option) => {
    expect(make).toThrow(expect.objectContaining({ code: 'RSC_INVALID_OPTION', option }))
  })
})
