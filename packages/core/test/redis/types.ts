// Compiled by `npm run types`, never run: what `scope.redis` has, and what does not compile.

import type { ExclusiveConnection, OptimisticTransaction, ScopedRedis } from '../../src/redis/index.ts'

declare const redis: ScopedRedis
declare const connection: ExclusiveConnection
declare const tx: OptimisticTransaction

// What compiles.

export const replies: [
  Promise<string | null>,
  Promise<Record<string, string>>,
  Promise<[error: Error | null, result: unknown][] | null>,
  Promise<unknown[] | undefined>,
  Promise<number>,
] = [
  redis.get('k'),
  redis.hgetall('k'),
  redis.multi().incr('k').exec(),
  redis.optimistic(['k'], { attempts: 2 }, async (it) => ((await it.get('k')) ? it.multi().del('k') : it.abandon())),
  redis.exclusive({ key: 'k' }, (it) => it.llen('k')),
]
export const exclusively: Promise<unknown>[] = [
  connection.watch('k'),
  connection.blpop('k', 0),
  connection.subscribe('channel'),
  connection.select(1),
]

// What would change the connection that all share.

// @ts-expect-error
redis.watch('k')
// @ts-expect-error
redis.unwatch()
// @ts-expect-error
redis.multi({ pipeline: false })
// @ts-expect-error
redis.exec()
// @ts-expect-error
redis.discard()
// @ts-expect-error
redis.subscribe('channel')
// @ts-expect-error
redis.psubscribe('channel')
// @ts-expect-error
redis.ssubscribe('channel')
// @ts-expect-error
redis.unsubscribe('channel')
// @ts-expect-error
redis.blpop('k', 0)
// @ts-expect-error
redis.blpopBuffer('k', 0)
// @ts-expect-error
redis.bzpopmin('k', 0)
// @ts-expect-error
redis.wait(1, 0)
// @ts-expect-error
redis.select(1)
// @ts-expect-error
redis.auth('password')
// @ts-expect-error
redis.hello(3)
// @ts-expect-error
redis.monitor()
// @ts-expect-error
redis.quit()
// @ts-expect-error
redis.duplicate()
// @ts-expect-error
redis.disconnect()
// @ts-expect-error
redis.on('message', () => {})

// What an exclusive connection does not end by itself.

// @ts-expect-error
connection.quit()
// @ts-expect-error
connection.monitor()

// What would be written in every attempt.

// @ts-expect-error
tx.set('k', 1)
// @ts-expect-error
tx.watch('k')
// @ts-expect-error
redis.optimistic(['k'], async () => 1)
