import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { createScopes } from '../../src/index.ts'
import { type RedisOptions, redis } from '../../src/redis/index.ts'
import { key, redisApp } from './fixture.ts'

const url = 'redis://user:s3cret@localhost'

describe('the options of redis', () => {
  it.each([
    [{}, 'redis'],
    [{ url, cluster: [{ port: 1 }] }, 'redis'],
    [{ url: 6379 }, 'redis.url'],
    [{ url: 'http://user:s3cret@localhost' }, 'redis.url'],
    [{ client: {} }, 'redis.client'],
    [{ cluster: [] }, 'redis.cluster'],
    [{ sentinels: { name: '', addresses: [] } }, 'redis.sentinels.name'],
    [{ sentinels: { name: 'main', addresses: [] } }, 'redis.sentinels.addresses'],
    [{ url, pasword: 's3cret' }, 'redis.pasword'],
    [{ url, connection: { retryStrategy: () => 1 } }, 'redis.connection.retryStrategy'],
    [{ url, clusterOptions: {} }, 'redis.clusterOptions'],
    [{ url, commandTimeoutMs: '5s' }, 'redis.commandTimeoutMs'],
    [{ url, commandTimeoutMs: 0 }, 'redis.commandTimeoutMs'],
    [{ url, autoPipelining: 1 }, 'redis.autoPipelining'],
    [{ url, exclusive: { max: 0 } }, 'redis.exclusive.max'],
    [{ url, exclusive: { min: 3, max: 2 } }, 'redis.exclusive.min'],
    [{ url, scripts: { take: {} } }, 'redis.scripts.take.lua'],
    [{ url, acquisitionSites: 'often' }, 'redis.acquisitionSites'],
  ])('are checked, and the one that is wrong is named: %j', (options, option) => {
    let error: unknown
    try {
      redis(options as RedisOptions)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
    expect(inspect(error)).not.toContain('s3cret')
  })

  it('show no password, whatever is printed', () => {
    const resource = redis({ url, connection: { password: 's3cret' } })
    const scopes = createScopes({ resources: { redis: resource } })
    const scope = scopes.open({ id: '1', kind: 'task', name: 'prints' })
    for (const value of [resource, scopes.resources, scope, scope.redis]) {
      expect(inspect(value, { depth: 20, showHidden: false })).not.toContain('s3cret')
      expect(JSON.stringify(value)).not.toContain('s3cret')
    }
    void scope.end({ tag: 'completed' })
  })

  it('make methods of scripts, on the shared connection and on exclusive ones', async () => {
    const app = await redisApp({
      scripts: { add: { numberOfKeys: 1, lua: 'return redis.call("INCRBY", KEYS[1], ARGV[1])' } },
    })
    const k = key()
    await app.run({ name: 'scripted' }, async (scope) => {
      expect(await scope.redis.add(k, 2)).toBe(2)
      scope.redis.defineCommand('sub', { numberOfKeys: 1, lua: 'return redis.call("DECRBY", KEYS[1], ARGV[1])' })
      const later = scope.redis as unknown as { sub(key: string, by: number): Promise<number> }
      expect(await later.sub(k, 1)).toBe(1)
      expect(() => scope.redis.defineCommand('get', { lua: 'return 1' })).toThrow(/nothing else has/)
    })
  })
})
