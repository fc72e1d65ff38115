import { EventEmitter } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { currentScope, tryCurrentScope } from '@reqscope/core'
import compression from 'compression'
import cookieSession from 'cookie-session'
import type { Express, Request, RequestHandler } from 'express'
import { rateLimit } from 'express-rate-limit'
import helmet from 'helmet'
import multer from 'multer'
import passport from 'passport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { notes } from '../../core/test/http-contract/schema.ts'
import type { Stage } from '../../core/test/http-contract/stage.ts'
import { reqscope, reqscopeErrors, transactional } from '../src/index.ts'
import { appStage, type ContractDatabase, contractDatabase, db } from './app-stage.ts'
import { frameworks } from './driver.ts'

const uploads = mkdtempSync(join(tmpdir(), 'reqscope-uploads-'))
afterAll(() => rmSync(uploads, { recursive: true, force: true }))

/** Answers whether the current scope is the request's, and writes a note through whichever it is. */
const note: RequestHandler = async (request, response) => {
  const current = tryCurrentScope() as unknown
  await (currentScope() as unknown as { db: ReturnType<typeof db> }).db.insert(notes).values({ text: request.scope.id })
  response.json({ isCurrent: current === (request.scope as unknown), body: request.body as unknown })
}

/** A queue as connection pools have them: it calls back in the context of whoever drains it. */
class Queue {
  readonly #waiting = new EventEmitter()

  constructor() {
    setInterval(() => this.#waiting.emit('turn'), 2).unref()
  }

  push(callback: () => void): void {
    this.#waiting.once('turn', callback)
  }
}

class Passed extends passport.Strategy {
  override name = 'passed'
  // Passport calls a copy of it, which would not have a private one.
  readonly verify: (done: () => void) => void

  constructor(verify: (done: () => void) => void) {
    super()
    this.verify = verify
  }

  override authenticate(): void {
    this.verify(() => this.success({ id: 7 }))
  }
}

for (const { name, express } of frameworks) {
  describe(`the scope is current behind what people use, on ${name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })
    const open = (build: (app: Express) => void) =>
      appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        build(app)
        app.use(reqscopeErrors())
      })
    const send = (stage: Stage, init: RequestInit = {}) =>
      fetch(`http://127.0.0.1:${stage.client.port}/`, { method: 'POST', ...init })
    const expectCurrent = async (stage: Stage, answer: Response, body?: unknown) => {
      expect(await answer.json()).toMatchObject({ isCurrent: true, ...(body === undefined ? {} : { body }) })
      expect(answer.status).toBe(200)
      expect(await stage.notes()).toHaveLength(1)
      await stage.expectNothingLeft()
    }

    it.each([
      ['json', 'application/json', '{"a":"1"}', { a: '1' }],
      ['urlencoded', 'application/x-www-form-urlencoded', 'a=1', { a: '1' }],
      ['text', 'text/plain', 'a', 'a'],
    ] as const)('the body parser express.%s', async (parser, type, body, parsed) => {
      const stage = await open((app) => {
        app.use(parser === 'urlencoded' ? express.urlencoded({ extended: false }) : express[parser]())
        app.post('/', transactional(note))
      })
      await expectCurrent(stage, await send(stage, { headers: { 'content-type': type }, body }), parsed)
    })

    it('a body that arrives in pieces', async () => {
      const stage = await open((app) => {
        app.use(express.json({ limit: '5mb' }), (_request, response, next) => {
          response.locals.isCurrent = tryCurrentScope() !== undefined
          next()
        })
        app.post('/', (request, response, next) => {
          expect(response.locals.isCurrent).toBe(true)
          request.body = undefined
          return note(request, response, next)
        })
      })
      const body = JSON.stringify({ long: 'x'.repeat(2_000_000) })
      await expectCurrent(stage, await send(stage, { headers: { 'content-type': 'application/json' }, body }))
    })

    it.each(['memory', 'disk'] as const)('uploads by multer, to %s', async (where) => {
      const upload = multer(where === 'memory' ? { storage: multer.memoryStorage() } : { dest: uploads })
      let seenByFilter: unknown
      const filtering = multer({
        storage: multer.memoryStorage(),
        fileFilter: (request, _file, accept) => {
          seenByFilter = tryCurrentScope() === request.scope
          accept(null, true)
        },
      })
      const stage = await open((app) => {
        app.post('/', transactional(), upload.single('file'), (request, response, next) => {
          request.body = { size: request.file?.size }
          return note(request, response, next)
        })
        app.post('/filtered', filtering.single('file'), (_request, response) => void response.end())
        app.use('/used', upload.single('file'), (request, response) => {
          response.json(tryCurrentScope() === request.scope)
        })
      })
      const form = () => {
        const data = new FormData()
        data.set('file', new Blob(['x'.repeat(200_000)]), 'file.txt')
        return data
      }
      await expectCurrent(stage, await send(stage, { body: form() }), { size: 200_000 })
      const origin = `http://127.0.0.1:${stage.client.port}`
      await fetch(`${origin}/filtered`, { method: 'POST', body: form() })
      expect(seenByFilter).toBe(true)
      expect(await (await fetch(`${origin}/used`, { method: 'POST', body: form() })).json()).toBe(true)
    })

    it('an upload by multer whose client goes away', async () => {
      const stage = await open((app) => {
        app.post('/', transactional(), multer({ dest: uploads }).single('file'), note)
      })
      const socket = await stage.client.socket()
      socket.write(
        'POST / HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n',
      )
      socket.write(`--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n${'x'.repeat(10_000)}`)
      await expect.poll(() => stage.scopes.snapshot().openScopes.request).toBe(1)
      socket.destroy()
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual([])
    })

    it.each([
      { where: 'for the application', inRoute: false },
      { where: 'inside the transaction', inRoute: true },
    ])('compression, $where', async ({ inRoute }) => {
      const compress = compression({ threshold: 0 })
      const stage = await open((app) => {
        if (!inRoute) app.use(compress)
        app.post('/', transactional(), ...(inRoute ? [compress] : []), note)
        app.post('/refused', transactional(), ...(inRoute ? [compress] : []), async (request, response) => {
          await db(request).$client`insert into late values (1, 'same'), (2, 'same')`
          response.send('intended '.repeat(100))
        })
      })
      const answer = await send(stage)
      expect(answer.headers.get('content-encoding')).toMatch(/gzip|br/)
      await expectCurrent(stage, answer)
      const refused = await fetch(`http://127.0.0.1:${stage.client.port}/refused`, { method: 'POST' })
      expect(refused.status).toBe(500)
      expect(await refused.text()).not.toContain('intended')
      await stage.expectNothingLeft()
    })

    it('cookie-session, whose cookie is set when the head is written', async () => {
      const stage = await open((app) => {
        app.use(cookieSession({ keys: ['a key'] }))
        app.post('/', transactional(), (request, response, next) => {
          request.session = { user: 7 }
          return note(request, response, next)
        })
      })
      const answer = await send(stage)
      expect(answer.headers.getSetCookie()).toHaveLength(2)
      await expectCurrent(stage, answer)
    })

    it('helmet', async () => {
      const stage = await open((app) => {
        app.use(helmet())
        app.post('/', transactional(note))
      })
      const answer = await send(stage)
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
      await expectCurrent(stage, answer)
    })

    it('express-rate-limit', async () => {
      const stage = await open((app) => {
        app.use(rateLimit({ limit: 1, windowMs: 60_000, validate: false }))
        app.post('/', transactional(note))
      })
      await expectCurrent(stage, await send(stage))
      expect((await send(stage)).status).toBe(429)
      await stage.expectNothingLeft()
    })

    it('passport, before a route that is called back from a queue of somebody else', async () => {
      const queue = new Queue()
      const authenticator = new passport.Passport()
      authenticator.use(new Passed((done) => queue.push(done)))
      const authenticate = authenticator.authenticate('passed', { session: false }) as RequestHandler
      const stage = await open((app) => {
        app.use(authenticate)
        app.post('/', transactional(note))
      })
      await expectCurrent(stage, await send(stage))
    })

    it('passport in a route, and outside of routes where reqscope() is used once more', async () => {
      const queue = new Queue()
      const authenticator = new passport.Passport()
      authenticator.use(new Passed((done) => queue.push(done)))
      const authenticate = authenticator.authenticate('passed', { session: false }) as RequestHandler
      const seen: unknown[] = []
      const look: RequestHandler = (request: Request, _response, next) => {
        seen.push(tryCurrentScope() === request.scope)
        next()
      }
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }), authenticate, look, reqscope({ scopes }), look)
        app.post('/', authenticate, note)
      })
      await expectCurrent(stage, await send(stage))
      expect(seen).toEqual([false, true])
      expect(stage.endings).toHaveLength(1)
    })
  })
}
