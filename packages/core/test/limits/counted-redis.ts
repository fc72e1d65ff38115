import { createScopes } from '../../src/index.ts'
import { type RedisAccess, redisAccess, redisAccessOf } from '../../src/redis/access.ts'
import { type RedisOptions, redis } from '../../src/redis/index.ts'
import type { Script } from '../../src/redis/script.ts'

/** A `redis(…)` that counts the scripts it runs, each of them a round trip. */
export class CountedRedis {
  readonly resource: ReturnType<typeof redis>
  calls = 0
  /** Called with each script before it is run. */
  onRun: (script: Script) => Script = (script) => script

  /** @param as what limits are told of it: a cluster costs a round trip for each subject. */
  constructor(options: RedisOptions, as: { readonly isCluster?: boolean } = {}) {
    this.resource = redis(options)
    const access = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(this.resource), redisAccess)?.get
    Object.defineProperty(this.resource, redisAccess, {
      get: () => {
        const real = access?.call(this.resource) as RedisAccess
        const run: RedisAccess['run'] = (script, ...rest) => {
          this.calls++
          return real.run(this.onRun(script), ...rest)
        }
        return { ...real, run, isCluster: as.isCluster ?? real.isCluster }
      },
    })
  }

  get access(): RedisAccess {
    return redisAccessOf(this.resource) as RedisAccess
  }

  /** Opens it, for a test without a runtime of its own; what it returns closes it. */
  async open(): Promise<() => Promise<void>> {
    const scopes = createScopes({ resources: { redis: this.resource } })
    await scopes.start()
    return () => scopes.close({ timeoutMs: 500 })
  }
}
