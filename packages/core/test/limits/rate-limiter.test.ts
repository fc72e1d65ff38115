import { randomUUID } from 'node:crypto'
import { startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type ConsumeOptions, createScopes, RateLimitExceededError, type Scopes } from '../../src/index.ts'
import { rateLimited } from '../../src/limits/index.ts'
import { type RateLimitOptions, rateLimitRule } from '../../src/limits/rate-limit-options.ts'
import { RateLimiter } from '../../src/limits/rate-limiter.ts'
import { RateLimits } from '../../src/limits/rate-limits.ts'
import { RedisStore } from '../../src/limits/redis-store.ts'
import { RefusedTable } from '../../src/limits/refused-table.ts'
import { sharedClientOf } from '../../src/redis/index.ts'
import { failureOf } from '../gate.ts'
import { memoryLogger } from '../memory-logger.ts'
import { CountedRedis } from './counted-redis.ts'

interface Call {
  readonly user: string
  readonly address?: string
}

async function connected(url?: string, as?: { isCluster: boolean }): Promise<CountedRedis> {
  const redis = new CountedRedis({ url: url ?? (await testRedis()) }, as)
  const close = await redis.open()
  onTestFinished(close)
  return redis
}

/** A limiter, and what decides on one call under these limits. */
function limiterOn(redis: CountedRedis | undefined) {
  const { logger, logs } = memoryLogger()
  const limiter = new RateLimiter(redis === undefined ? undefined : new RedisStore(redis.access), () => logger)
  const identity = randomUUID()
  const limitsOf = (...all: RateLimitOptions<Call>[]) =>
    new RateLimits<Call>(
      all.map((each, index) => rateLimitRule(each, `limits[${index}]`)),
      identity,
      ({ address }) => address ?? '192.0.2.1',
    )
  const decide = async (limits: RateLimits<Call>, call: Call) => limiter.decide(await limits.windows(call))
  return { limiter, logs, limitsOf, decide }
}

const user = ({ user }: Call) => user

describe.each(['redis', 'local'] as const)('rate limits, counted by %s', (kind) => {
  const setUp = async () => limiterOn(kind === 'redis' ? await connected() : undefined)

  it('lets exactly the limit through at once, and names what refuses', async () => {
    const { decide, limitsOf } = await setUp()
    const limits = limitsOf({ limit: 7, windowMs: 60_000, key: user })
    const decisions = []
    for (let count = 0; count < 9; count++) decisions.push(await decide(limits, { user: 'a' }))
    expect(decisions.map(({ tag }) => tag)).toEqual([...new Array(7).fill('passed'), 'refused', 'refused'])
    const [first] = decisions
    const last = decisions[7]
    expect(first).toMatchObject({ states: [{ name: '60s', limit: 7, windowMs: 60_000, remaining: 6 }] })
    if (last?.tag !== 'refused') throw new Error('it passed')
    expect(last.toError()).toMatchObject({ statusCode: 429, violated: ['60s'], states: [{ remaining: 0 }] })
    expect(last.retryAfterMs).toBeGreaterThan(8_000)
    expect(last.retryAfterMs).toBeLessThanOrEqual(8_572)
    expect(await decide(limits, { user: 'b' })).toMatchObject({ tag: 'passed' })
  })

  it('consumes nothing in any window when one refuses', async () => {
    const { decide, limitsOf } = await setUp()
    const both = limitsOf({ limit: 2, windowMs: 60_000, key: user }, { limit: 100, windowMs: 3_600_000, key: user })
    for (let count = 0; count < 10; count++) await decide(both, { user: 'a' })
    const second = limitsOf({ limit: 100, windowMs: 3_600_000, key: user })
    expect(await decide(second, { user: 'a' })).toMatchObject({ tag: 'passed', states: [{ remaining: 97 }] })
  })

  it('counts in a shadow and never refuses by it', async () => {
    const { decide, limitsOf } = await setUp()
    const limits = limitsOf(
      { limit: 1, windowMs: 60_000, key: user, shadow: true, name: 'planned' },
      { limit: 3, windowMs: 60_000, key: user },
    )
    const tags = []
    for (let count = 0; count < 4; count++) tags.push((await decide(limits, { user: 'a' })).tag)
    expect(tags).toEqual(['passed', 'passed', 'passed', 'refused'])
  })

  it('knows plans, costs, keys that take time, and whom to skip', async () => {
    const { decide, limitsOf } = await setUp()
    const limits = limitsOf({
      limit: async ({ user }) => ({ free: 2, none: 0, root: Number.POSITIVE_INFINITY })[user] ?? 10,
      windowMs: 60_000,
      cost: ({ user }) => (user === 'heavy' ? 6 : 1),
      key: async ({ user }) => user,
      skip: ({ user }) => user === 'probe',
    })
    const passedOf = async (user: string, calls: number) => {
      let passed = 0
      for (let count = 0; count < calls; count++) if ((await decide(limits, { user })).tag === 'passed') passed++
      return passed
    }
    expect(await passedOf('free', 5)).toBe(2)
    expect(await passedOf('none', 5)).toBe(0)
    expect(await passedOf('root', 50)).toBe(50)
    expect(await passedOf('probe', 50)).toBe(50)
    expect(await passedOf('heavy', 3)).toBe(1)
    const none = await decide(limits, { user: 'none' })
    expect(none).toMatchObject({ tag: 'refused', retryAfterMs: undefined })
  })

  it('counts addresses where there is no key: IPv6 by /64, mapped IPv4 as IPv4', async () => {
    const { decide, limitsOf } = await setUp()
    const limits = limitsOf({ limit: 1, windowMs: 60_000 })
    const tags = []
    for (const address of [
      '203.0.113.9',
      '::ffff:203.0.113.9',
      '::ffff:cb00:7109',
      '2001:db8:1:2::1',
      '2001:db8:1:2:ffff::9',
      '2001:db8:1:3::1',
      'fe80::1%eth0',
      'fe80::2',
    ]) {
      tags.push((await decide(limits, { user: '', address })).tag)
    }
    expect(tags).toEqual(['passed', 'refused', 'refused', 'passed', 'refused', 'passed', 'passed', 'refused'])
  })
})

describe('rate limits on Redis', () => {
  it('refuses who was refused already from memory, until it may pass', async () => {
    const redis = await connected()
    const { decide, limitsOf } = limiterOn(redis)
    const limits = limitsOf({ limit: 2, windowMs: 400, key: user })
    await decide(limits, { user: 'a' })
    await decide(limits, { user: 'a' })
    const refused = await decide(limits, { user: 'a' })
    if (refused.tag !== 'refused') throw new Error('it passed')
    const before = redis.calls
    for (let count = 0; count < 100; count++) expect((await decide(limits, { user: 'a' })).tag).toBe('refused')
    expect(redis.calls).toBe(before)
    await new Promise((resolve) => setTimeout(resolve, (refused.retryAfterMs ?? 0) + 2))
    expect((await decide(limits, { user: 'a' })).tag).toBe('passed')
  })

  it('asks once for several windows, and in a cluster once for each subject, giving back what a later one refuses', async () => {
    const all = (options: { limitsOf: ReturnType<typeof limiterOn>['limitsOf'] }) =>
      options.limitsOf(
        { limit: 5, windowMs: 1_000, key: user },
        { limit: 50, windowMs: 60_000, key: user },
        { limit: 1, windowMs: 3_600_000, key: () => 'everybody' },
      )
    const single = await connected()
    const one = limiterOn(single)
    await one.decide(all(one), { user: 'a' })
    expect(single.calls).toBe(1)
    const cluster = await connected(undefined, { isCluster: true })
    const many = limiterOn(cluster)
    await many.decide(all(many), { user: 'a' })
    expect(cluster.calls).toBe(2)
    expect((await many.decide(all(many), { user: 'b' })).tag).toBe('refused')
    const alone = many.limitsOf({ limit: 5, windowMs: 1_000, key: user })
    await new Promise((resolve) => setImmediate(resolve))
    expect(await many.decide(alone, { user: 'b' })).toMatchObject({ tag: 'passed', states: [{ remaining: 4 }] })
  })

  it('counts on by itself within the time the store has, and comes back to it', async () => {
    const server = await startRedis({ own: true })
    onTestFinished(() => server.stop())
    const redis = await connected(server.url)
    const { decide, limitsOf, logs } = limiterOn(redis)
    const limits = limitsOf({ limit: 3, windowMs: 60_000, key: user, storeTimeoutMs: 50 })
    await decide(limits, { user: 'a' })
    server.kill('SIGSTOP')
    const since = performance.now()
    const tags = []
    for (let count = 0; count < 4; count++) tags.push((await decide(limits, { user: 'a' })).tag)
    expect(performance.now() - since).toBeLessThan(500) // one wait of 50 ms, not four
    expect(tags).toEqual(['passed', 'passed', 'passed', 'refused'])
    const open = limitsOf({ limit: 1, windowMs: 60_000, key: user, onStoreFailure: 'allow' })
    for (let count = 0; count < 5; count++)
      expect(await decide(open, { user: 'a' })).toMatchObject({ tag: 'passed', states: [] })
    const strict = limitsOf({ limit: 1, windowMs: 60_000, key: user, onStoreFailure: 'refuse' })
    expect(await failureOf(decide(strict, { user: 'a' }))).toMatchObject({
      code: 'RSC_OVERLOADED',
      reason: 'rate-limit-store',
      statusCode: 503,
    })
    expect(logs.map(({ level }) => level)).toEqual(['warn'])
    server.kill('SIGCONT')
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    expect(await decide(limits, { user: 'b' })).toMatchObject({ states: [{ remaining: 2 }] })
    expect(logs.map(({ level }) => level)).toEqual(['warn', 'info'])
  })

  it('keeps neither a long key nor a brace in the names of its keys', async () => {
    const redis = await connected()
    const { decide, limitsOf } = limiterOn(redis)
    const secret = `token-${'x'.repeat(80)}`
    const limits = limitsOf({ limit: 5, windowMs: 10_000, key: user, group: 'names' })
    await decide(limits, { user: secret })
    await decide(limits, { user: 'a}b' })
    const keys = await sharedClientOf(redis.resource).keys('reqscope:limit:*names*')
    expect(keys.some((key) => key.includes(secret))).toBe(false)
    expect(keys).toContain('reqscope:limit:{key:a%7Db}:names:10s')
  })
})

describe('the table of the refused', () => {
  it('is bounded, and forgets the oldest', () => {
    const table = new RefusedTable(3)
    const rate = { p: 1_000_000, q: 1, burst: 1 }
    const rule = rateLimitRule({ limit: 1, windowMs: 1_000 }, 'limit')
    const window = (key: string, of = {}) => ({
      ...{ key, rate, cost: 1, shadow: false, rule, limit: 1, windowMs: 1_000, subject: key },
      ...of,
    })
    for (const key of ['a', 'b', 'c', 'd']) table.add(window(key), 1_000_000, 0)
    expect(table.size).toBe(3)
    expect(table.refusalOf(window('a'), 0)).toBeUndefined()
    expect(table.refusalOf(window('d'), 500)).toMatchObject({ retryAfterMs: 500 })
    expect(table.refusalOf(window('d'), 504)).toMatchObject({ retryAfterMs: 500 })
    expect(table.refusalOf(window('d', { limit: 2, windowMs: 2_000 }), 504)).toMatchObject({ retryAfterMs: 496 })
    expect(table.refusalOf(window('d'), 506)).toMatchObject({ retryAfterMs: 494 })
    expect(table.refusalOf(window('d'), 1_000)).toBeUndefined()
    expect(table.size).toBe(2)
  })
})

describe('scope.consume', () => {
  const appOn = (redis?: CountedRedis): Scopes => {
    const scopes = createScopes({ resources: redis === undefined ? {} : { redis: redis.resource } })
    onTestFinished(() => scopes.close({ timeoutMs: 500 }))
    return scopes as Scopes
  }

  it('consumes by name and key, from what all runtimes on one Redis share', async () => {
    const [one, other] = [
      appOn(new CountedRedis({ url: await testRedis() })),
      appOn(new CountedRedis({ url: await testRedis() })),
    ]
    const options = { name: randomUUID(), key: 42, limit: 5, windowMs: 60_000, cost: 2 }
    const take = (scopes: Scopes) => scopes.run({ name: 'export' }, (scope) => scope.consume(options))
    expect(await take(one)).toMatchObject({ name: options.name, remaining: 3 })
    expect(await take(other)).toMatchObject({ remaining: 1 })
    const refused = await failureOf(take(one))
    expect(refused).toBeInstanceOf(RateLimitExceededError)
    expect(refused).toMatchObject({ violated: [options.name], states: [{ remaining: 1 }] })
  })

  it.each([
    [{}, 'consume.name'],
    [{ name: 'x' }, 'consume.key'],
    [{ name: 'x', key: '' }, 'consume.key'],
    [{ name: 'x', key: 'y', limit: '5', windowMs: 1 }, 'consume.limit'],
    [{ name: 'x', key: 'y', limit: 5 }, 'consume.windowMs'],
    [{ name: 'x', key: 'y', limit: 5, windowMs: 1_000, cost: 6 }, 'consume.cost'],
    [{ name: 'x', key: 'y', limit: 5, windowMs: 1_000, max: 1 }, 'consume.max'],
    [{ name: 'x', key: 'y', limit: 5, windowMs: 1_000, onStoreFailure: 'pass' }, 'consume.onStoreFailure'],
  ])('refuses options that are wrong: %o', async (options, option) => {
    const refused = failureOf(appOn().run({ name: 't' }, (scope) => scope.consume(options as ConsumeOptions)))
    expect(await refused).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
  })

  it('is what a function that is rateLimited asks first', async () => {
    const exported: string[] = []
    const exportOrders = rateLimited(
      { key: (userId: string) => userId, limit: 1, windowMs: 60_000 },
      function exportOrders(userId: string) {
        exported.push(userId)
        return userId.length
      },
    )
    const scopes = appOn()
    const call = (userId: string) => scopes.run({ name: 't' }, () => exportOrders(userId))
    expect(await call('anna')).toBe(4)
    expect(await failureOf(call('anna'))).toMatchObject({ violated: ['exportOrders'] })
    expect(await call('ben')).toBe(3)
    expect(exported).toEqual(['anna', 'ben'])
    expect(await failureOf(exportOrders('carl'))).toMatchObject({ code: 'RSC_NO_ACTIVE_SCOPE' })
    expect(() => rateLimited({ name: 'x', key: String, limit: 0, windowMs: 1 }, () => 1)).toThrow(/rateLimited.limit/)
  })
})
