import { connect } from 'node:http2'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { type ReqscopeError, ScopeAbortedError } from '../../src/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { brokeOff } from './client.ts'
import type { ContractRoute, Exchange, HttpDriver } from './driver.ts'
import { notes } from './schema.ts'
import { type ContractDatabase, fired, Stage, type StageOptions, until } from './stage.ts'

const never = () => new Promise<never>(() => {})
const write = (exchange: Exchange, note: string) => exchange.scope.db.insert(notes).values({ text: note })
const sleep = (exchange: Exchange, seconds: number) => exchange.scope.db.$client`select pg_sleep(${seconds})`

/** Where a handler and its test meet: it has begun, its client is gone, it may finish. */
class Meeting {
  readonly begun = new Gate()
  readonly gone = new Gate()
  readonly finish = new Gate()

  async arrive(exchange: Exchange): Promise<void> {
    void fired(exchange.scope.signal).then(() => this.gone.open())
    this.begun.open()
    await this.finish.passed
  }
}

async function* chunksOf(count: number, failAfter = Number.POSITIVE_INFINITY) {
  for (let index = 0; index < count; index++) {
    if (index === failAfter) throw new Error('the source failed')
    await new Promise((resolve) => setImmediate(resolve))
    yield `${'x'.repeat(1_000)}\n`
  }
}

/** Every way a request can end, outside and inside a transaction. */
export function describeEndings(driver: HttpDriver, database: () => ContractDatabase): void {
  describe.each([
    { inside: false, where: 'in an ordinary route' },
    { inside: true, where: 'in a route with a transaction' },
  ])('$where', ({ inside }) => {
    const get = (handle: ContractRoute['handle'], more: Partial<ContractRoute> = {}): ContractRoute => ({
      method: 'GET',
      path: '/',
      transaction: inside,
      handle,
      ...more,
    })
    const post: typeof get = (handle, more) => get(handle, { method: 'POST', ...more })
    const open = (route: ContractRoute, options?: StageOptions) => Stage.open(driver, database(), [route], options)
    /** What is kept of something that was written by a request that failed. */
    const unlessInside = (...written: string[]) => (inside ? [] : written)

    it('ends after a GET', async () => {
      const stage = await open(get(async ({ scope }) => scope.db.select().from(notes)))
      const { status, body } = await stage.client.get('/')
      expect([status, body]).toEqual([200, '[]'])
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ scope: { name: 'GET /' }, outcome: 'completed' }])
    })

    it('ends after a POST and keeps what it wrote, without ever firing the signal', async () => {
      const after = new Gate<boolean>()
      const stage = await open(
        post(async (exchange) => {
          exchange.scope.defer(() => after.open(exchange.scope.signal.aborted))
          await write(exchange, String((exchange.body as { note: string }).note))
          return { done: true }
        }),
      )
      const { status, body } = await stage.client.post('/', { note: 'kept' })
      expect([status, body]).toEqual([200, '{"done":true}'])
      expect(await stage.notes()).toEqual(['kept'])
      expect(await after.passed).toBe(false)
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'completed' }])
    })

    it('ends after a handler that replies from a callback', async () => {
      const stage = await open(
        post((exchange) => {
          write(exchange, 'called back').then(() => exchange.send({ done: true }))
        }),
      )
      expect((await stage.client.post('/')).status).toBe(200)
      expect(await stage.notes()).toEqual(['called back'])
      await stage.expectNothingLeft()
    })

    it('ends after a handler that throws at once', async () => {
      const stage = await open(
        get(() => {
          throw new Error('thrown at once')
        }),
      )
      expect((await stage.client.get('/')).status).toBe(500)
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'failed' }])
    })

    it('ends after a handler that rejects, and a transaction keeps nothing of it', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'before the error')
          throw new Error('thrown later')
        }),
      )
      expect((await stage.client.post('/')).status).toBe(500)
      expect(await stage.notes()).toEqual(unlessInside('before the error'))
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'failed' }])
    })

    it('keeps nothing of a transaction that is answered with 409', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'out of stock')
          exchange.status(409)
          return { reason: 'out of stock' }
        }),
      )
      expect(await stage.client.post('/')).toMatchObject({ status: 409, body: '{"reason":"out of stock"}' })
      expect(await stage.notes()).toEqual(unlessInside('out of stock'))
      await stage.expectNothingLeft()
    })

    it('ends when no route fits', async () => {
      const stage = await open(get(() => ({})))
      expect((await stage.client.get('/somewhere-else')).status).toBe(404)
      await stage.expectNothingLeft()
    })

    it('cancels the statement of a GET whose client goes away', async () => {
      const failed = new Gate<unknown>()
      const stage = await open(
        get(async (exchange) => {
          const error = await failureOf(sleep(exchange, 20))
          failed.open(error)
          throw error
        }),
      )
      const request = stage.client.begin('GET', '/')
      await until(async () => (await stage.backends()).some(({ state }) => state === 'active'))
      request.destroy()
      expect(await failed.passed).toBeInstanceOf(ScopeAbortedError)
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
    })

    it.each([
      { returns: 'a value', result: { done: true } },
      { returns: 'nothing', result: undefined },
    ])(
      'lets a POST finish and keeps its work when its client goes away, if it returns $returns',
      async ({ result }) => {
        const meeting = new Meeting()
        const stage = await open(
          post(async (exchange) => {
            await meeting.arrive(exchange)
            await write(exchange, 'charged')
            return result
          }),
        )
        const request = stage.client.begin('POST', '/', { card: 1 })
        await meeting.begun.passed
        request.destroy()
        await meeting.gone.passed
        meeting.finish.open()
        await stage.expectNothingLeft()
        expect(await stage.notes()).toEqual(['charged'])
        expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
        expect(stage.warnings()).toEqual([])
      },
    )

    it('lets a POST that replies from a callback finish when its client goes away', async () => {
      const meeting = new Meeting()
      const stage = await open(
        post((exchange) => {
          void meeting
            .arrive(exchange)
            .then(() => write(exchange, 'charged'))
            .then(() => exchange.send({ done: true }))
        }),
      )
      const request = stage.client.begin('POST', '/', { card: 1 })
      await meeting.begun.passed
      request.destroy()
      await meeting.gone.passed
      meeting.finish.open()
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(['charged'])
      expect(stage.warnings()).toEqual([])
    })

    it('fires the signal of a POST when its client goes away', async () => {
      const [begun, seen] = [new Gate(), new Gate<unknown>()]
      const stage = await open(
        post(async ({ scope }) => {
          begun.open()
          seen.open(await fired(scope.signal))
          return {}
        }),
      )
      const request = stage.client.begin('POST', '/', {})
      await begun.passed
      request.destroy()
      expect(await seen.passed).toMatchObject({ reason: 'client' })
      await stage.expectNothingLeft()
    })

    it('ends when the client goes away during an upload', async () => {
      const stage = await open(post(async (exchange) => write(exchange, 'never')))
      const request = stage.client.beginUpload('/')
      await until(() => stage.scopes.snapshot().openScopes.request === 1)
      request.destroy()
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual([])
      expect(stage.warnings()).toEqual([])
    })

    it('ends when the client goes away during a stream', async () => {
      const source = Readable.from(chunksOf(1e9))
      const stage = await open(get((exchange) => exchange.stream(source)))
      const request = stage.client.begin('GET', '/')
      await stage.client.reading(request)
      request.destroy()
      await stage.expectNothingLeft()
      await until(() => source.destroyed)
      expect(stage.warnings()).toEqual([])
    })

    it('ends when the client goes away before a stream has said anything', async () => {
      const begun = new Gate()
      const source = new Readable({ read: () => begun.open() })
      const stage = await open(get((exchange) => exchange.stream(source)))
      const request = stage.client.begin('GET', '/')
      await begun.passed
      request.destroy()
      await stage.expectNothingLeft()
      await until(() => source.destroyed)
      expect(stage.warnings()).toEqual([])
    })

    it('signals a handler that never settles at the close, and ends its scope after the settle timeout', async () => {
      const [begun, seen] = [new Gate(), new Gate<unknown>()]
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'half done')
          begun.open()
          seen.open(await fired(exchange.scope.signal))
          await never()
        }),
        { settleTimeoutMs: 50 },
      )
      const request = stage.client.begin('POST', '/', {})
      await begun.passed
      request.destroy()
      expect(await seen.passed).toMatchObject({ reason: 'client' })
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(unlessInside('half done'))
      expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
      expect(stage.warnings('POST /', String(stage.endings[0]?.scope.id), 'not settled')).toHaveLength(1)
    })

    it('ends a scope whose callback handler never replies', async () => {
      const begun = new Gate()
      const stage = await open(
        get(() => begun.open()),
        { settleTimeoutMs: 50 },
      )
      const request = stage.client.begin('GET', '/')
      await begun.passed
      request.destroy()
      await stage.expectNothingLeft()
      expect(stage.warnings('GET /', 'not settled')).toHaveLength(1)
    })

    it('ends with a response that was taken over and ended at once, and never commits it', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'taken over')
          exchange.takeOver().end('own words')
        }),
      )
      expect((await stage.client.post('/')).body).toBe('own words')
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(unlessInside('taken over'))
      expect(stage.warnings('POST /', 'rolled back')).toHaveLength(inside ? 1 : 0)
    })

    it('ends with a response that was taken over and whose client went away', async () => {
      const meeting = new Meeting()
      const stage = await open(
        post(async (exchange) => {
          const reply = exchange.takeOver()
          reply.writeHead(200)
          reply.write('first words')
          await meeting.arrive(exchange)
          await write(exchange, 'taken over')
          reply.end()
        }),
      )
      const request = stage.client.begin('POST', '/', {})
      await stage.client.reading(request)
      request.destroy()
      await meeting.gone.passed
      meeting.finish.open()
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(unlessInside('taken over'))
      expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
    })

    it('ends with a reply written to the raw response, and never commits it', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'raw')
          exchange.raw.end('raw words')
        }),
      )
      expect((await stage.client.post('/')).body).toBe('raw words')
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(unlessInside('raw'))
      expect(stage.warnings('POST /', 'rolled back')).toHaveLength(inside ? 1 : 0)
    })

    it('ends with a whole stream', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'streamed')
          return exchange.stream(Readable.from(chunksOf(100)))
        }),
      )
      expect((await stage.client.post('/')).body).toHaveLength(100 * 1_001)
      expect(await stage.notes()).toEqual(['streamed'])
      await stage.expectNothingLeft()
    })

    it('ends with a stream whose source fails', async () => {
      const stage = await open(
        post(async (exchange) => {
          await write(exchange, 'before the head')
          return exchange.stream(Readable.from(chunksOf(100, 50)))
        }),
      )
      expect(await brokeOff(stage.client.begin('POST', '/', {}))).toBe(true)
      expect(await stage.notes()).toEqual(['before the head'])
      await stage.expectNothingLeft()
    })

    it('reads a stream of rows to its end, but not one of a transaction that is committed', async () => {
      const stage = await open(
        get((exchange) => {
          async function* rows() {
            for await (const [row] of exchange.scope.db.$client`select n from generate_series(1, 50) n`.cursor(1)) {
              yield `${row?.n}\n`
            }
          }
          return exchange.stream(Readable.from(rows()))
        }),
      )
      const { status, body } = await stage.client.get('/')
      if (inside) expect([status, JSON.parse(body)]).toMatchObject([500, { code: 'RSC_TRANSACTION_ENDED' }])
      else expect(body.trim().split('\n')).toHaveLength(50)
      await stage.expectNothingLeft()
    })

    it('answers 504 when a statement outlasts the deadline', async () => {
      const stage = await open(post(async (exchange) => sleep(exchange, 20), { timeoutMs: 100 }))
      const answer = await stage.client.post('/')
      expect(answer.status).toBe(504)
      expect(JSON.parse(answer.body)).toMatchObject({ status: 504, code: 'RSC_DEADLINE_EXCEEDED' })
      await stage.expectNothingLeft()
      expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
    })

    it('answers 504 when the handler does not notice the deadline, and keeps nothing of a transaction', async () => {
      const stage = await open(
        post(
          async (exchange) => {
            await write(exchange, 'too slow')
            await never()
          },
          { timeoutMs: 100 },
        ),
        { settleTimeoutMs: 50 },
      )
      expect((await stage.client.post('/')).status).toBe(504)
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(unlessInside('too slow'))
    })

    it('ends when the server cuts a silent connection', async () => {
      const cut = new Gate()
      const stage = await open(
        post(async (exchange) => {
          await fired(exchange.scope.signal)
          await write(exchange, 'charged')
          cut.open()
        }),
        { connectionTimeoutMs: 100 },
      )
      expect(await brokeOff(stage.client.begin('POST', '/', {}))).toBe(true)
      await cut.passed
      await stage.expectNothingLeft()
      expect(await stage.notes()).toEqual(['charged'])
    })

    it('gives every request of a connection that is kept alive a scope of its own', async () => {
      const stage = await open(get(async ({ scope }) => ({ id: scope.id })))
      const socket = await stage.client.socket()
      let received = ''
      socket.on('data', (chunk) => {
        received += chunk
      })
      const ids = () => [...received.matchAll(/{"id":"([^"]+)"}/g)].map(([, id]) => id)
      for (const count of [1, 2, 3]) {
        socket.write('GET / HTTP/1.1\r\nhost: test\r\n\r\n')
        await until(() => ids().length === count)
      }
      expect(new Set(ids()).size).toBe(3)
      await stage.expectNothingLeft()
      expect(stage.endings).toHaveLength(3)
      socket.destroy()
    })

    it('ends the scopes of requests that waited in a pipeline for a connection that is gone', async () => {
      const meetings = [new Meeting(), new Meeting()]
      let count = 0
      const stage = await open(
        post(async (exchange) => {
          await meetings[count++]?.arrive(exchange)
          return {}
        }),
      )
      const socket = await stage.client.socket()
      socket.write('POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n'.repeat(2))
      for (const meeting of meetings) await meeting.begun.passed
      socket.destroy()
      for (const meeting of meetings) await meeting.gone.passed
      for (const meeting of meetings) meeting.finish.open()
      await stage.expectNothingLeft()
      expect(stage.endings).toHaveLength(2)
    })

    if (driver.handlerTimeouts) {
      it("cancels what runs when the framework's own handler timeout answers", async () => {
        const failed = new Gate<unknown>()
        const stage = await open(
          get(
            async (exchange) => {
              await write(exchange, 'before the timeout')
              await sleep(exchange, 20).catch(() => {})
              failed.open(await failureOf(write(exchange, 'after the timeout')))
            },
            { handlerTimeoutMs: 100 },
          ),
        )
        expect((await stage.client.get('/')).status).toBe(503)
        expect((await failed.passed) as ReqscopeError).toHaveProperty('code')
        await stage.expectNothingLeft()
        expect(await stage.notes()).toEqual(unlessInside('before the timeout'))
      })
    }

    if (driver.inject) {
      it('ends after a request without a network', async () => {
        const stage = await open(post(async (exchange) => write(exchange, 'injected').returning({ text: notes.text })))
        const answer = await stage.app.inject?.({ method: 'POST', path: '/' })
        expect(answer).toMatchObject({ status: 200, body: '[{"text":"injected"}]' })
        expect(await stage.notes()).toEqual(['injected'])
        await stage.expectNothingLeft()
        expect(stage.endings).toHaveLength(1)
      })
    }

    if (driver.http2) {
      it('ends after requests over HTTP/2', async () => {
        const stage = await open(
          post(async (exchange) => write(exchange, `over HTTP/2 ${exchange.scope.id}`).returning()),
          { http2: true },
        )
        const session = connect(`http://127.0.0.1:${stage.app.port}`)
        for (const count of [1, 2]) {
          const stream = session.request({ ':method': 'POST', ':path': '/', 'content-type': 'application/json' })
          stream.end('{}')
          expect(await text(stream)).toContain('over HTTP/2')
          expect(await stage.notes()).toHaveLength(count)
        }
        await stage.expectNothingLeft()
        expect(stage.endings).toMatchObject([{ outcome: 'completed' }, { outcome: 'completed' }])
        session.close()
      })

      it('cancels the statement of a GET over HTTP/2 whose stream is reset', async () => {
        const stage = await open(
          get((exchange) => sleep(exchange, 20)),
          { http2: true },
        )
        const session = connect(`http://127.0.0.1:${stage.app.port}`)
        const stream = session.request({ ':path': '/' })
        stream.on('error', () => {})
        await until(async () => (await stage.backends()).some(({ state }) => state === 'active'))
        stream.close(8)
        await stage.expectNothingLeft()
        expect(stage.endings).toMatchObject([{ outcome: 'aborted' }])
        session.close()
      })

      it('lets a POST over HTTP/2 finish when its session is destroyed', async () => {
        const meeting = new Meeting()
        const stage = await open(
          post(async (exchange) => {
            await meeting.arrive(exchange)
            await write(exchange, 'charged')
            return { done: true }
          }),
          { http2: true },
        )
        const session = connect(`http://127.0.0.1:${stage.app.port}`)
        const stream = session.request({ ':method': 'POST', ':path': '/', 'content-type': 'application/json' })
        stream.on('error', () => {})
        stream.end('{}')
        await meeting.begun.passed
        session.destroy()
        await meeting.gone.passed
        meeting.finish.open()
        await stage.expectNothingLeft()
        expect(await stage.notes()).toEqual(['charged'])
      })
    }
  })
}
