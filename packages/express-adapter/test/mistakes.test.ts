import { get } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Request, RequestHandler, Response } from 'express'
import { beforeAll, describe, expect, it } from 'vitest'
import { failureOf, Gate } from '../../core/test/gate.ts'
import { notes } from '../../core/test/http-contract/schema.ts'
import { reqscope, reqscopeErrors, transactional } from '../src/index.ts'
import { appStage, type ContractDatabase, contractDatabase, db } from './app-stage.ts'
import { frameworks } from './driver.ts'

const write = (request: Request, note: string) => db(request).insert(notes).values({ text: note })

for (const { name, express } of frameworks) {
  describe(`what people get wrong, on ${name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })
    const open = (...handlers: RequestHandler[]) =>
      appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.all('/', ...handlers)
        app.use(reqscopeErrors())
      })
    const inTransaction = (
      handler: (request: Request, response: Response, next: (error?: unknown) => void) => unknown,
    ) => open(transactional(handler))

    it.each(['res.json', 'res.send', 'res.redirect', 'res.writeHead', 'res.set'])(
      'a second answer by %s throws, and leaves the first one as it was',
      async (second) => {
        const failures: unknown[] = []
        const stage = await inTransaction(async (request, response) => {
          await write(request, 'kept')
          response.status(201).json({ first: true })
          const answers: Record<string, () => unknown> = {
            'res.json': () => response.status(500).json({ second: 'x'.repeat(1_000) }),
            'res.send': () => response.send('second'),
            'res.redirect': () => response.redirect('/second'),
            'res.writeHead': () => response.writeHead(500, { 'x-second': 'yes' }).end('second'),
            'res.set': () => response.set('x-second', 'yes'),
          }
          failures.push(await failureOf(Promise.resolve().then(answers[second])))
        })
        const answer = await stage.client.post('/')
        expect([answer.status, answer.body]).toEqual([201, '{"first":true}'])
        expect([answer.headers['x-second'], answer.headers.location]).toEqual([undefined, undefined])
        expect(failures).toMatchObject([{ code: 'ERR_HTTP_HEADERS_SENT' }])
        expect(await stage.notes()).toEqual(['kept'])
        await stage.expectNothingLeft()
      },
    )

    it('an answer after the handler has returned is still one of the transaction', async () => {
      const stage = await inTransaction(async (request, response) => {
        await write(request, 'kept')
        setTimeout(() => response.status(201).json({ late: true }), 20)
      })
      expect(await stage.client.post('/')).toMatchObject({ status: 201, body: '{"late":true}' })
      expect(await stage.notes()).toEqual(['kept'])
      await stage.expectNothingLeft()
      expect(stage.warnings()).toEqual([])
    })

    it('next() after an answer changes nothing, and what comes next can not answer again', async () => {
      const seen: unknown[] = []
      const stage = await open(
        transactional(async (request, response, next) => {
          await write(request, 'kept')
          response.json({ first: true })
          next()
        }),
        (_request, response, next) => {
          seen.push(response.headersSent)
          next()
        },
      )
      expect(await stage.client.post('/')).toMatchObject({ status: 200, body: '{"first":true}' })
      expect(seen).toEqual([true])
      expect(await stage.notes()).toEqual(['kept'])
      await stage.expectNothingLeft()
    })

    it('next() with nobody to answer is a 404, which keeps nothing', async () => {
      const stage = await inTransaction(async (request, _response, next) => {
        await write(request, 'undone')
        next()
      })
      expect((await stage.client.post('/')).status).toBe(404)
      expect(await stage.notes()).toEqual([])
      await stage.expectNothingLeft()
    })

    it('next(error) twice, and a throw after it, are answered once', async () => {
      const stage = await inTransaction(async (request, _response, next) => {
        await write(request, 'undone')
        next(new Error('first'))
        next(new Error('second'))
        throw new Error('third')
      })
      expect((await stage.client.post('/')).status).toBe(500)
      expect(await stage.notes()).toEqual([])
      await stage.expectNothingLeft()
    })

    it('a middleware that fails when the head is written, after the commit, is a 500 that says nothing was left open', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use((_request, response, next) => {
          const { writeHead } = response
          let hasFailed = false
          response.writeHead = function failOnce(this: Response, ...args: never[]) {
            if (hasFailed) return writeHead.apply(this, args as never) as never
            hasFailed = true
            throw new Error('no cookie today')
          } as never
          next()
        })
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(async (request, response) => {
            await write(request, 'committed')
            response.status(201).json({ intended: true })
          }),
        )
      })
      const { status, body } = await stage.client.post('/')
      expect(status).toBe(500)
      expect(body).not.toContain('intended')
      expect(await stage.notes()).toEqual(['committed'])
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'failed' }])
    })

    it('a body that can not be turned into JSON is an error before the commit', async () => {
      const stage = await inTransaction(async (request, response) => {
        await write(request, 'undone')
        const circular: { self?: unknown } = {}
        circular.self = circular
        response.json(circular)
      })
      expect((await stage.client.post('/')).status).toBe(500)
      expect(await stage.notes()).toEqual([])
      await stage.expectNothingLeft()
    })

    it('a stream that fails at once or half way cuts the answer, and leaves nothing open', async () => {
      const stage = await inTransaction(async (request, response) => {
        await write(request, String(request.query.chunks))
        const source = async function* () {
          for (let index = 0; index < Number(request.query.chunks); index++) yield 'x'.repeat(1_000)
          throw new Error('the source failed')
        }
        await pipeline(Readable.from(source()), response)
      })
      for (const chunks of [0, 3])
        expect(await failureOf(stage.client.post(`/?chunks=${chunks}`))).toBeInstanceOf(Error)
      await stage.expectNothingLeft()
    })

    it('an answer that has not changed is a 304 in a transaction, too, and a HEAD has its length', async () => {
      const stage = await inTransaction(async (request, response) => {
        await db(request).select().from(notes)
        response.json({ same: true })
      })
      const { headers } = await stage.client.get('/')
      const again = await new Promise<number | undefined>((resolve, reject) => {
        const options = { port: stage.client.port, host: '127.0.0.1', headers: { 'if-none-match': headers.etag } }
        get({ ...options, agent: false }, (incoming) => resolve(incoming.resume().statusCode)).on('error', reject)
      })
      expect(again).toBe(304)
      const head = await fetch(`http://127.0.0.1:${stage.client.port}/`, { method: 'HEAD' })
      expect([head.status, head.headers.get('content-length')]).toEqual([200, '13'])
      await stage.expectNothingLeft()
    })

    it("an early hint is sent at once, and is not the transaction's end", async () => {
      const stage = await inTransaction(async (request, response) => {
        response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' })
        await write(request, 'kept')
        response.json({})
      })
      expect((await stage.client.post('/')).status).toBe(200)
      expect(await stage.notes()).toEqual(['kept'])
      await stage.expectNothingLeft()
    })

    it("a request's database that is kept for the next one throws there, and names both", async () => {
      let kept: ReturnType<typeof db> | undefined
      const stage = await open(async (request, response) => {
        kept ??= db(request)
        response.json(await kept.select().from(notes))
      })
      expect((await stage.client.get('/')).status).toBe(200)
      await stage.expectNothingLeft()
      const { status, body } = await stage.client.post('/')
      expect([status, JSON.parse(body)]).toMatchObject([500, { code: 'RSC_SCOPE_LEAK' }])
      await stage.expectNothingLeft()
    })

    it('work that nobody waits for finds its scope ended, and its connection is back', async () => {
      const [answered, failed] = [new Gate(), new Gate<unknown>()]
      const stage = await open((request, response) => {
        const { scope } = request
        void answered.passed.then(async () => failed.open(await failureOf(Promise.resolve(write(request, 'too late')))))
        void scope
        response.json({})
      })
      await stage.client.post('/')
      await stage.expectNothingLeft()
      answered.open()
      expect(await failed.passed).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
      expect(await stage.notes()).toEqual([])
    })

    it('a shutdown in the middle of a commit waits for it, and the client is told', async () => {
      const begun = new Gate()
      const stage = await inTransaction(async (request, response) => {
        await write(request, 'kept')
        response.status(201).json({ kept: true })
        begun.open()
      })
      const answer = stage.client.post('/')
      await begun.passed
      const closed = stage.app.close()
      expect(await answer).toMatchObject({ status: 201, body: '{"kept":true}' })
      await closed
      expect(await stage.notes()).toEqual(['kept'])
    })
  })
}
