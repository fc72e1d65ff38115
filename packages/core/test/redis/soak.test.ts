import { once } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Redis } from 'ioredis'
import { describe, expect, it, vi } from 'vitest'
import { isReqscopeError } from '../../src/index.ts'
import type { ExclusiveConnection, OptimisticTransaction } from '../../src/redis/index.ts'
import { crashes } from '../crashes.ts'
import { Gate, key, outside, ownServer, redisApp } from './fixture.ts'

/** `REQSCOPE_SOAK=20 npm test -- packages/core/test/redis/soak.test.ts` does each of them twenty times as long. */
const LONGER = Number(process.env.REQSCOPE_SOAK ?? 1)
const MINUTES = 60_000 * LONGER

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

describe('a soak', () => {
  it(
    'of 10,000 calls that succeed, throw, time out and abort leaves connections and memory where they were',
    async () => {
      const crashed = crashes()
      const server = await ownServer()
      const watch = await outside(server.url)
      const app = await redisApp({ url: server.url, exclusive: { min: 2, max: 2 } })
      const connected = async () => Number(/connected_clients:(\d+)/.exec(await watch.info('clients'))?.[1])
      const before = await connected()
      const k = key()
      const outcomes = { succeeded: 0, thrown: 0, timedOut: 0, aborted: 0 }
      const kinds: ((index: number) => Promise<unknown>)[] = [
        () => app.run({ name: 'succeeds' }, async ({ redis }) => void (await redis.multi().incr(k).get(k).exec())),
        () =>
          app.run({ name: 'throws' }, async ({ redis }) => {
            await redis.get(k)
            throw new RangeError('mine')
          }),
        () =>
          app.run({ name: 'times out', timeoutMs: 2 }, async ({ redis, signal }) => {
            await redis.get(k)
            if (!signal.aborted) await once(signal, 'abort')
            throw signal.reason
          }),
        () => {
          const controller = new AbortController()
          return app.run({ name: 'aborts', signal: controller.signal }, ({ redis }) =>
            redis.optimistic([`${k}o`], async (tx) => {
              await tx.get(`${k}o`)
              controller.abort()
              return tx.multi().set(`${k}o`, 1)
            }),
          )
        },
        (index) =>
          app.run({ name: 'optimistic' }, ({ redis }) =>
            redis.optimistic([`${k}${index}`], { attempts: 100 }, async (tx) =>
              tx.multi().set(`${k}${index}`, Number(await tx.get(`${k}${index}`)) + 1),
            ),
          ),
      ]
      const rss: number[] = []
      const total = 10_000 * LONGER
      for (let done = 0; done < total; done += 100) {
        await Promise.all(
          Array.from({ length: 100 }, (_, index) =>
            // Each abort costs a connection, so there are fewer of them.
            (kinds[index < 5 ? 3 : index % 5 === 3 ? 0 : index % 5] as (index: number) => Promise<unknown>)(index).then(
              () => outcomes.succeeded++,
              (error: { name: string }) => {
                if (error instanceof RangeError) outcomes.thrown++
                else if (error.name === 'DeadlineExceededError') outcomes.timedOut++
                else if (error.name === 'ScopeAbortedError') outcomes.aborted++
                else throw error
              },
            ),
          ),
        )
        if (done % (total / 20) !== 0) continue
        collectGarbage()
        rss.push(process.memoryUsage().rss)
      }
      expect(Object.values(outcomes).reduce((sum, count) => sum + count)).toBe(total)
      for (const count of Object.values(outcomes)) expect(count).toBeGreaterThan(total / 25)
      expect(app.snapshot()).toMatchObject({ leases: [], openScopes: { total: 0 } })
      await vi.waitFor(async () => expect(await connected()).toBeLessThanOrEqual(before), 5_000)
      // A client that is left behind is some 50 KiB: 10,000 of them would be 250 MiB over the last half.
      expect(slopeOf(rss.slice(10)) * 10).toBeLessThan(24 * 2 ** 20)
      expect(crashed).toEqual([])
    },
    MINUTES,
  )

  it(
    'of 200 increments at once, one in ten aborted in the middle, ends with the sum of those that succeeded',
    async () => {
      const app = await redisApp({ exclusive: { max: 8, acquireTimeoutMs: 20_000 } })
      const watch = await outside()
      for (let round = 0; round < LONGER; round++) {
        const k = key('sum')
        const settled = await Promise.allSettled(
          Array.from({ length: 200 }, (_, index) => {
            const controller = new AbortController()
            return app.run({ name: 'increments', signal: controller.signal }, ({ redis }) =>
              redis.optimistic([k], { attempts: 30, maxDelayMs: 20 }, async (tx) => {
                const value = Number(await tx.get(k))
                if (index % 10 === 0) controller.abort()
                return tx.multi().set(k, value + 1)
              }),
            )
          }),
        )
        const succeeded = settled.filter(({ status }) => status === 'fulfilled').length
        expect(settled.every((each) => each.status === 'fulfilled' || isReqscopeError(each.reason))).toBe(true)
        expect(succeeded).toBeLessThanOrEqual(180)
        expect(succeeded).toBeGreaterThan(20)
        expect(Number(await watch.get(k))).toBe(succeeded)
      }
    },
    MINUTES,
  )

  it(
    'of random use never lets one borrower see what another left behind',
    async () => {
      const crashed = crashes()
      const seed = Number(process.env.REQSCOPE_SEED ?? Date.now() % 1_000_000)
      const random = randomFrom(seed)
      const server = await ownServer()
      const watch = await outside(server.url)
      const app = await redisApp({
        url: server.url,
        exclusive: { max: 3, acquireTimeoutMs: 10_000 },
        commandTimeoutMs: 200,
      })
      const keys = ['a', 'b', 'c', 'd']
      const any = <Value>(values: readonly Value[]) => values[Math.floor(random() * values.length)] as Value
      const uses: ((connection: ExclusiveConnection, abort: () => void) => unknown)[] = [
        (it) => it.watch(any(keys)),
        (it) => it.call('watch', any(keys)),
        (it) => it.get(any(keys)),
        (it) => it.set(any(keys), 'x'),
        (it) => it.unwatch(),
        (it) => it.multi({ pipeline: false }),
        (it) => it.exec(),
        (it) => it.discard(),
        (it) =>
          it
            .multi()
            .incr(`${any(keys)}n`)
            .select(2)
            .exec(),
        (it) => it.pipeline().watch(any(keys)).select(1).exec(),
        (it) => it.select(any([0, 1, 2])),
        (it) => it.subscribe('channel'),
        (it) => it.client('REPLY', 'ON'),
        (it) => void it.blpop('nothing', 0).catch(() => {}),
        (it) => void it.get('a').catch(() => {}),
        (it) => void watch.client('KILL', 'ID', String(it.id)).catch(() => {}),
        (_it, abort) => abort(),
        () => {
          throw new RangeError('mine')
        },
      ]
      const transactions: ((tx: OptimisticTransaction, id: number | undefined, abort: () => void) => unknown)[] = [
        (tx) => tx.abandon(),
        (tx) =>
          tx
            .multi()
            .set(any(keys), 'x')
            .incr(`${any(keys)}n`),
        (tx) => tx.multi().incr('a').set('b', 'x'),
        async (tx) => tx.multi().set('c', `${await tx.get(any(keys))}`.slice(0, 9)),
        async (tx) => {
          await watch.set(any(keys), 'x')
          return tx.multi().set(any(keys), 'y')
        },
        (tx) => tx.multi().call('NOSUCHCOMMAND'),
        (tx, id) => tx.multi().call('CLIENT', 'KILL', 'ID', String(id), 'SKIPME', 'no').set('d', 'x'),
        (tx, _id, abort) => {
          abort()
          return tx.multi().set('d', 'x')
        },
        async (tx, id) => {
          await watch.client('KILL', 'ID', String(id))
          await tx.get('a').catch(() => {})
          return tx.multi().set('a', 'x')
        },
        () => {
          throw new RangeError('mine')
        },
      ]
      const found: string[] = []
      let checked = 0
      const borrow = async () => {
        const controller = new AbortController()
        await app.run({ name: 'borrows', signal: controller.signal }, ({ redis }) =>
          redis.exclusive(async (connection) => {
            const seen = await seenOutside(watch, connection.id, keys)
            if (seen !== undefined) {
              checked++
              if (!/ flags=N .*db=0 sub=0 psub=0 .*multi=-1 /.test(seen)) found.push(seen)
            }
            for (let count = Math.floor(random() * 5); count >= 0; count--) {
              await any(uses)(connection, () => controller.abort())
            }
          }),
        )
      }
      const transact = async () => {
        const controller = new AbortController()
        await app.run({ name: 'transacts', signal: controller.signal }, ({ redis, id }) =>
          redis.optimistic([any(keys), any(keys)], { attempts: 2, maxDelayMs: 2 }, (tx) => {
            const backend = app.snapshot().leases.find(({ scope }) => scope.id === id)?.backend
            return any(transactions)(tx, backend, () => controller.abort()) as ReturnType<typeof tx.abandon>
          }),
        )
      }
      let left = 600 * LONGER
      const errors: unknown[] = []
      await Promise.all(
        Array.from({ length: 6 }, async () => {
          while (left-- > 0) await any([borrow, transact])().catch((error: unknown) => errors.push(error))
        }),
      )
      expect(found, `seed ${seed}`).toEqual([])
      expect(checked).toBeGreaterThan(200 * LONGER)
      // What is not typed is what Redis said, or what the borrower threw.
      const others = errors.filter((error) => !isReqscopeError(error) && !(error instanceof RangeError))
      expect(others.filter((error) => (error as Error).name !== 'ReplyError')).toEqual([])
      expect(app.snapshot().leases).toEqual([])
      expect(crashed).toEqual([])
    },
    MINUTES,
  )

  it('of scopes that end while others begin gives each connection to one of them', async () => {
    const app = await redisApp({ exclusive: { max: 2, acquireTimeoutMs: 10_000 } })
    const holders = new Map<number, number>()
    let mostAtOnce = 0
    await Promise.all(
      Array.from({ length: 200 * LONGER }, async (_, index) => {
        const gate = new Gate()
        await app.run({ name: 'holds' }, ({ redis }) =>
          redis.exclusive(async (connection) => {
            const id = connection.id as number
            holders.set(id, (holders.get(id) ?? 0) + 1)
            mostAtOnce = Math.max(mostAtOnce, holders.get(id) ?? 0)
            setImmediate(gate.open)
            if (index % 3 === 0) await connection.get('k')
            await gate.passed
            holders.set(id, (holders.get(id) ?? 0) - 1)
          }),
        )
      }),
    )
    expect(mostAtOnce).toBe(1)
  })
})

/** The connection as CLIENT LIST shows it after all keys were written: what watches one of them is marked. */
async function seenOutside(watch: Redis, id: number | undefined, keys: readonly string[]): Promise<string | undefined> {
  const touch = watch.multi()
  for (const database of [0, 1, 2]) {
    touch.select(database)
    for (const k of keys) touch.set(k, 'touched')
  }
  await touch.select(0).exec()
  const list = (await watch.client('LIST')) as string
  return list.split('\n').find((line) => line.startsWith(`id=${id} `))
}

function slopeOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const across = values.reduce((sum, value, index) => sum + (index - middle) * (value - mean), 0)
  return across / values.reduce((sum, _, index) => sum + (index - middle) ** 2, 0)
}

/** mulberry32 */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
