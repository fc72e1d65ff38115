import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { InvalidOptionError } from '@reqscope/core'
import { sql } from 'drizzle-orm'
import type { ErrorRequestHandler, Request, Response } from 'express'
import { beforeAll, describe, expect, it } from 'vitest'
import { failureOf, Gate } from '../../core/test/gate.ts'
import { answered } from '../../core/test/http-contract/client.ts'
import { notes } from '../../core/test/http-contract/schema.ts'
import { reqscope, reqscopeErrors, transactional } from '../src/index.ts'
import { appStage, type ContractDatabase, contractDatabase, db } from './app-stage.ts'
import { frameworks } from './driver.ts'

const thisFile = fileURLToPath(import.meta.url)
const write = (request: Request, note: string) => db(request).insert(notes).values({ text: note })
/** Checked at COMMIT only, and refused there. */
const refuseTheCommit = (request: Request) => db(request).execute(sql`insert into late values (1, 'same'), (2, 'same')`)

const writers: Record<string, (response: Response, request: Request) => unknown> = {
  'res.json': (response) => response.status(201).location('/elsewhere').json({ kept: true }),
  'res.send': (response) => response.status(201).send('kept'),
  'res.sendStatus': (response) => response.sendStatus(201),
  'res.end': (response) => response.status(201).end('kept'),
  'res.end without a body': (response) => response.status(204).end(),
  'res.write': (response) => {
    response.status(201).write('ke')
    response.write('pt')
    response.end()
  },
  'res.writeHead': (response) => response.writeHead(201, { 'x-kept': 'yes', 'content-length': '4' }).end('kept'),
  'res.writeHead that is followed later': (response) => {
    response.writeHead(201, { 'x-kept': 'yes' })
    setImmediate(() => response.end('kept'))
  },
  'res.flushHeaders': (response) => {
    response.status(201).flushHeaders()
    setImmediate(() => response.end('kept'))
  },
  'res.redirect': (response) => response.redirect(303, '/elsewhere'),
  'res.sendFile': (response) => response.status(200).sendFile(thisFile),
  'res.download': (response) => response.download(thisFile, 'kept.ts'),
  'stream.pipe': (response) => createReadStream(thisFile).pipe(response),
  'stream.pipeline': (response) => pipeline(Readable.from(['ke', 'pt']), response).catch(() => {}),
  'a loop that waits for drain': async (response) => {
    for (let index = 0; index < 50; index++) {
      if (!response.write('x'.repeat(10_000))) await new Promise((resolve) => response.once('drain', resolve))
    }
    response.end()
  },
}

for (const { name, express } of frameworks) {
  describe(`transactional(), on ${name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })

    describe.each([
      {
        form: 'around a handler',
        wrap: (handler: (request: Request, response: Response) => unknown) => [transactional(handler)],
      },
      {
        form: 'before handlers',
        wrap: (handler: (request: Request, response: Response) => unknown) => [transactional(), handler as never],
      },
    ])('$form', ({ wrap }) => {
      it.each(Object.entries(writers))(
        'has committed when the client reads the head that %s wrote',
        async (_writer, reply) => {
          const stage = await appStage(express, database, (app, scopes) => {
            app.use(reqscope({ scopes }))
            app.post(
              '/',
              ...wrap(async (request, response) => {
                await write(request, 'kept')
                await reply(response, request)
              }),
            )
            app.use(reqscopeErrors())
          })
          const request = stage.client.begin('POST', '/')
          const seen = await new Promise((resolve, reject) => {
            request.once('response', (incoming) => {
              incoming.resume()
              expect(incoming.statusCode).toBeLessThan(400)
              stage.notes().then(resolve, reject)
            })
          })
          expect(seen).toEqual(['kept'])
          await stage.expectNothingLeft()
          expect(stage.warnings()).toEqual([])
        },
      )

      it.each(Object.entries(writers))(
        'never sends what %s wrote when the commit is refused',
        async (_writer, reply) => {
          const failures: unknown[] = []
          const stage = await appStage(
            express,
            database,
            (app, scopes) => {
              app.use(reqscope({ scopes }))
              app.post(
                '/',
                ...wrap(async (request, response) => {
                  request.scope.afterCommit(() => failures.push('after the commit'))
                  await write(request, 'kept')
                  await refuseTheCommit(request)
                  await reply(response, request)
                }),
              )
              app.use(reqscopeErrors())
              const answer: ErrorRequestHandler = (error, _request, response, _next) => {
                failures.push(error)
                response.status(500).json({ failed: true })
              }
              app.use(answer)
            },
            { settleTimeoutMs: 50 },
          )
          const answer = await answered(stage.client.begin('POST', '/'))
          expect(answer).toMatchObject({ status: 500, body: '{"failed":true}' })
          expect(answer.headers).toMatchObject({ 'content-type': expect.stringContaining('application/json') })
          for (const header of ['location', 'x-kept', 'content-disposition', 'last-modified']) {
            expect(answer.headers[header]).toBeUndefined()
          }
          expect(failures).toHaveLength(1)
          expect(await stage.notes()).toEqual([])
          await stage.expectNothingLeft()
        },
      )
    })

    it('has rolled back before the error handlers run, which are outside of the transaction', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/throws',
          transactional(async (request) => {
            await write(request, 'undone')
            throw new Error('thrown')
          }),
        )
        app.post('/passes', transactional(), (request, _response, next) => {
          write(request, 'undone').then(() => next(new Error('passed on')), next)
        })
        const noteError: ErrorRequestHandler = async (error: Error, request, response, _next) => {
          const before = await stage.notes()
          await write(request, error.message)
          response.status(500).json(before)
        }
        app.use(noteError)
      })
      for (const path of ['/throws', '/passes'])
        expect((await stage.client.post(path)).body).toBe(path === '/throws' ? '[]' : '["thrown"]')
      expect(await stage.notes()).toEqual(['thrown', 'passed on'])
      await stage.expectNothingLeft()
    })

    it('rolls back at a status of 400 or above, or as commitWhen says', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        const refuse = (note: string) => async (request: Request, response: Response) => {
          await write(request, note)
          response.status(409).json({})
        }
        app.post('/default', transactional(refuse('default')))
        app.post(
          '/remembered',
          transactional({ commitWhen: ({ statusCode }) => statusCode === 409 }, refuse('remembered')),
        )
      })
      expect((await stage.client.post('/default')).status).toBe(409)
      expect((await stage.client.post('/remembered')).status).toBe(409)
      expect(await stage.notes()).toEqual(['remembered'])
    })

    it('holds for a whole router', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        const router = express.Router()
        router.use(transactional())
        router.post('/fails', async (request, response) => {
          await write(request, 'undone')
          response.status(500).end()
        })
        router.post('/works', async (request, response) => {
          await write(request, 'kept')
          response.end()
        })
        app.use('/notes', router)
      })
      await stage.client.post('/notes/fails')
      await stage.client.post('/notes/works')
      expect(await stage.notes()).toEqual(['kept'])
      await stage.expectNothingLeft()
      expect(stage.endings.map(({ scope }) => scope.name)).toEqual(['POST /notes/fails', 'POST /notes/works'])
    })

    it('keeps the answer of a handler that fails after it, and says so', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(async (request, response) => {
            await write(request, 'kept')
            response.status(201).json({ kept: true })
            throw new Error('after the answer')
          }),
        )
        app.use(reqscopeErrors())
      })
      expect(await stage.client.post('/')).toMatchObject({ status: 201, body: '{"kept":true}' })
      expect(await stage.notes()).toEqual(['kept'])
      await stage.expectNothingLeft()
      expect(stage.warnings('POST /', 'failed after its request had been answered')).toHaveLength(1)
    })

    it('takes the status at the moment of the answer, and looks as if the head had been sent', async () => {
      const looks: unknown[] = []
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(async (request, response) => {
            await write(request, 'kept')
            looks.push(response.headersSent)
            response.status(201).json({ kept: true })
            looks.push(response.headersSent)
            response.status(500)
            response.end('a second answer')
          }),
        )
      })
      expect(await stage.client.post('/')).toMatchObject({ status: 201, body: '{"kept":true}' })
      expect(looks).toEqual([false, true])
    })

    it('refuses a cursor that is still being read when the head is to be written', async () => {
      const stage = await appStage(
        express,
        database,
        (app, scopes) => {
          app.use(reqscope({ scopes }))
          app.get(
            '/',
            transactional(async (request, response) => {
              for await (const [row] of db(request).$client`select n from generate_series(1, 50) n`.cursor(1)) {
                if (!response.write(`${row?.n}\n`)) await new Promise((resolve) => response.once('drain', resolve))
              }
              response.end()
            }),
          )
          app.use(reqscopeErrors())
        },
        { settleTimeoutMs: 50 },
      )
      const { status, body } = await stage.client.get('/')
      expect([status, JSON.parse(body)]).toMatchObject([500, { code: 'RSC_TRANSACTION_ENDED' }])
      await stage.expectNothingLeft()
    })

    it('is refused twice for one request', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(),
          transactional(async (_request, response) => response.end()),
        )
        app.use(reqscopeErrors())
      })
      const { status, body } = await stage.client.post('/')
      expect([status, JSON.parse(body)]).toMatchObject([500, { code: 'RSC_REGISTRATION' }])
      expect(stage.logs.some(({ message }) => message.includes('POST / is transactional twice'))).toBe(true)
      await stage.expectNothingLeft()
    })

    it('commits before a client that hangs up in the commit is forgotten', async () => {
      const [begun, gone] = [new Gate(), new Gate()]
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          transactional(async (request, response) => {
            await write(request, 'kept')
            begun.open()
            request.scope.signal.addEventListener('abort', () => gone.open())
            await gone.passed
            if (!response.destroyed) response.json({}) // many handlers look
          }),
        )
      })
      const request = stage.client.begin('POST', '/')
      await begun.passed
      request.destroy()
      await gone.passed
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(['kept'])
      expect(stage.warnings()).toEqual([])
    })
  })
}

describe('the options of transactional()', () => {
  it.each([
    [{ isolation: 'serializable' }, 'transactional.isolation'],
    [{ isolationLevel: 'strict' }, 'transactional.isolationLevel'],
    [{ commitWhen: true }, 'transactional.commitWhen'],
  ])('are checked when they are given: %j', async (options, option) => {
    const error = await failureOf(Promise.resolve().then(() => transactional(options as never)))
    expect(error).toBeInstanceOf(InvalidOptionError)
    expect((error as InvalidOptionError).option).toBe(option)
  })

  it.each([[[() => {}, {}]], [[{}, 'handler']], [[{}, () => {}, () => {}]]])('come before the handler: %j', (args) => {
    expect(() => (transactional as (...args: unknown[]) => unknown)(...args)).toThrow('a handler, which comes last')
  })
})
