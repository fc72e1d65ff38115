import type { RedisAccess } from '../redis/access.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { type Clock, driftMs, elapsedMs, later, type Moment, processClock } from './clock.ts'
import { type LockName, lockName } from './lock-name.ts'
import { type Acquired, holderOf, RedisCalls, type Released } from './redis-calls.ts'
import { bySlot, granted, type RedisGrant } from './redis-grant.ts'
import { CLAIM_MS } from './redis-lua.ts'
import { takeInTurn } from './redis-several.ts'
import type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'
import { Waiter } from './waiter.ts'
import { WakeUp } from './wake-up.ts'

const ASK_AGAIN_MS = 200

/** Keeps locks in Redis: one script to take, one to renew, and one to give back, which hands over to the next who waits. */
export class RedisLockStore implements LockStore {
  readonly name = 'redis'
  readonly supports = { shared: true, severalKeys: true }
  readonly clock: Clock
  readonly #calls: RedisCalls
  readonly #wakeUp: WakeUp

  constructor(access: RedisAccess, clock: Clock = processClock) {
    this.clock = clock
    this.#calls = new RedisCalls(access)
    this.#wakeUp = new WakeUp(this.#calls)
  }

  /** How many wait in this process. */
  get waiting(): number {
    return this.#wakeUp.waiting
  }

  acquire(request: LockRequest): Promise<LockGrant | LockRefusal> {
    const token = this.#calls.token()
    if (request.keys.length > 1) return this.#acquireSeveral(request, request.keys.map(lockName), token)
    const name = lockName(request.keys[0] as string)
    const isPlain = request.mode === 'exclusive' && request.limit === undefined && request.waitMs > 0
    // Where others of this process wait it is not free, or theirs.
    if (!isPlain || this.#wakeUp.watches(name.name)) return this.take(request, [name], token, request.waitMs)
    const startedAt = this.clock.now()
    return this.#calls.take(name, token, request).then(
      (fence) => {
        if (fence > 0) return granted(request, token, [[name]], startedAt, request.ttlMs, fence)
        return this.take(request, [name], token, request.waitMs, startedAt)
      },
      (error: unknown) => {
        this.leaveLater([name], token) // whether it was had is unknown
        throw error
      },
    )
  }

  async renew(grant: LockGrant, leaseMs: number): Promise<boolean> {
    const { groups, token } = grant as RedisGrant
    return this.renewGroups(groups, token, leaseMs, 0)
  }

  async release(grant: LockGrant): Promise<void> {
    const { groups, token } = grant as RedisGrant
    if (groups.length === 1) await this.#leave(groups[0] as readonly LockName[], token)
    else await Promise.all(groups.map((names) => this.#leave(names, token)))
  }

  close(): void {
    this.#wakeUp.close()
  }

  /** Of locks in the same slot one script takes care. */
  grouped(names: readonly LockName[]): readonly (readonly LockName[])[] {
    return this.#calls.isCluster ? bySlot(names) : [names]
  }

  async renewGroups(
    groups: readonly (readonly LockName[])[],
    token: string,
    leaseMs: number,
    fence: number,
  ): Promise<boolean> {
    const renewed = await Promise.all(groups.map((names) => this.#calls.renew(names, token, leaseMs, fence)))
    return renewed.every((reply) => reply === 1)
  }

  /** Takes locks of one slot together; for one lock it can wait. */
  take(
    request: LockRequest,
    names: readonly LockName[],
    token: string,
    waitMs: number,
    startedAt: Moment = this.clock.now(),
  ): Promise<RedisGrant | LockRefusal> {
    // Thousands may wait: they stand in one function less.
    if (waitMs > 0) return this.#await(request, names[0] as LockName, token, waitMs, startedAt)
    return this.#tryOnce(request, names, token, startedAt)
  }

  /** What can't be told to leave ends by itself: a lease with its ttl, a place in the queue with its time to wait. */
  leaveLater(names: readonly LockName[], token: string): void {
    if (names.length > 0) void outsideEveryScope(() => this.#leave(names, token)).catch(() => {})
  }

  async #acquireSeveral(
    request: LockRequest,
    names: readonly LockName[],
    token: string,
  ): Promise<LockGrant | LockRefusal> {
    const groups = this.grouped(names)
    if (groups.length === 1) {
      const answer = await this.take(request, names, token, 0)
      if (answer.tag === 'granted' || request.waitMs === 0) return answer
    }
    return takeInTurn(this, request, request.waitMs === 0 ? groups : names.map((name) => [name]), token)
  }

  async #tryOnce(
    request: LockRequest,
    names: readonly LockName[],
    token: string,
    startedAt: Moment,
  ): Promise<RedisGrant | LockRefusal> {
    try {
      const reply = await this.#calls.acquire(names, token, request, 0, '-')
      if (reply[0] !== 1) return { tag: 'held', holder: holderOf(reply[3], reply[4]) }
      return granted(request, token, [names], startedAt, request.ttlMs, Number(reply[1]))
    } catch (error) {
      this.leaveLater(names, token) // whether it was had is unknown
      throw error
    }
  }

  /** Queues for one lock, and sleeps until it is had. */
  async #await(
    request: LockRequest,
    name: LockName,
    token: string,
    waitMs: number,
    startedAt: Moment,
  ): Promise<RedisGrant | LockRefusal> {
    const waiter = new Waiter(token, name, this.#calls.wait(), request, this.#wakeUp.alarms)
    const leftMs = () => Math.max(0, Math.floor(waitMs - elapsedMs(startedAt, this.clock.now())))
    let isQueued = false
    try {
      if (!this.#wakeUp.isListening) await this.#wakeUp.listen()
      this.#wakeUp.add(waiter)
      for (;;) {
        if (request.isCancelled) throw request.cancelReason
        waiter.forget()
        const askedAt = this.clock.now()
        let reply: Acquired
        try {
          reply = await this.#calls.acquire([name], token, request, leftMs(), waiter.wait)
        } catch (error) {
          // Once it has a place in the queue, a store that is away for a moment only makes it wait.
          if (!isQueued || leftMs() === 0) throw error
          await waiter.next(Math.min(ASK_AGAIN_MS, leftMs()))
          continue
        }
        if (reply[0] === 1) return granted(request, token, [[name]], askedAt, request.ttlMs, Number(reply[1]))
        if (reply[0] === 0) return { tag: 'held', holder: holderOf(reply[3], reply[4]) }
        isQueued = true
        this.#wakeUp.watch(name.name, reply[2])
        const tidings = await waiter.next(leftMs())
        if (tidings.tag === 'abort') throw request.cancelReason
        if (tidings.tag === 'timeout') {
          const left = await this.#leave([name], token, true)
          return { tag: 'held', holder: left[0] === 0 ? holderOf(left[1], left[2]) : undefined }
        }
        // Not if it was handed over before it asked last: that lease had ended by then.
        if (tidings.tag === 'yours' && tidings.atUs >= Number(reply[1])) {
          const now = this.clock.now()
          // The server's clock tells how long after the reply it was handed over; that came after it was asked.
          const afterMs = (tidings.atUs - Number(reply[1])) / 1000
          const handedAt = later(askedAt, Math.max(0, afterMs - driftMs(afterMs)))
          const since = handedAt.monotonicMs < now.monotonicMs ? handedAt : now
          const leaseMs = Math.min(CLAIM_MS, request.ttlMs)
          if (elapsedMs(since, now) < leaseMs - driftMs(leaseMs)) {
            return granted(request, token, [[name]], since, leaseMs, tidings.fence)
          }
          // This process stood still: the lock has gone on to somebody else by now, or has to.
          await this.#leave([name], token)
        }
      }
    } catch (error) {
      this.leaveLater([name], token) // whether it was had or queued is unknown
      throw error
    } finally {
      this.#wakeUp.remove(waiter)
    }
  }

  async #leave(names: readonly LockName[], token: string, asksHolder = false): Promise<Released> {
    let reply: Released
    try {
      reply = await this.#calls.release(names, token, asksHolder)
    } catch (error) {
      // It may have been handed to somebody in this process, by a reply that is lost.
      for (const { name } of names) this.#wakeUp.askAgain(name)
      throw error
    }
    if (reply[0] === 2) this.#wakeUp.yours(reply[1], Number(reply[2]), Number(reply[3]))
    return reply
  }
}
