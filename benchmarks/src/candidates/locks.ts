// Takes locks with the library that LIBRARY names, as a user would, and measures what is asked.
import { createScopes } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import { Redis } from 'ioredis'
import { Mutex } from 'redis-semaphore'
import Redlock from 'redlock'
import { createLock, IoredisAdapter } from 'redlock-universal'

export interface LockQuestion {
  readonly task: 'pairs' | 'hand-over' | 'waiters'
  /** How many ask at once. */
  readonly concurrency: number
  readonly ms: number
  /** For hand-overs: how long each holds the key. */
  readonly holdMs: number
}

export interface LockAnswer {
  readonly perSecond: number
  readonly medianMs: number
  readonly p99Ms: number
  readonly commandsEach: number
  readonly bytesPerWaiter: number
}

type WithLock = (key: string, fn: () => Promise<void>) => Promise<void>

/** Runs what takes one lock after the other, as a request would. */
type Lane = (fn: (withLock: WithLock) => Promise<void>) => Promise<void>

const TTL_MS = 30_000
const url = process.env.REDIS_URL ?? ''
const library = process.env.LIBRARY ?? ''
const pipelined = process.env.PIPELINED === '1'

async function open(): Promise<Lane> {
  if (library === 'reqscope') {
    const scopes = createScopes({ resources: { redis: redis({ url, autoPipelining: pipelined }) } })
    await scopes.start()
    return (fn) =>
      scopes.run({ name: 'work' }, (scope) =>
        fn((key, held) => scope.lock(key, { ttlMs: TTL_MS, waitMs: 120_000 }, held)),
      )
  }
  const withLock = peer(new Redis(url, { enableAutoPipelining: pipelined }))
  return (fn) => fn(withLock)
}

function peer(client: Redis): WithLock {
  if (library === 'redis-semaphore') {
    return async (key, fn) => {
      const mutex = new Mutex(client as never, key, { lockTimeout: TTL_MS, acquireTimeout: 120_000 })
      await mutex.acquire()
      try {
        await fn()
      } finally {
        await mutex.release()
      }
    }
  }
  if (library === 'redlock') {
    const redlock = new Redlock([client as never], { retryCount: -1, retryDelay: 10, retryJitter: 5 })
    return (key, fn) => redlock.using([key], TTL_MS, {}, fn)
  }
  const adapter = new IoredisAdapter(client as never)
  return (key, fn) => createLock({ adapter, key, ttl: TTL_MS, retryAttempts: 100_000, retryDelay: 10 }).using(fn)
}

async function pairs(lane: Lane, { concurrency, ms }: LockQuestion): Promise<Partial<LockAnswer>> {
  let count = 0
  const until = performance.now() + ms
  const one = (index: number) =>
    lane(async (withLock) => {
      for (let turn = 0; performance.now() < until; turn++, count++) {
        await withLock(`pair:${index}:${turn % 8}`, nothing)
      }
    })
  const startedAt = performance.now()
  await Promise.all(Array.from({ length: concurrency }, (_, index) => one(index)))
  return { perSecond: (count * 1_000) / (performance.now() - startedAt) }
}

/** The time between one holder's end and the next one's begin. */
async function handOver(lane: Lane, question: LockQuestion): Promise<Partial<LockAnswer>> {
  const gaps: number[] = []
  let freeAt: number | undefined
  const until = performance.now() + question.ms
  const before = commands
  const one = () =>
    lane(async (withLock) => {
      while (performance.now() < until) {
        await withLock('contended', async () => {
          if (freeAt !== undefined) gaps.push(performance.now() - freeAt)
          await new Promise((resolve) => setTimeout(resolve, question.holdMs))
          freeAt = performance.now()
        })
      }
    })
  await Promise.all(Array.from({ length: question.concurrency }, one))
  const commandsEach = (commands - before) / gaps.length
  gaps.sort((a, b) => a - b)
  const at = (share: number) => gaps[Math.floor(gaps.length * share)] ?? Number.NaN
  return { medianMs: at(0.5), p99Ms: at(0.99), commandsEach }
}

/** The heap that each of so many waiters on a hundred keys takes, beside the scope it waits in: that has a row of its own. */
async function waiters(lane: Lane, { concurrency }: LockQuestion): Promise<Partial<LockAnswer>> {
  const KEYS = 100
  const [ask, open] = [gate(), gate()]
  let holding = 0
  const holders = Array.from({ length: KEYS }, (_, key) =>
    lane((withLock) =>
      withLock(`crowd:${key}`, () => {
        holding++
        return open.passed
      }),
    ),
  )
  while (holding < KEYS) await pause(5)
  const waiting = Array.from({ length: concurrency }, (_, index) =>
    lane(async (withLock) => {
      await ask.passed
      await withLock(`crowd:${index % KEYS}`, nothing)
    }),
  )
  await pause(500)
  globalThis.gc?.()
  const before = process.memoryUsage().heapUsed
  ask.open()
  await pause(2_000)
  globalThis.gc?.()
  const bytesPerWaiter = (process.memoryUsage().heapUsed - before) / concurrency
  open.open()
  await Promise.all([...holders, ...waiting])
  return { bytesPerWaiter }
}

function gate(): { readonly passed: Promise<void>; open(): void } {
  let open!: () => void
  const passed = new Promise<void>((resolve) => (open = resolve))
  return { passed, open }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

async function nothing(): Promise<void> {}

/** How many commands this process has sent. */
let commands = 0
const { sendCommand } = Redis.prototype
Redis.prototype.sendCommand = function countCommand(...args) {
  commands++
  return sendCommand.apply(this, args)
}

const lane = await open()
process.on('message', async (question: LockQuestion) => {
  const measure = { pairs, 'hand-over': handOver, waiters }[question.task]
  process.send?.(await measure(lane, question))
})
process.on('disconnect', () => process.exit())
process.send?.({ ready: true })
