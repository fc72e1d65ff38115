import { Redis } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { createScopes, defineResource, JobPayloadError, ScopeLeakError } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import { checkedPayload } from '../../src/jobs/payload.ts'
import { failureOf, jobApp, ordersDatabase } from './fixture.ts'

const limits = { maxBytes: 262_144, asJsonb: false }
const check = (data: unknown, more: Partial<typeof limits> = {}) => checkedPayload('mail', data, { ...limits, ...more })
const refusal = (data: unknown, more: Partial<typeof limits> = {}) => {
  try {
    check(data, more)
  } catch (error) {
    return error as JobPayloadError
  }
  throw new Error('it was accepted')
}

class Money {
  readonly cents = 1
}

describe('a payload', () => {
  it('is stored as it is where JSON keeps it', () => {
    const data = { a: [1, 'two', null, true, { b: {} }, []], 'odd key': -1.5e300, nothing: undefined }
    expect(check(data)).toEqual({ a: [1, 'two', null, true, { b: {} }, []], 'odd key': -1.5e300 })
    expect(check(Object.assign(Object.create(null), { x: 1 }))).toEqual({ x: 1 })
  })

  it.each<[string, unknown, string]>([
    ['a Date', { items: [1, 2, 3, { when: new Date() }] }, 'data.items[3].when'],
    ['a Map', { seen: new Map() }, 'data.seen'],
    ['a Set', { seen: new Set() }, 'data.seen'],
    ['a class instance', { total: new Money() }, 'data.total'],
    ['an array of a class', { rows: new (class Rows extends Array {})() }, 'data.rows'],
    ['a function', { done: () => {} }, 'data.done'],
    ['a symbol', { s: Symbol('s') }, 'data.s'],
    ['a symbol key', { inner: { [Symbol('k')]: 1 } }, 'data.inner'],
    ['a bigint', { n: 1n }, 'data.n'],
    ['NaN', { n: Number.NaN }, 'data.n'],
    ['Infinity', [Number.POSITIVE_INFINITY], 'data[0]'],
    ['undefined in a list', { list: [1, undefined] }, 'data.list[1]'],
    ['a hole in a list', { list: new Array(2) }, 'data.list[0]'],
    ['nothing at all', undefined, 'data'],
    ['a promise', { p: Promise.resolve(1) }, 'data.p'],
    ['bytes', { bytes: Buffer.from('x') }, 'data.bytes'],
    ['a boxed string', { text: Object('x') }, 'data.text'],
    ['a Proxy', { p: new Proxy({}, {}) }, 'data.p'],
    ['a Proxy of a list', { p: new Proxy([], {}) }, 'data.p'],
    ['toJSON', { money: { cents: 1, toJSON: () => 1 } }, 'data.money.toJSON'],
    ['a prototype of its own', { p: Object.create({ inherited: 1 }) }, 'data.p'],
    ['__proto__ as a key', { p: JSON.parse('{"__proto__":{"admin":true}}') }, 'data.p.__proto__'],
    ['a key that is no name', { 'a b': { 'c-d': 1n } }, 'data["a b"]["c-d"]'],
  ])('is refused for %s, with the path', (_name, data, path) => {
    const error = refusal(data)
    expect(error).toBeInstanceOf(JobPayloadError)
    expect(error.path).toBe(path)
    expect(error.message).toContain(path)
    expect(error.message).toContain('mail')
  })

  it('is refused for a cycle, which is named', () => {
    const data: Record<string, unknown> = { list: [] }
    ;(data.list as unknown[]).push({ back: data.list })
    const error = refusal(data)
    expect(error).toBeInstanceOf(JobPayloadError)
    expect(error.found).toContain('a cycle')
  })

  it('is read once: what a getter says later changes nothing', () => {
    let reads = 0
    const data = {
      get value() {
        return ++reads === 1 ? 'plain' : new Date()
      },
    }
    expect(JSON.stringify(check(data))).toBe('{"value":"plain"}')
  })

  it('is refused where a getter throws, with its error as cause', () => {
    const data = {
      get value(): string {
        throw new Error('lazy')
      },
    }
    expect(refusal(data)).toMatchObject({ path: 'data.value', cause: { message: 'lazy' } })
  })

  it('is refused for a toJSON that all objects inherit', () => {
    Object.defineProperty(Object.prototype, 'toJSON', { value: () => 'gone', configurable: true })
    try {
      expect(refusal({ a: 1 })).toMatchObject({ path: 'data' })
    } finally {
      Reflect.deleteProperty(Object.prototype, 'toJSON')
    }
  })

  it('is refused when it is larger than maxPayloadBytes, to the byte', () => {
    const fits = { text: 'x'.repeat(89) } // {"text":"…"} adds 11
    expect(check(fits, { maxBytes: 100 })).toEqual(fits)
    expect(refusal({ text: 'x'.repeat(90) }, { maxBytes: 100 }).found).toContain('too large')
    expect(refusal({ text: 'ü'.repeat(45) }, { maxBytes: 100 }).found).toContain('101 bytes')
    expect(refusal({ text: '\u0000'.repeat(15) }, { maxBytes: 100 }).found).toContain('101 bytes')
    expect(refusal(new Array(60).fill({}), { maxBytes: 100 }).found).toContain('too large')
    expect(refusal(new Array(6).fill(1 / 3), { maxBytes: 100 }).found).toContain('too large')
  })

  it('is weighed to the byte whatever it is made of', () => {
    const kinds = [
      false,
      true,
      null,
      1 / 3,
      -2_147_483_648,
      1e21,
      'plain',
      'quo"te',
      'ü',
      '\u0001',
      {},
      [],
      { 'a b': {} },
    ]
    for (const kind of kinds) {
      const data = Array.from({ length: 40 }, () => ({ key: kind, ü: [kind] }))
      const bytes = Buffer.byteLength(JSON.stringify(data))
      expect(check(data, { maxBytes: bytes })).toEqual(data)
      expect(refusal(data, { maxBytes: bytes - 1 }).found).toContain('too large')
    }
  })

  it('of ten megabytes, or of shared parts that multiply, is refused early', () => {
    expect(refusal({ text: 'x'.repeat(10 * 1024 * 1024) }).path).toBe('data.text')
    let bomb: unknown = ['x']
    for (let level = 0; level < 60; level++) bomb = [bomb, bomb]
    expect(refusal(bomb).found).toContain('too large')
    expect(refusal(new Array(1e8)).found).toContain('too large')
  })

  it('for Postgres has no characters that jsonb does not store', () => {
    expect(check({ text: '\u0000' })).toEqual({ text: '\u0000' })
    expect(refusal({ text: 'a\u0000' }, { asJsonb: true }).path).toBe('data.text')
    expect(refusal({ text: '\ud800' }, { asJsonb: true }).path).toBe('data.text')
    expect(check({ text: '\u{1f600}' }, { asJsonb: true })).toEqual({ text: '\u{1f600}' })
  })

  it('never shows a password that an ioredis client would give away', () => {
    const client = new Redis({ password: 'geheim', lazyConnect: true })
    const error = refusal({ deep: { client } })
    client.disconnect()
    expect(error.path).toBe('data.deep.client')
    expect(`${error.message}${JSON.stringify(error)}`).not.toContain('geheim')
  })
})

describe('what belongs to a scope', () => {
  const anything = defineJob<{ session: unknown }>()({ name: 'send-receipt', queue: 'leaks', run: () => {} })

  it('is refused in a payload, with scope, route and path', async () => {
    const database = await ordersDatabase()
    const app = await jobApp(database)
    await app.run({ name: 'POST /orders', kind: 'request', id: 'req-1' }, async (scope) => {
      const forced = (session: unknown) => failureOf(scope.enqueue(anything, { session }))
      for (const value of [scope.db, scope, scope.db.$client, scope.db.$client`select 1`]) {
        const error = (await forced(value)) as ScopeLeakError
        expect(error).toBeInstanceOf(ScopeLeakError)
        expect(error.message).toContain('data.session of job send-receipt belongs to request POST /orders (req-1)')
      }
      await scope.db.transaction(async (tx) => {
        expect(await forced({ tx })).toMatchObject({ path: 'data.session.tx of job send-receipt' })
      })
      // As a Fastify or Express request would be: an instance whose scope it is.
      class Request {
        scope = scope
      }
      expect(await forced([new Request()])).toMatchObject({ path: 'data.session[0] of job send-receipt' })
    })
    expect(await app.jobs.queueOf(anything).count()).toBe(0)
  })

  it('is known for handles of a resource of the user’s own', async () => {
    const scopes = createScopes({ resources: { mailer: defineResource({ handle: () => ({ send() {} }) }) } })
    await scopes.run({ name: 'GET /mail' }, (scope) => {
      expect(refusal({ mailer: scope.mailer })).toBeInstanceOf(ScopeLeakError)
    })
    await scopes.close()
  })
})
