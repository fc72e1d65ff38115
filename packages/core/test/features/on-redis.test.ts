import { randomUUID } from 'node:crypto'
import { startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import { expect, it, onTestFinished } from 'vitest'
import { createScopes } from '../../src/index.ts'
import { redis } from '../../src/redis/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { memoryLogger } from '../memory-logger.ts'

function appOn(url: string) {
  const scopes = createScopes({
    resources: { redis: redis({ url, commandTimeoutMs: 500 }) },
    logger: memoryLogger().logger,
  })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  return scopes
}

it('locks are kept by the Redis among the resources, and handed over between processes', async () => {
  const url = await testRedis()
  const [one, other] = [appOn(url), appOn(url)]
  const key = randomUUID()
  const order: string[] = []
  const [held, done] = [new Gate(), new Gate()]
  const first = one.run({ name: 'first' }, (scope) =>
    scope.lock(key, async () => {
      held.open()
      await done.passed
      order.push('first')
      await scope.redis.set(key, 'first')
    }),
  )
  await held.passed
  const second = other.run({ name: 'second' }, (scope) =>
    scope.lock(key, { waitMs: 5_000 }, async (lock) => {
      order.push('second')
      expect(await scope.redis.get(key)).toBe('first')
      return lock.fence
    }),
  )
  done.open()
  await first
  expect(await second).toBeGreaterThan(0)
  expect(order).toEqual(['first', 'second'])
})

it('rate limits are counted in the Redis among the resources, for all processes together', async () => {
  const url = await testRedis()
  const [one, other] = [appOn(url), appOn(url)]
  const consume = (app: typeof one, key: string) =>
    app.run({ name: 'exports' }, (scope) => scope.consume({ name: 'export', key, limit: 2, windowMs: 60_000 }))
  const key = randomUUID()
  await consume(one, key)
  await consume(other, key)
  expect(await failureOf(consume(one, key))).toMatchObject({ code: 'RSC_RATE_LIMIT_EXCEEDED', statusCode: 429 })
  expect(await failureOf(consume(other, key))).toMatchObject({ code: 'RSC_RATE_LIMIT_EXCEEDED' })
})

it('with Redis away a lock is refused and a limit is counted by the process alone, both within the timeout', async () => {
  const server = await startRedis({ own: true })
  const app = appOn(server.url)
  await app.start()
  await server.stop()
  await app.run({ name: 'orders' }, async (scope) => {
    expect(await failureOf(scope.lock('stock', () => {}))).toMatchObject({ code: 'RSC_LOCK_UNAVAILABLE' })
    const limit = { name: 'orders', key: 'one', limit: 1, windowMs: 60_000 }
    await scope.consume(limit)
    expect(await failureOf(scope.consume(limit))).toMatchObject({ code: 'RSC_RATE_LIMIT_EXCEEDED' })
  })
})
