import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { observer } from '@reqscope/services/testing'
import { sql } from 'drizzle-orm'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { describe, expect, it } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import type { RouteScopeConfig } from '../src/index.ts'
import { appWith, memoryLogger, orders, ordersDatabase, portOf, schema } from './fixture.ts'

describe('a route with a transaction', async () => {
  const database = await ordersDatabase()
  const watch = observer(database)
  const totals = async () =>
    (await watch<{ total: number }[]>`select total from orders order by id`).map(({ total }) => total)

  const shop = async () => {
    await watch`truncate orders`
    const { logger, logs } = memoryLogger()
    const scopes = createScopes({ resources: { db: postgres({ url: database.url, schema, max: 4 }) }, logger })
    const app = await appWith(scopes)
    const db = (request: FastifyRequest) => (request.scope as unknown as ReturnType<typeof scopes.open>).db
    const order = (request: FastifyRequest, total: number) => db(request).insert(orders).values({ total })
    return { app, scopes, db, order, logs }
  }
  const config = (transaction: RouteScopeConfig['transaction']) => ({
    config: { scope: { transaction: transaction ?? true } },
  })

  it('holds no connection before its first statement', async () => {
    const { app, scopes } = await shop()
    app.get('/', config(true), async () => scopes.snapshot().leases.length)
    expect((await app.inject('/')).body).toBe('0')
  })

  it('has rolled back before the error handler runs', async () => {
    const { app, scopes, order } = await shop()
    let held: unknown
    app.setErrorHandler(async (_error, _request, reply) => {
      held = scopes.snapshot().leases.filter(({ state }) => state === 'transaction')
      return reply.code(400).send({ stored: await totals() })
    })
    app.post('/', config(true), async (request) => {
      await order(request, 1)
      throw new Error('no')
    })
    expect((await app.inject({ method: 'POST', url: '/' })).json()).toEqual({ stored: [] })
    expect(held).toEqual([])
  })

  it("rolls back when a web Response's own status is 400 or above, and commits below", async () => {
    const { app, order } = await shop()
    app.post<{ Querystring: { status: string } }>('/', config(true), async (request) => {
      const status = Number(request.query.status)
      await order(request, status)
      return new Response('answer', { status })
    })
    for (const status of [201, 422, 500]) {
      expect((await app.inject({ method: 'POST', url: `/?status=${status}` })).statusCode).toBe(status)
    }
    expect(await totals()).toEqual([201])
  })

  it('rolls back, and says so, when commitWhen returns a promise', async () => {
    const { app, order } = await shop()
    const commitWhen = (async () => false) as unknown as () => boolean
    app.post('/', config({ commitWhen }), async (request) => {
      await order(request, 1)
      return 'done'
    })
    expect((await app.inject({ method: 'POST', url: '/' })).json()).toMatchObject({ code: 'RSC_INVALID_OPTION' })
    expect(await totals()).toEqual([])
  })

  it.each(['return', 'reply.send'])(
    'is over for afterCommit functions and onResponse hooks: they have the scope outside of it (%s)',
    async (form) => {
      const { app, order } = await shop()
      const seen: string[] = []
      const responded = new Gate()
      const hear = (what: string) => async (request: FastifyRequest) => {
        await order(request, 2)
        seen.push(what)
      }
      app.addHook('onResponse', async (request) => {
        await hear('onResponse')(request)
        responded.open()
      })
      app.post('/', config(true), async (request, reply) => {
        await order(request, 1)
        request.scope.afterCommit(() => hear('afterCommit')(request))
        return form === 'return' ? { done: true } : reply.send({ done: true })
      })
      expect((await app.inject({ method: 'POST', url: '/' })).statusCode).toBe(200)
      await responded.passed
      expect(seen).toEqual(['afterCommit', 'onResponse'])
      expect(await totals()).toEqual([1, 2, 2])
    },
  )

  it('answers in time although an afterCommit function hangs, and stays committed', async () => {
    const { app, order } = await shop()
    app.post('/', { config: { scope: { transaction: true, timeoutMs: 200 } } }, async (request) => {
      await order(request, 1)
      request.scope.afterCommit(() => new Promise(() => {}))
      return { done: true }
    })
    await app.inject({ method: 'POST', url: '/' })
    expect(await totals()).toEqual([1])
  })

  it('names its scope in errors, and no place in the plugin', async () => {
    const { app, db, order } = await shop()
    app.post('/', config(true), async (request) => {
      await order(request, 0).catch(() => {}) // refused by a constraint, and swallowed
      void db
      return 'done'
    })
    const failure = new Gate<Error>()
    app.addHook('onError', async (_request, _reply, error) => failure.open(error))
    expect((await app.inject({ method: 'POST', url: '/' })).statusCode).toBe(500)
    expect((await failure.passed).message).toMatch(/^The transaction of request POST \/ \([^)]*\) was rolled back/)
  })

  it('rolls back what a callback handler answers with an error', async () => {
    const { app, order } = await shop()
    app.post('/', config(true), (request, reply) => {
      order(request, 1).then(() => reply.send(new Error('sent, not thrown')))
    })
    expect((await app.inject({ method: 'POST', url: '/' })).statusCode).toBe(500)
    expect(await totals()).toEqual([])
  })

  it('rolls back when a preSerialization or onSend hook fails, for the client is told so', async () => {
    const { app, order } = await shop()
    const fail = async () => {
      throw new Error('a hook failed')
    }
    app.post('/serialize', { ...config(true), preSerialization: fail }, async (request) => {
      await order(request, 1)
      return {}
    })
    app.post('/send', { ...config(true), onSend: fail }, async (request) => {
      await order(request, 2)
      return {}
    })
    expect((await app.inject({ method: 'POST', url: '/serialize' })).statusCode).toBe(500)
    expect((await app.inject({ method: 'POST', url: '/send' })).statusCode).toBe(500)
    expect(await totals()).toEqual([])
  })

  it('lets commitWhen decide by the status', async () => {
    const { app, order } = await shop()
    app.post('/:status', config({ commitWhen: ({ statusCode }) => statusCode !== 422 }), async (request, reply) => {
      const status = Number((request.params as { status: string }).status)
      await order(request, status)
      return reply.code(status).send({})
    })
    for (const status of [200, 409, 422]) await app.inject({ method: 'POST', url: `/${status}` })
    expect(await totals()).toEqual([200, 409])
  })

  it('answers 500 and rolls back when commitWhen throws', async () => {
    const { app, order } = await shop()
    const commitWhen = () => {
      throw new Error('undecided')
    }
    app.post('/', config({ commitWhen }), async (request, reply) => {
      await order(request, 1)
      return reply.code(201).send({})
    })
    const answer = await app.inject({ method: 'POST', url: '/' })
    expect([answer.statusCode, answer.json().message]).toEqual([500, 'undecided'])
    expect(await totals()).toEqual([])
  })

  it('begins as it is told to', async () => {
    const { app, db } = await shop()
    app.get('/', config({ isolationLevel: 'serializable', accessMode: 'read only' }), async (request) =>
      db(request).execute(
        sql`select current_setting('transaction_isolation') i, current_setting('transaction_read_only') r`,
      ),
    )
    expect((await app.inject('/')).json()).toEqual([{ i: 'serializable', r: 'on' }])
  })

  it('runs what waits for the commit after it and before the client is told', async () => {
    const { app, order } = await shop()
    const stored = new Gate<number[]>()
    app.post('/', config(true), async (request) => {
      request.scope.afterCommit(async () => stored.open(await totals()))
      await order(request, 1)
      return {}
    })
    await app.inject({ method: 'POST', url: '/' })
    expect(await stored.passed).toEqual([1])
  })

  it('is joined by scope.transaction, and what that catches does not commit', async () => {
    const { app, order } = await shop()
    app.post('/', config(true), async (request) => {
      await order(request, 1)
      const inner = request.scope.transaction(async () => {
        await order(request, -1)
      })
      await inner.catch(() => {})
      return {}
    })
    const answer = await app.inject({ method: 'POST', url: '/' })
    expect([answer.statusCode, answer.json().code]).toEqual([500, 'RSC_TRANSACTION_ENDED'])
    expect(await totals()).toEqual([])
  })

  it('commits after the last hook, and hooks of onSend still see it', async () => {
    const { app, order } = await shop()
    const seen: number[][] = []
    app.addHook('onSend', async () => void seen.push(await totals()))
    app.post('/', config(true), async (request) => {
      await order(request, 1)
      return {}
    })
    await app.inject({ method: 'POST', url: '/' })
    expect(seen).toEqual([[]])
    expect(await totals()).toEqual([1])
  })

  it('destroys the stream of a reply whose commit failed', async () => {
    const { app, order } = await shop()
    const { Readable } = await import('node:stream')
    const source = Readable.from(['never sent'])
    app.post('/', config(true), async (request, reply: FastifyReply) => {
      await order(request, -1).catch(() => {})
      return reply.type('text/plain').send(source)
    })
    expect((await app.inject({ method: 'POST', url: '/' })).statusCode).toBe(500)
    expect(source.destroyed).toBe(true)
  })

  it('does not crash when a timeout answers while a commit or a rollback is under way', async () => {
    const { app, order, db } = await shop()
    app.post('/:what', { ...config(true), handlerTimeout: 30 }, (request, reply) => {
      const { what } = request.params as { what: string }
      const slowly = db(request).execute(sql`select pg_sleep(0.1)`)
      const answer = () => void reply.send(what === 'error' ? new Error('sent') : {})
      order(request, 1).then(answer, answer)
      slowly.catch(() => {})
    })
    const port = await portOf(app)
    for (const what of ['error', 'value']) {
      const answers = Array.from({ length: 5 }, () => fetch(`http://127.0.0.1:${port}/${what}`, { method: 'POST' }))
      for (const answer of await Promise.all(answers)) {
        const stored = await totals()
        if (answer.ok) expect(stored).not.toEqual([])
        await answer.text()
      }
    }
  })
})
