import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { LockHolder } from '../errors.ts'
import type { RedisAccess } from '../redis/access.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { type Clock, driftMs, elapsedMs, later, type Moment, processClock } from './clock.ts'
import { keysOf, type LockName, lockName } from './lock-name.ts'
import { ACQUIRE, RELEASE, RENEW } from './redis-scripts.ts'
import type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'
import { Waiter, WakeUp } from './wake-up.ts'

/** For how long a lock is handed to somebody who waits; by then it has renewed it, or it is gone. */
const CLAIM_MS = 1_000
const ASK_AGAIN_MS = 200

type AcquireReply =
  | readonly [1, fence: string, now: string]
  | readonly [0 | 2, now: string, remainingMs: number, holder: string, heldMs: number]

interface RedisGrant extends LockGrant {
  /** One for each slot. */
  readonly groups: readonly (readonly LockName[])[]
}

/** Keeps locks in Redis: one script to take, one to renew, and one to give back, which hands over to the next who waits. */
export class RedisLockStore implements LockStore {
  readonly name = 'redis'
  readonly supports = { shared: true, severalKeys: true }
  readonly #access: RedisAccess
  readonly #clock: Clock
  readonly #process = `${hostname()}:${process.pid}`
  readonly #id = randomBytes(9).toString('base64url')
  readonly #wakeUp: WakeUp
  readonly #countsListeners: '0' | '1'
  #tokens = 0

  constructor(access: RedisAccess, clock: Clock = processClock) {
    this.#access = access
    this.#clock = clock
    this.#wakeUp = new WakeUp(access, `reqscope:locks:${this.#id}`, CLAIM_MS)
    this.#countsListeners = access.isCluster ? '0' : '1'
  }

  /** How many wait in this process. */
  get waiting(): number {
    return this.#wakeUp.waiting
  }

  async acquire(request: LockRequest): Promise<LockGrant | LockRefusal> {
    const names = request.keys.map(lockName)
    const token = `${this.#id}.${(++this.#tokens).toString(36)}`
    const groups = this.#access.isCluster ? bySlot(names) : [names]
    if (groups.length === 1) {
      const waitMs = names.length === 1 ? request.waitMs : 0
      const answer = await this.#take(request, names, token, waitMs, groups)
      if (answer.tag === 'granted' || names.length === 1 || request.waitMs === 0) return answer
    }
    const inTurn = request.waitMs === 0 ? groups : names.map((name) => [name])
    return this.#takeInTurn(request, inTurn, token, groups)
  }

  async renew(grant: LockGrant, leaseMs: number): Promise<boolean> {
    return this.#renew(grant as RedisGrant, leaseMs, 0)
  }

  async #renew({ groups, token }: RedisGrant, leaseMs: number, fence: number): Promise<boolean> {
    const one = (names: readonly LockName[]) =>
      this.#access.run(RENEW, keysOf(names), [token, leaseMs, fence]) as Promise<number>
    if (groups.length === 1) return (await one(groups[0] as readonly LockName[])) === 1
    return (await Promise.all(groups.map(one))).every((renewed) => renewed === 1)
  }

  async release(grant: LockGrant): Promise<void> {
    const { groups, token } = grant as RedisGrant
    if (groups.length === 1) await this.#leave(groups[0] as readonly LockName[], token)
    else await Promise.all(groups.map((names) => this.#leave(names, token)))
  }

  close(): void {
    this.#wakeUp.close()
  }

  /**
   * Takes one group after the other, always in the same order, so that nobody waits for somebody who waits for them; those
   * it has are renewed meanwhile. All or none.
   */
  async #takeInTurn(
    request: LockRequest,
    inTurn: readonly (readonly LockName[])[],
    token: string,
    groups: readonly (readonly LockName[])[],
  ): Promise<LockGrant | LockRefusal> {
    const startedAt = this.#clock.now()
    const taken: LockName[] = []
    const held = () => ({ groups: this.#access.isCluster ? bySlot(taken) : [taken], token }) as unknown as RedisGrant
    const keepAlive = () => {
      // What can't be renewed now is found out by the renewal at the end.
      if (taken.length > 0) void this.#renew(held(), request.ttlMs, 0).catch(() => {})
    }
    const renewing = outsideEveryScope(() => setInterval(keepAlive, Math.ceil(request.ttlMs / 3)))
    try {
      let fence = 0
      for (const names of inTurn) {
        const leftMs = request.waitMs - elapsedMs(startedAt, this.#clock.now())
        const answer = await this.#take(request, names, token, Math.max(0, Math.floor(leftMs)), groups)
        if (answer.tag === 'held') {
          this.#leaveLater(taken, token)
          return answer
        }
        taken.push(...names)
        fence = Math.max(fence, answer.fence ?? 0)
      }
      const since = this.#clock.now()
      const grant: RedisGrant = {
        tag: 'granted',
        keys: request.keys,
        token,
        fence: request.mode === 'exclusive' && request.limit === undefined ? fence : undefined,
        since,
        leaseMs: request.ttlMs,
        groups,
      }
      // One fence for all keys, the greatest, so that it has to grow for each of them; and none was lost meanwhile.
      if (await this.#renew(grant, request.ttlMs, fence)) return grant
      this.#leaveLater(taken, token)
      return { tag: 'held', holder: undefined }
    } catch (error) {
      this.#leaveLater(taken, token)
      throw error
    } finally {
      clearInterval(renewing)
    }
  }

  /** Takes locks of one slot together; for one lock it can wait. */
  async #take(
    request: LockRequest,
    names: readonly LockName[],
    token: string,
    waitMs: number,
    groups: readonly (readonly LockName[])[],
  ): Promise<LockGrant | LockRefusal> {
    const granted = (since: Moment, leaseMs: number, fence: number): RedisGrant => ({
      tag: 'granted',
      keys: request.keys,
      token,
      fence: fence > 0 ? fence : undefined,
      since,
      leaseMs,
      groups,
    })
    const startedAt = this.#clock.now()
    try {
      if (waitMs === 0 || !this.#wakeUp.isListening) {
        const reply = await this.#ask(request, names, token, 0)
        if (reply[0] === 1) return granted(startedAt, request.ttlMs, Number(reply[1]))
        if (waitMs === 0) return { tag: 'held', holder: holderOf(reply[3], reply[4]) }
        await this.#wakeUp.listen()
      }
      return await this.#await(request, names[0] as LockName, token, waitMs, startedAt, granted)
    } catch (error) {
      this.#leaveLater(names, token) // whether it was had or queued is unknown
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
    granted: (since: Moment, leaseMs: number, fence: number) => LockGrant,
  ): Promise<LockGrant | LockRefusal> {
    const waiter = new Waiter(token, name)
    const leftMs = () => Math.max(0, Math.floor(waitMs - elapsedMs(startedAt, this.#clock.now())))
    let isQueued = false
    this.#wakeUp.add(waiter)
    try {
      for (;;) {
        if (request.signal?.aborted) throw request.signal.reason
        waiter.forget()
        const askedAt = this.#clock.now()
        let reply: AcquireReply
        try {
          reply = await this.#ask(request, [name], token, leftMs())
        } catch (error) {
          // Once it has a place in the queue, a store that is away for a moment only makes it wait.
          if (!isQueued || leftMs() === 0) throw error
          await waiter.next(Math.min(ASK_AGAIN_MS, leftMs()), request.signal)
          continue
        }
        if (reply[0] === 1) return granted(askedAt, request.ttlMs, Number(reply[1]))
        if (reply[0] === 0) return { tag: 'held', holder: holderOf(reply[3], reply[4]) }
        isQueued = true
        this.#wakeUp.watch(name.name, reply[2])
        const tidings = await waiter.next(leftMs(), request.signal)
        if (tidings.tag === 'abort') throw request.signal?.reason
        if (tidings.tag === 'timeout') {
          const [, holder, heldMs] = await this.#leave([name], token, true)
          return { tag: 'held', holder: holderOf(holder, heldMs) }
        }
        // Not if it was handed over before it asked last: that lease had ended by then.
        if (tidings.tag === 'yours' && tidings.atUs >= Number(reply[1])) {
          const now = this.#clock.now()
          // The server's clock tells how long after the reply it was handed over; that came after it was asked.
          const afterMs = (tidings.atUs - Number(reply[1])) / 1000
          const handedAt = later(askedAt, Math.max(0, afterMs - driftMs(afterMs)))
          const since = handedAt.monotonicMs < now.monotonicMs ? handedAt : now
          const leaseMs = Math.min(CLAIM_MS, request.ttlMs)
          if (elapsedMs(since, now) < leaseMs - driftMs(leaseMs)) return granted(since, leaseMs, tidings.fence)
          // This process stood still: the lock has gone on to somebody else by now, or has to.
          await this.#leave([name], token)
        }
      }
    } finally {
      this.#wakeUp.remove(waiter)
    }
  }

  #ask(request: LockRequest, names: readonly LockName[], token: string, waitMs: number): Promise<AcquireReply> {
    const { mode, limit, holder } = request
    return this.#access.run(ACQUIRE, keysOf(names), [
      token,
      mode === 'exclusive' && limit === undefined ? 'x' : 's',
      limit ?? 0,
      request.ttlMs,
      waitMs,
      this.#wakeUp.channel,
      (names[0] as LockName).name,
      CLAIM_MS,
      this.#countsListeners,
      JSON.stringify([this.#process, holder === undefined ? '' : `${holder.kind} ${holder.name}`, holder?.id ?? '']),
    ]) as Promise<AcquireReply>
  }

  #leave(names: readonly LockName[], token: string, asksHolder = false): Promise<[number, string, number]> {
    return this.#access.run(RELEASE, keysOf(names), [
      token,
      CLAIM_MS,
      this.#countsListeners,
      asksHolder ? '1' : '0',
    ]) as Promise<[number, string, number]>
  }

  /** What can't be told to leave ends by itself: a lease with its ttl, a place in the queue with its time to wait. */
  #leaveLater(names: readonly LockName[], token: string): void {
    if (names.length > 0) void outsideEveryScope(() => this.#leave(names, token)).catch(() => {})
  }
}

function bySlot(names: readonly LockName[]): LockName[][] {
  const groups = new Map<string, LockName[]>()
  for (const name of names) {
    const group = groups.get(name.tag)
    if (group === undefined) groups.set(name.tag, [name])
    else group.push(name)
  }
  return [...groups.values()]
}

function holderOf(json: string, heldMs: number): LockHolder | undefined {
  if (json === '') return undefined
  const [process, name, scopeId] = JSON.parse(json) as [string, string, string]
  return { process, name: name || 'withLock', scopeId: scopeId || undefined, heldMs }
}
