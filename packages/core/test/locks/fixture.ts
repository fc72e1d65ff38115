import { randomUUID } from 'node:crypto'
import { testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { onTestFinished } from 'vitest'
import { createScopes, type Scopes } from '../../src/index.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'
import { redisResource, type TestRedis } from './redis-resource.ts'

export { failureOf, Gate } from '../gate.ts'

export type LockApp = Scopes<{ redis: TestRedis }> & { readonly logs: LogLine[]; readonly redis: TestRedis }

/** A runtime with a Redis; each one is as good as a process of its own. Closed after the test. */
export async function lockApp(options: { url?: string; commandTimeoutMs?: number } = {}): Promise<LockApp> {
  const { logger, logs } = memoryLogger()
  const redis = redisResource(options.url ?? (await testRedis()), options)
  const scopes = createScopes({ resources: { redis }, logger })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  return Object.assign(scopes, { logs, redis })
}

/** A key nobody else uses. */
export function freshKey(): string {
  return `k-${randomUUID()}`
}

/** A client beside those under test, to look at what is stored. */
export async function redisObserver(url?: string): Promise<Redis> {
  const client = new Redis(url ?? (await testRedis()))
  client.on('error', () => {})
  onTestFinished(() => client.disconnect())
  return client
}

/** Waits until `condition` holds, without being told. */
export async function until(condition: () => boolean | Promise<boolean>, forMs = 5_000): Promise<void> {
  const deadline = performance.now() + forMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`it did not come to hold within ${forMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** How many wait in the queue of a key. */
export function queueLength(redis: Redis, key: string): Promise<number> {
  return redis.zcard(`reqscope:lock:{${key}}:q`)
}

/** Keeps the event loop from turning. */
export function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
