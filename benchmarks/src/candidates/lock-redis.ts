import type { Resource } from '@reqscope/core'
import { Redis } from 'ioredis'

interface Script {
  run(client: Redis, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>
}

/** A resource over one client that offers what locks use of Redis, and hands out nothing. */
export function lockRedis(url: string, options: { readonly pipelined: boolean }): Resource<undefined> {
  const client = new Redis(url, { lazyConnect: true })
  let isCorked = false
  /** What is sent in one turn goes out in one piece. */
  const cork = () => {
    if (isCorked || !options.pipelined) return
    isCorked = true
    const { stream } = client
    stream.cork()
    process.nextTick(() => {
      isCorked = false
      stream.uncork()
    })
  }
  const access = {
    isCluster: false,
    run(script: Script, keys: readonly string[], args: readonly (string | number)[]) {
      cork()
      return script.run(client, keys, args)
    },
    subscriber: () => new Redis(url),
  }
  return {
    [Symbol.for('reqscope.redis-access')]: access,
    start: () => client.connect(),
    stop: () => client.disconnect(),
    handle: () => undefined,
    release: () => {},
    health: () => ({ status: 'up' }),
  } as Resource<undefined>
}
