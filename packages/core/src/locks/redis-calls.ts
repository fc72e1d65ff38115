import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { LockHolder } from '../errors.ts'
import type { RedisAccess, Subscriber } from '../redis/access.ts'
import type { LockName } from './lock-name.ts'
import { CHANNEL } from './redis-lua.ts'
import { ACQUIRE, CHECK, RELEASE, RENEW, TAKE } from './redis-scripts.ts'
import type { LockRequest } from './store.ts'

export type Acquired =
  | readonly [1, fence: string, now: string]
  | readonly [0 | 2, now: string, remainingMs: number, holder: string, heldMs: number]

export type Released =
  | readonly [1]
  | readonly [2, wait: string, now: string, fence: string]
  | readonly [0, holder: string, heldMs: number]

/** The scripts, as one process calls them. */
export class RedisCalls {
  readonly #access: RedisAccess
  /** Of this store; its tokens begin with it, and its channel ends with it. */
  readonly #id = randomBytes(9).toString('base64url')
  readonly #who = `${hostname()}:${process.pid}`
  readonly #countsListeners: '0' | '1'
  #names = 0

  constructor(access: RedisAccess) {
    this.#access = access
    this.#countsListeners = access.isCluster ? '0' : '1'
  }

  get isCluster(): boolean {
    return this.#access.isCluster
  }

  token(): string {
    return `${this.#id}.${(++this.#names).toString(36)}`
  }

  /** How this process calls a wait. */
  wait(): string {
    return (++this.#names).toString(36)
  }

  subscriber(): { connection: Subscriber; channel: string } {
    return { connection: this.#access.subscriber(), channel: `${CHANNEL}${this.#id}` }
  }

  /** Resolves to the fence, or to 0. */
  take({ name }: LockName, token: string, request: LockRequest): Promise<number> {
    return this.#access.run(TAKE, [name], [token, request.ttlMs, this.#asking(request)]) as Promise<number>
  }

  acquire(
    names: readonly LockName[],
    token: string,
    request: LockRequest,
    waitMs: number,
    wait: string,
  ): Promise<Acquired> {
    return this.#access.run(ACQUIRE, keysOf(names), [
      token,
      request.mode === 'exclusive' && request.limit === undefined ? 'x' : 's',
      request.limit ?? 0,
      request.ttlMs,
      waitMs,
      wait,
      this.#countsListeners,
      this.#asking(request),
    ]) as Promise<Acquired>
  }

  renew(names: readonly LockName[], token: string, leaseMs: number, fence: number): Promise<number> {
    return this.#access.run(RENEW, keysOf(names), [token, leaseMs, fence]) as Promise<number>
  }

  release(names: readonly LockName[], token: string, asksHolder: boolean): Promise<Released> {
    const args = asksHolder ? [token, this.#countsListeners, '1'] : [token, this.#countsListeners]
    return this.#access.run(RELEASE, keysOf(names), args) as Promise<Released>
  }

  async check(name: LockName, token: string): Promise<{ remainingMs: number; isKnown: boolean }> {
    const args = [token, this.#countsListeners]
    const [remainingMs, isKnown] = (await this.#access.run(CHECK, [name.name], args)) as [number, number]
    return { remainingMs, isKnown: isKnown === 1 }
  }

  /** As other takers are told, see `holderOf`. */
  #asking({ holder }: LockRequest): string {
    return holder === undefined ? this.#who : `${this.#who}\n${holder.id}\n${holder.kind} ${holder.name}`
  }
}

export function holderOf(asked: string, heldMs: number): LockHolder | undefined {
  if (asked === '') return undefined
  const [process = '', scopeId, ...name] = asked.split('\n')
  return { process, name: name.join('\n') || 'withLock', scopeId, heldMs }
}

function keysOf(names: readonly LockName[]): string[] {
  return names.length === 1 ? [(names[0] as LockName).name] : names.map(({ name }) => name)
}
