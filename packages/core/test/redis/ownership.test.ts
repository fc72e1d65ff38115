import { inspect } from 'node:util'
import { testRedis } from '@reqscope/services/testing'
import { describe, expect, it } from 'vitest'
import { ScopeLeakError } from '../../src/index.ts'
import { checkedPayload } from '../../src/jobs/payload.ts'
import { ownerOf } from '../../src/scope/ownership.ts'
import { key, redisApp } from './fixture.ts'

describe('what a scope has of Redis', () => {
  it('is refused in the payload of a job, with scope and path, and no use of it is made', async () => {
    const app = await redisApp()
    await app.run({ name: 'POST /orders', id: 'req-1' }, async (scope) => {
      const { redis } = scope
      const refused = (session: unknown) => {
        expect(ownerOf(session)).toBe(scope)
        expect(() => checkedPayload('mail', { session }, { maxBytes: 1_000, asJsonb: false })).toThrow(
          expect.objectContaining({
            name: 'ScopeLeakError',
            path: 'data.session of job mail',
            message: expect.stringContaining('data.session of job mail belongs to task POST /orders (req-1)'),
          }),
        )
      }
      refused(redis)
      refused(redis.pipeline().get('k'))
      refused(redis.multi().get('k'))
      await redis.exclusive((connection) => {
        refused(connection)
        refused(connection.pipeline())
        refused(connection.multi())
      })
      await redis.optimistic([key()], (tx) => {
        refused(tx)
        refused(tx.multi().incr('k'))
        return tx.abandon()
      })
    })
  })

  it('is known for what it is after its scope has ended, too', async () => {
    const app = await redisApp()
    const ended = await app.run({ name: 'ends' }, (scope) => ({ redis: scope.redis, pipeline: scope.redis.pipeline() }))
    for (const session of Object.values(ended)) {
      expect(() => checkedPayload('mail', { session }, { maxBytes: 1_000, asJsonb: false })).toThrow(ScopeLeakError)
    }
  })

  it('shows no password when it is printed', async () => {
    const url = new URL(await testRedis())
    const app = await redisApp({ connection: { connectionName: 'printed', sentinelPassword: 's3cret' }, url: `${url}` })
    await app.run({ name: 'prints' }, async ({ redis }) => {
      const prints = (...values: unknown[]) => {
        for (const value of values) {
          expect(inspect(value, { depth: 6 })).not.toContain('s3cret')
          expect(JSON.stringify(value) ?? '').not.toContain('s3cret')
        }
      }
      prints(redis, redis.pipeline().get('k'), redis.multi().get('k'))
      await redis.exclusive((connection) => prints(connection, connection.pipeline(), connection.multi()))
      await redis.optimistic([key()], (tx) => {
        prints(tx, tx.multi().incr('k'))
        return tx.abandon()
      })
    })
  })
})
