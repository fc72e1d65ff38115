import { sql } from 'drizzle-orm'
import type { ErrorRequestHandler, RequestHandler } from 'express'
import { beforeAll, describe, expect, it } from 'vitest'
import { failureOf, Gate } from '../../core/test/gate.ts'
import { notes } from '../../core/test/http-contract/schema.ts'
import { fired } from '../../core/test/http-contract/stage.ts'
import { reqscope, reqscopeErrors, scopeOptions, transactional } from '../src/index.ts'
import { appStage, type ContractDatabase, contractDatabase, db } from './app-stage.ts'
import { frameworks } from './driver.ts'

for (const { name, express } of frameworks) {
  describe(`deadlines and hanging up, on ${name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })

    it.each([
      { inside: false, where: 'in an ordinary route' },
      { inside: true, where: 'in a transaction' },
    ])('does not hear what a handler says after it was answered for, $where', async ({ inside }) => {
      const answered = new Gate()
      const said: unknown[] = []
      const speak: RequestHandler = (request, response, next) => {
        void answered.passed.then(async () => {
          await failureOf(Promise.resolve(db(request).insert(notes).values({ text: 'too late' })))
          response.status(200).set('x-late', 'yes').json({ late: true })
          response.write('more')
          response.redirect('/elsewhere')
          next(new Error('and an error'))
          said.push(response.statusCode)
        })
      }
      const reject: RequestHandler = async (_request, response) => {
        await answered.passed
        response.end('late')
        throw new Error('rejected too late')
      }
      const stage = await appStage(
        express,
        database,
        (app, scopes) => {
          app.use(reqscope({ scopes, timeoutMs: 60_000 }))
          app.get('/callback', scopeOptions({ timeoutMs: 50 }), ...(inside ? [transactional()] : []), speak)
          app.get('/promise', scopeOptions({ timeoutMs: 50 }), inside ? transactional(reject) : reject)
          app.use(reqscopeErrors())
        },
        { settleTimeoutMs: 1_000 },
      )
      const answers = await Promise.all(['/callback', '/promise'].map((path) => stage.client.get(path)))
      expect(answers.map(({ status, body }) => [status, (JSON.parse(body) as { code: string }).code])).toEqual([
        [504, 'RSC_DEADLINE_EXCEEDED'],
        [504, 'RSC_DEADLINE_EXCEEDED'],
      ])
      answered.open()
      await expect.poll(() => said).toHaveLength(1)
      expect(await stage.notes()).toEqual([])
      await stage.expectNothingLeft()
    })

    it('bounds what comes before the routes, too, and counts from the beginning', async () => {
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes, timeoutMs: 1_000 }), async (request, response, next) => {
          response.locals.beganAt = Date.now()
          await db(request)
            .execute(sql`select pg_sleep(${request.path === '/before' ? 20 : 0.2})`)
            .then(() => next(), next)
        })
        app.get('/longer', scopeOptions({ timeoutMs: 10_000 }), async (request, response) => {
          await db(request).execute(sql`select pg_sleep(1)`)
          response.json((request.scope.deadline ?? 0) - Number(response.locals.beganAt))
        })
        app.use(reqscopeErrors())
      })
      expect((await stage.client.get('/before')).status).toBe(504)
      const { status, body } = await stage.client.get('/longer')
      expect(status).toBe(200)
      // Counted from the route it would be 200 ms more.
      expect(Math.abs(Number(body) - 10_000)).toBeLessThan(150)
      await stage.expectNothingLeft()
    })

    it('lets a route say what hanging up does', async () => {
      const [begun, gone, finished] = [new Gate(), new Gate(), new Gate<unknown>()]
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        const work: RequestHandler = async (request, response) => {
          void fired(request.scope.signal).then(() => gone.open())
          begun.open()
          await gone.passed
          finished.open(
            await failureOf(Promise.resolve(db(request).insert(notes).values({ text: 'worked' }))).catch(() => 'kept'),
          )
          response.end()
        }
        app.get('/', scopeOptions({ onAbort: 'finish' }), work)
        app.post('/', scopeOptions({ onAbort: 'cancel' }), work)
      })
      const request = stage.client.begin('GET', '/')
      await begun.passed
      request.destroy()
      expect(await finished.passed).toBe('kept')
      expect(await stage.notes()).toEqual(['worked'])
      await stage.expectNothingLeft()
    })

    it('keeps nothing of a transaction whose deadline passes in the commit', async () => {
      const seen: unknown[] = []
      const stage = await appStage(express, database, (app, scopes) => {
        app.use(reqscope({ scopes }))
        app.post(
          '/',
          scopeOptions({ timeoutMs: 200 }),
          transactional(async (request, response) => {
            await db(request).execute(sql`insert into slow values (1)`) // its commit takes 20 s
            response.status(201).json({ intended: true })
          }),
        )
        const look: ErrorRequestHandler = (error, _request, _response, next) => {
          seen.push(error.code)
          next(error)
        }
        app.use(look, reqscopeErrors())
      })
      const { status, body } = await stage.client.post('/')
      expect(status).toBeGreaterThanOrEqual(500)
      expect(body).not.toContain('intended')
      expect(seen).toHaveLength(1)
      await stage.expectNothingLeft()
    })
  })
}
