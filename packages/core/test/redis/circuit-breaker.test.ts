import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { testRedis } from '@reqscope/services/testing'
import type { Redis } from 'ioredis'
import { expect, it, onTestFinished } from 'vitest'
import { CircuitOpenError, InvalidOptionError } from '../../src/index.ts'
import { redis, sharedClientOf } from '../../src/redis/index.ts'
import { failureOf, ownServer, redisApp } from './fixture.ts'

function eventsOf(name: string): unknown[] {
  const events: unknown[] = []
  const keep = (event: unknown) => void events.push(event)
  subscribe(name, keep)
  onTestFinished(() => void unsubscribe(name, keep))
  return events
}

it('fails fast once Redis could not be reached several times, and works by itself when it is back', async () => {
  const server = await ownServer()
  const app = await redisApp({ url: server.url, circuitBreaker: { failures: 3 }, exclusive: { min: 2 } })
  const opened = eventsOf('reqscope:circuit:opened')
  const closed = eventsOf('reqscope:circuit:closed')
  const ask = () => app.run({ name: 'asks' }, (scope) => scope.redis.incr('circuit'))
  await ask()
  server.kill('SIGKILL')
  await expect.poll(async () => failureOf(ask()), { timeout: 5_000 }).toBeInstanceOf(CircuitOpenError)
  const since = performance.now()
  for (let count = 0; count < 100; count++) {
    const failure = (await failureOf(ask())) as CircuitOpenError
    expect(failure).toMatchObject({ code: 'RSC_CIRCUIT_OPEN', resource: 'redis', statusCode: 503 })
    expect(failure.retryAfterMs).toBeGreaterThan(0)
  }
  expect(performance.now() - since).toBeLessThan(1_000)
  expect(
    await failureOf(app.run({ name: 'asks' }, (scope) => scope.redis.exclusive((one) => one.get('circuit')))),
  ).toMatchObject({ code: 'RSC_CIRCUIT_OPEN' })
  expect((await app.health()).resources.redis).toMatchObject({ status: 'down', circuit: 'open' })
  expect(opened).toMatchObject([{ resource: 'redis', kept: 0 }])
  await server.restart()
  const back = performance.now()
  await expect.poll(() => ask().catch(() => 'fails'), { interval: 20 }).toBeTypeOf('number')
  expect(performance.now() - back).toBeLessThan(2_000)
  expect(closed).toEqual([{ resource: 'redis' }])
  expect((await app.health()).resources.redis).toMatchObject({ status: 'up', circuit: 'closed' })
})

it('keeps the exclusive connections that are alive when it opens', async () => {
  const proxy = await startChaosProxy({ target: await testRedis() })
  onTestFinished(() => proxy.close())
  const app = await redisApp({ url: proxy.url(await testRedis()), circuitBreaker: { failures: 1 } })
  const opened = eventsOf('reqscope:circuit:opened')
  await app.run({ name: 'uses one' }, (scope) => scope.redis.exclusive((one) => one.ping()))
  proxy.refuse()
  ;(sharedClientOf(app.resources.redis) as Redis).stream.destroy() // the others go on
  await expect.poll(() => opened).toMatchObject([{ resource: 'redis', discarded: 0 }])
  expect((opened[0] as { kept: number }).kept).toBeGreaterThan(0)
  await proxy.resume()
})

it('refuses options that are wrong', () => {
  const wrong = () => redis({ url: 'redis://localhost', circuitBreaker: { failures: 0 } })
  expect(wrong).toThrow(InvalidOptionError)
  expect(wrong).toThrow('redis.circuitBreaker.failures')
})
