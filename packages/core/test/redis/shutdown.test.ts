import { describe, expect, it, vi } from 'vitest'
import { isReqscopeError } from '../../src/index.ts'
import { crashes } from '../crashes.ts'
import { clientsOf, failureOf, Gate, key, outside, redisApp } from './fixture.ts'

describe('when the application closes', () => {
  it('lets what runs finish, and then has no connection left', async () => {
    const app = await redisApp()
    const watch = await outside()
    const k = key()
    const begun = new Gate()
    const gate = new Gate()
    const working = app.run({ name: 'works' }, async ({ redis }) => {
      await redis.exclusive(async (connection) => {
        begun.open()
        await gate.passed
        await connection.set(k, 'exclusive')
      })
      await redis.optimistic([k], async (tx) => tx.multi().append(k, ` ${await tx.strlen(k)}`))
      return redis.append(k, ' shared')
    })
    await begun.passed
    const closed = app.close({ timeoutMs: 5_000 })
    gate.open()
    expect(await working).toBeGreaterThan(0)
    await closed
    expect(await watch.get(k)).toBe('exclusive 9 shared')
    await vi.waitFor(async () => expect(await clientsOf(app, watch)).toEqual([]))
  })

  it('ends a blocked command and refuses who waits, when they are not done in time', async () => {
    const crashed = crashes()
    const app = await redisApp({ exclusive: { max: 1, acquireTimeoutMs: 60_000 } })
    const watch = await outside()
    const blocked = failureOf(
      app.run({ name: 'blocks' }, ({ redis }) => redis.exclusive((connection) => connection.blpop(key('list'), 0))),
    )
    await vi.waitFor(async () => expect((await clientsOf(app, watch)).map(({ flags }) => flags)).toContain('b'))
    const waiting = failureOf(app.run({ name: 'waits' }, ({ redis }) => redis.optimistic(['k'], (tx) => tx.multi())))
    await app.close({ timeoutMs: 100 })
    for (const error of await Promise.all([blocked, waiting])) expect(isReqscopeError(error), String(error)).toBe(true)
    expect(app.snapshot().leases).toEqual([])
    await vi.waitFor(async () => expect(await clientsOf(app, watch)).toEqual([]))
    expect(crashed).toEqual([])
  })

  it('refuses what comes after it', async () => {
    const app = await redisApp()
    const kept = await app.run({ name: 'keeps' }, ({ redis }) => ({ redis }))
    await app.close()
    expect(await failureOf(kept.redis.get('k'))).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
    expect(await failureOf(kept.redis.exclusive(() => 1))).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
    expect(await failureOf(app.run({ name: 'late' }, ({ redis }) => redis.get('k')))).toMatchObject({ statusCode: 503 })
  })
})
