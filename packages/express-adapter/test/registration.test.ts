import { createServer } from 'node:http'
import { createScopes, defineResource, InvalidOptionError, isReqscopeError, PoolExhaustedError } from '@reqscope/core'
import type { ErrorRequestHandler, Express } from 'express'
import { describe, expect, it, onTestFinished } from 'vitest'
import { memoryLogger } from '../../core/test/memory-logger.ts'
import { onShutdown, reqscope, reqscopeErrors, scopeOptions, transactional } from '../src/index.ts'
import { frameworks, listening } from './driver.ts'

function thingScopes(start: () => void = () => {}) {
  const released: string[] = []
  const { logger, logs } = memoryLogger()
  const thing = defineResource({
    start,
    handle: (scope) => ({ owner: scope.id }),
    release: (_thing, outcome) => void released.push(outcome.tag),
  })
  return { scopes: createScopes({ resources: { thing }, logger }), released, logs }
}

async function serve(app: Express): Promise<string> {
  app.set('env', 'test')
  const server = createServer(app)
  onTestFinished(() => void server.close().closeAllConnections())
  return `http://127.0.0.1:${await listening(server)}`
}

async function codeAndDetail(url: string, init?: RequestInit): Promise<[number, string]> {
  const answer = await fetch(url, init)
  return [answer.status, ((await answer.json()) as { code: string }).code]
}

for (const { name, express } of frameworks) {
  describe(`the order of things, on ${name}`, () => {
    const lateErrors: ErrorRequestHandler = (error, _request, response, _next) => {
      response.status(500).json({ code: error.code, message: error.message })
    }

    it.each([
      ['transactional(handler)', () => transactional(() => {})],
      ['transactional()', () => transactional()],
      ['scopeOptions()', () => scopeOptions({ timeoutMs: 1_000 })],
    ])('names %s where there is no scope', async (what, make) => {
      const app = express()
      app.get('/orders', make())
      app.use(lateErrors)
      const answer = await fetch(`${await serve(app)}/orders`)
      expect(await answer.json()).toEqual({
        code: 'RSC_REGISTRATION',
        message: `${what} was reached by GET /orders without a scope. Put app.use(reqscope({ scopes })) before it.`,
      })
    })

    it('names what is used before reqscope() at the start, and at the first request', async () => {
      const app = express()
      app.use('/unseen', transactional())
      app.use(reqscope({ scopes: thingScopes().scopes }))
      app.use(lateErrors)
      expect(() => onShutdown(createServer(app))).toThrow(
        'app.use(transactional()) comes before app.use(reqscope({ scopes }))',
      )
      expect(await codeAndDetail(await serve(app))).toEqual([500, 'RSC_REGISTRATION'])
    })

    it('names the routes behind reqscopeErrors() at the start, and at the first request', async () => {
      const app = express()
      app.use(reqscope({ scopes: thingScopes().scopes }))
      app.get('/songs', (_request, response) => void response.end())
      app.use(reqscopeErrors())
      app.get('/late', (_request, response) => void response.end())
      const router = express.Router()
      router.get('/later', (_request, response) => void response.end())
      app.use('/plans', router)
      app.use(lateErrors)
      expect(() => onShutdown(createServer(app))).toThrow('app.use(reqscopeErrors()) comes before /late, /later, so')
      expect(await codeAndDetail(`${await serve(app)}/songs`)).toEqual([500, 'RSC_REGISTRATION'])
    })

    it('allows what is no route behind reqscopeErrors()', async () => {
      const app = express()
      app.use(reqscope({ scopes: thingScopes().scopes }))
      app.use(reqscopeErrors())
      app.use((_request, response) => void response.status(404).json({ code: 'nothing here' }))
      expect(await codeAndDetail(await serve(app))).toEqual([404, 'nothing here'])
    })

    it('refuses two runtimes for one request', async () => {
      const app = express()
      app.use(reqscope({ scopes: thingScopes().scopes }), reqscope({ scopes: thingScopes().scopes }))
      app.use(lateErrors)
      expect(await codeAndDetail(await serve(app))).toEqual([500, 'RSC_REGISTRATION'])
    })

    it('leaves routes before reqscope() alone, and says so when they ask for a scope', async () => {
      const { scopes } = thingScopes()
      const app = express()
      app.get('/health', (_request, response) => void response.json({ code: scopes.snapshot().openScopes.total }))
      app.get('/asks', (request, response) => void response.json(request.scope.id))
      app.use(reqscope({ scopes }))
      app.get('/', (request, response) => void response.json({ code: request.scope.name }))
      app.use(lateErrors)
      const url = await serve(app)
      expect(await codeAndDetail(`${url}/`)).toEqual([200, 'GET /'])
      expect(await codeAndDetail(`${url}/health`)).toEqual([200, 0])
      expect(await codeAndDetail(`${url}/asks`)).toEqual([500, 'RSC_NO_ACTIVE_SCOPE'])
    })

    it('calls scopes after their routes, with what they are mounted at', async () => {
      const { scopes } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      const [router, sub] = [express.Router({ mergeParams: true }), express()]
      for (const target of [router, sub]) {
        target.get('/', (request, response) => void response.json(request.scope.name))
        target.get(['/a/:b', '/c'], (request, response) => void response.json(request.scope.name))
        target.get('/throws', () => {
          throw new Error('in a router')
        })
      }
      app.use('/songs', router)
      app.use('/sub', sub)
      const nameOfError: ErrorRequestHandler = (_error, request, response, _next) =>
        void response.json(request.scope.name)
      app.use(nameOfError)
      const url = await serve(app)
      const names = []
      for (const path of ['/songs', '/songs/a/1', '/songs/throws', '/sub/c'])
        names.push(await (await fetch(url + path)).json())
      expect(names).toEqual(['GET /songs', 'GET /songs/a/:b|/c', 'GET /songs/throws', 'GET /sub/a/:b|/c'])
    })

    it('takes the id that the request has been given before', async () => {
      const app = express()
      app.use((request, _response, next) => {
        Object.assign(request, { id: 'request-7' })
        next()
      })
      app.use(reqscope({ scopes: thingScopes().scopes }))
      app.get('/', (request, response) => void response.json({ code: request.scope.id }))
      expect(await codeAndDetail(await serve(app))).toEqual([200, 'request-7'])
    })

    it('opens the resources with the first request where nobody has, and tries again after a failure', async () => {
      let attempts = 0
      const { scopes } = thingScopes(() => {
        attempts++
        if (attempts === 1) throw new Error('not there yet')
      })
      const app = express()
      app.use(reqscope({ scopes }))
      app.get('/', (_request, response) => void response.json({ code: 'open' }))
      app.use(lateErrors)
      const url = await serve(app)
      expect((await fetch(url)).status).toBe(500)
      expect(await Promise.all([codeAndDetail(url), codeAndDetail(url)])).toEqual([
        [200, 'open'],
        [200, 'open'],
      ])
      expect(attempts).toBe(2)
    })

    it('ends a handle, and keeps a scope open while its handler goes on after the answer', async () => {
      const { scopes, released } = thingScopes()
      let finish: () => void = () => {}
      const app = express()
      app.use(reqscope({ scopes }))
      app.get('/', async (request, response) => {
        void (request.scope as unknown as { thing: { owner: string } }).thing.owner
        response.json({})
        await new Promise<void>((resolve) => (finish = resolve))
      })
      const url = await serve(app)
      await (await fetch(url)).json()
      expect(released).toEqual([])
      expect(scopes.snapshot().openScopes.total).toBe(1)
      finish()
      await expect.poll(() => released).toEqual(['completed'])
    })
  })

  describe(`reqscopeErrors(), on ${name}`, () => {
    const exhausted = () =>
      new PoolExhaustedError({
        resource: 'db',
        max: 1,
        waiting: 2,
        waitedMs: 10,
        opening: 0,
        heldByScope: 0,
        reason: 'timeout',
        retryAfterMs: 1_500,
      })

    it('answers typed errors as problems, and tells the log what the client need not know', async () => {
      const { scopes, logs } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      app.get('/', async () => {
        throw exhausted()
      })
      app.use(reqscopeErrors())
      const answer = await fetch(await serve(app))
      expect([answer.status, answer.headers.get('content-type'), answer.headers.get('retry-after')]).toEqual([
        503,
        expect.stringContaining('application/problem+json'),
        '2',
      ])
      expect(await answer.json()).toMatchObject({
        status: 503,
        code: 'RSC_POOL_EXHAUSTED',
        detail: expect.not.stringContaining('db'),
      })
      expect(logs.some(({ level, message }) => level === 'error' && message.includes('No connection of db'))).toBe(true)
    })

    it('leaves all other errors to those that come after it, and sees only what those before it pass on', async () => {
      const { scopes } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      app.get('/plain', () => {
        throw Object.assign(new Error('teapot'), { status: 418 })
      })
      app.get('/typed', () => {
        throw exhausted()
      })
      const seen: boolean[] = []
      const look: ErrorRequestHandler = (error, _request, _response, next) => {
        seen.push(isReqscopeError(error))
        next(error)
      }
      app.use(look, reqscopeErrors())
      const url = await serve(app)
      expect((await fetch(`${url}/plain`)).status).toBe(418)
      expect((await fetch(`${url}/typed`)).status).toBe(503)
      expect(seen).toEqual([false, true])
    })

    it('cuts an answer that has begun', async () => {
      const { scopes, released } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      app.get('/', async (request, response) => {
        void (request.scope as unknown as { thing: { owner: string } }).thing.owner
        response.write('half')
        throw exhausted()
      })
      app.use(reqscopeErrors())
      const answer = await fetch(await serve(app))
      await expect(answer.text()).rejects.toThrow()
      await expect.poll(() => released).toEqual(['aborted'])
    })
  })

  describe(`onShutdown(), on ${name}`, () => {
    it('refuses requests on connections that are still open, and asks for them to be closed', async () => {
      const { scopes } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      let finish: () => void = () => {}
      app.get('/', (_request, response) => void (finish = () => response.end()))
      app.use(reqscopeErrors())
      const server = createServer(app)
      const shutDown = onShutdown(server)
      const url = `http://127.0.0.1:${await listening(server)}`
      const first = fetch(url)
      await expect.poll(() => scopes.snapshot().openScopes.total).toBe(1)
      // Not by way of the port, which is closed by then.
      const refusing = createServer(app)
      onTestFinished(() => void refusing.close().closeAllConnections())
      const other = `http://127.0.0.1:${await listening(refusing)}`
      const closed = shutDown()
      const refused = await fetch(other)
      expect([refused.status, refused.headers.get('connection')]).toEqual([503, 'close'])
      expect(await refused.json()).toMatchObject({ code: 'RSC_OVERLOADED' })
      finish()
      expect((await first).status).toBe(200)
      await closed
      expect(shutDown()).toBe(shutDown())
      expect(scopes.state).toBe('closed')
    })

    it('closes what has never listened, and installs no signal handlers', async () => {
      const count = () => ['SIGINT', 'SIGTERM'].map((signal) => process.listenerCount(signal))
      const before = count()
      const { scopes } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      await onShutdown(createServer(app))()
      expect(scopes.state).toBe('closed')
      expect(count()).toEqual(before)
    })

    it('wants to be told the runtime where it can not find it', () => {
      const { scopes } = thingScopes()
      const app = express()
      app.use(reqscope({ scopes }))
      const server = createServer((request, response) => app(request as never, response as never))
      expect(() => onShutdown(server)).toThrow(InvalidOptionError)
      expect(() => onShutdown(server, { scopes })).not.toThrow()
    })
  })
}

describe('the options', () => {
  const { scopes } = thingScopes()
  it.each([
    [() => reqscope({} as never), 'reqscope.scopes'],
    [() => reqscope({ scopes, timeoutMs: '1s' as never }), 'reqscope.timeoutMs'],
    [() => reqscope({ scopes, onAbort: 'stop' as never }), 'reqscope.onAbort'],
    [() => reqscope({ scopes, timeout: 5 } as never), 'reqscope.timeout'],
    [() => scopeOptions({ timeoutMs: 0 }), 'scopeOptions.timeoutMs'],
    [() => scopeOptions({ scopes } as never), 'scopeOptions.scopes'],
    [() => onShutdown(createServer(), { closeTimeoutMs: -1 }), 'onShutdown.closeTimeoutMs'],
  ])('are checked, and named: %#', (make, option) => {
    let error: unknown
    try {
      make()
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
  })
})
