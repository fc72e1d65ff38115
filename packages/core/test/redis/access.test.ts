import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ConnectionLostError } from '../../src/index.ts'
import { type RedisAccess, redisAccessOf } from '../../src/redis/access.ts'
import { Script } from '../../src/redis/script.ts'
import { failureOf, Gate, key, outside, ownServer, redisApp } from './fixture.ts'

const add = new Script('return redis.call("INCRBY", KEYS[1], ARGV[1])')

const accessOf = (app: { resources: { redis: unknown } }) => redisAccessOf(app.resources.redis) as RedisAccess

describe('what locks and limits use', () => {
  it('runs a script, also one the server has not seen', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const k = key()
    expect(accessOf(app).isCluster).toBe(false)
    expect(await accessOf(app).run(add, [k], [2])).toBe(2)
    await (await outside(server.url)).script('FLUSH')
    expect(await accessOf(app).run(add, [k], [3])).toBe(5)
  })

  it('says in time that there is no answer', async () => {
    const server = await ownServer()
    const proxy = await startChaosProxy({ target: server.url })
    onTestFinished(() => proxy.close())
    const app = await redisApp({ url: proxy.url(server.url), commandTimeoutMs: 400 })
    proxy.blackHole()
    const begun = performance.now()
    const error = await failureOf(accessOf(app).run(add, [key()], [1], { timeoutMs: 50 }))
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error).toMatchObject({ reason: 'timeout' })
    expect(performance.now() - begun).toBeLessThan(300)
    expect(await failureOf(accessOf(app).run(add, [key()], [1]))).toMatchObject({ reason: 'timeout' })
  })

  it('listens, and listens again after its connection was lost', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const watch = await outside(server.url)
    const subscriber = accessOf(app).subscriber()
    onTestFinished(() => subscriber.disconnect())
    const readies: Gate[] = [new Gate(), new Gate()]
    let times = 0
    subscriber.on('ready', () => readies[times++]?.open())
    await subscriber.subscribe('news')
    const messages: string[] = []
    subscriber.on('message', (channel, message) => messages.push(`${channel}: ${message}`))
    await readies[0]?.passed
    await watch.publish('news', 'one')
    await expect.poll(() => messages).toEqual(['news: one'])
    await watch.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await readies[1]?.passed
    await expect.poll(async () => (await watch.pubsub('NUMSUB', 'news'))[1]).toBe(1)
    await watch.publish('news', 'two')
    await expect.poll(() => messages).toEqual(['news: one', 'news: two'])
  })

  it('closes its listeners with the resource', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const watch = await outside(server.url)
    await accessOf(app).subscriber().subscribe('news')
    await app.close()
    await expect.poll(async () => (await watch.pubsub('NUMSUB', 'news'))[1]).toBe(0)
  })
})
