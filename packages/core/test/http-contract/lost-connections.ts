import { sql } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { failureOf, Gate } from '../gate.ts'
import type { ContractRoute, Exchange, HttpDriver } from './driver.ts'
import { notes } from './schema.ts'
import { type ContractDatabase, nextEvent, Stage, type StageOptions } from './stage.ts'

const write = (exchange: Exchange, note: string) => exchange.scope.db.insert(notes).values({ text: note })

/** What requests are told, and what stays, when the server takes a connection away. */
export function describeLostConnections(driver: HttpDriver, database: () => ContractDatabase): void {
  const open = (routes: readonly ContractRoute[], options?: StageOptions) =>
    Stage.open(driver, database(), routes, options)
  const route = (path: string, handle: ContractRoute['handle'], transaction = false): ContractRoute => ({
    method: 'POST',
    path,
    transaction,
    handle,
  })
  const problem = ({ body }: { body: string }) => JSON.parse(body) as Record<string, unknown>

  describe.each([
    { inside: false, where: 'in an ordinary route' },
    { inside: true, where: 'in a route with a transaction' },
  ])('$where', ({ inside }) => {
    it('replaces a backend that was killed while it was idle', async () => {
      const stage = await open([
        route('/', async (exchange) => void (await write(exchange, exchange.scope.id)), inside),
      ])
      expect((await stage.client.post('/')).status).toBe(200)
      const lost = nextEvent('reqscope:connection:closed')
      await stage.killBackend({ state: 'idle' })
      await lost
      expect((await stage.client.post('/')).status).toBe(200)
      expect(await stage.notes()).toHaveLength(2)
      await stage.expectNothingLeft()
    })

    it('answers 503 when the backend is killed in a query, and serves the next request', async () => {
      const stage = await open([
        route('/slow', async (exchange) => void (await exchange.scope.db.execute(sql`select pg_sleep(20)`)), inside),
        route('/', async (exchange) => void (await write(exchange, 'next')), inside),
      ])
      const answer = stage.client.post('/slow')
      await stage.killBackend({ state: 'active', query: /pg_sleep/ })
      expect(problem(await answer)).toMatchObject({ status: 503, code: 'RSC_CONNECTION_LOST' })
      expect((await answer).headers['retry-after']).toBe('1')
      expect((await stage.client.post('/')).status).toBe(200)
      await stage.expectNothingLeft()
    })
  })

  it('keeps nothing of a transaction whose backend was killed between two statements', async () => {
    const [written, killed] = [new Gate(), new Gate()]
    const stage = await open([
      route(
        '/',
        async (exchange) => {
          await write(exchange, 'first')
          written.open()
          await killed.passed
          await write(exchange, 'second')
        },
        true,
      ),
    ])
    const answer = stage.client.post('/')
    await written.passed
    await stage.killBackend({ state: 'idle in transaction' })
    killed.open()
    expect(problem(await answer)).toMatchObject({ status: 503, code: 'RSC_CONNECTION_LOST' })
    expect(await stage.notes()).toEqual([])
    await stage.expectNothingLeft()
  })

  it('does not answer with success when the connection is lost in a transaction and nobody notices before the commit', async () => {
    const [written, killed] = [new Gate(), new Gate()]
    const stage = await open([
      route(
        '/',
        async (exchange) => {
          await write(exchange, 'first')
          written.open()
          await killed.passed
          await failureOf(exchange.scope.db.execute(sql`select 1`))
          return { done: true }
        },
        true,
      ),
    ])
    const answer = stage.client.post('/')
    await written.passed
    await stage.killBackend({ state: 'idle in transaction' })
    killed.open()
    expect((await answer).status).toBeGreaterThanOrEqual(500)
    expect(await stage.notes()).toEqual([])
    await stage.expectNothingLeft()
  })

  it('serves those who wait when the backend of the one connection is killed', async () => {
    const held = new Gate()
    const stage = await open(
      [
        route('/hold', async (exchange) => {
          held.open()
          await exchange.scope.db.execute(sql`select pg_sleep(20)`)
        }),
        route('/', async (exchange) => void (await write(exchange, exchange.scope.id))),
      ],
      { postgres: { max: 1 } },
    )
    const holder = stage.client.post('/hold')
    await held.passed
    const waiting = [1, 2, 3].map(() => stage.client.post('/'))
    await stage.killBackend({ state: 'active', query: /pg_sleep/ })
    expect((await holder).status).toBe(503)
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await stage.notes()).toHaveLength(3)
    await stage.expectNothingLeft()
  })

  it('answers 500 when the commit is refused, and does not run what waits for it', async () => {
    const committed: string[] = []
    const stage = await open([
      route(
        '/',
        async (exchange) => {
          exchange.scope.afterCommit(() => committed.push('told'))
          await write(exchange, 'with the refused')
          await exchange.scope.db.execute(sql`insert into late values (1, 'same'), (2, 'same')`)
          exchange.status(201)
          return { done: true }
        },
        true,
      ),
    ])
    expect((await stage.client.post('/')).status).toBe(500)
    expect(await stage.notes()).toEqual([])
    expect(committed).toEqual([])
    await stage.expectNothingLeft()
  })

  it('answers 503 with an unknown outcome when the connection is lost in the commit', async () => {
    const committed: string[] = []
    const stage = await open([
      route(
        '/',
        async (exchange) => {
          exchange.scope.afterCommit(() => committed.push('told'))
          await exchange.scope.db.execute(sql`insert into slow values (1)`)
          return { done: true }
        },
        true,
      ),
    ])
    const answer = stage.client.post('/')
    await stage.killBackend({ state: 'active', query: /^commit/i })
    expect(problem(await answer)).toMatchObject({ status: 503, code: 'RSC_CONNECTION_LOST', outcome: 'unknown' })
    expect((await answer).headers['retry-after']).toBeUndefined()
    expect(committed).toEqual([])
    await stage.expectNothingLeft()
  })

  it('has committed before the client has read the head', async () => {
    const stage = await open([route('/', async (exchange) => void (await write(exchange, 'kept')), true)])
    const request = stage.client.begin('POST', '/', {})
    const seen = await new Promise((resolve, reject) => {
      request.once('response', (incoming) => {
        incoming.resume()
        stage.notes().then(resolve, reject)
      })
    })
    expect(seen).toEqual(['kept'])
    await stage.expectNothingLeft()
  })
}
