import { LockLostError, type LockLostReason, LockUnavailableError, type ScopeDescription } from '../errors.ts'
import { publish } from '../events.ts'
import { OptionReader } from '../options.ts'
import { outsideEveryScope, runInContext } from '../scope/current.ts'
import type { AnyLock } from '../scope/locker.ts'
import type { Logger } from '../scope/logger.ts'
import type { Scope } from '../scope/scope.ts'
import type { Alarms, Sleeper } from './alarms.ts'
import { type Clock, driftMs, elapsedMs, type Moment } from './clock.ts'
import type { LockConfig } from './options.ts'
import type { LockGrant, LockStore } from './store.ts'

/** What all holds of a runtime have in common. */
export interface HoldHost {
  readonly store: LockStore
  readonly clock: Clock
  readonly logger: Logger
  readonly alarms: Alarms
  /** Whose release is under way: the runtime closes after it. */
  readonly releasing: Set<Hold>
}

type State =
  | { readonly tag: 'held' }
  | { readonly tag: 'lost'; readonly error: LockLostError }
  | { readonly tag: 'released' }

const HELD: State = { tag: 'held' }
const RELEASED: State = { tag: 'released' }
const RETRY_MS = 250

/**
 * A lock from the moment it was had: renews its lease, and knows by this process's own clock until when it is valid. Once
 * that moment has passed it is lost, whatever the store might say later.
 */
export class Hold implements AnyLock, Sleeper {
  alarmDue = 0
  alarmAt = 0
  readonly keys: readonly string[]
  readonly fence: number | undefined
  readonly #host: HoldHost
  readonly #grant: LockGrant
  readonly #config: LockConfig
  readonly #scope: Scope | undefined
  readonly #takenAt: Moment
  #state: State = HELD
  #since: Moment
  /** For how long after `#since` it is valid. */
  #validMs: number
  #renewAfterMs: number
  #isRenewing = false
  #controller: AbortController | undefined
  #released: Promise<void> | undefined

  constructor(host: HoldHost, grant: LockGrant, config: LockConfig, scope: Scope | undefined) {
    this.#host = host
    this.#grant = grant
    this.#config = config
    this.#scope = scope
    this.keys = grant.keys
    this.fence = grant.fence
    this.#since = this.#takenAt = grant.since
    this.#validMs = this.#capped(grant.leaseMs - driftMs(grant.leaseMs), grant.since)
    // One that was handed over has a short lease, to show that somebody is there.
    this.#renewAfterMs = jittered(grant.leaseMs < config.ttlMs ? grant.leaseMs / 10 : config.ttlMs / 3)
    grant.lost?.addEventListener('abort', () => this.lose('taken'), { once: true })
    if (grant.lost?.aborted) this.lose('taken')
    else this.#schedule()
  }

  /** Its store gives it back on a connection of the scope, which has to be idle when the scope ends. */
  get isReleasedByScope(): boolean {
    return this.#host.store.needsScope === true
  }

  get key(): string {
    return this.keys[0] as string
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#state.tag === 'lost') this.#controller.abort(this.#state.error)
    }
    return this.#controller.signal
  }

  get expiresAt(): number {
    return this.#since.wallMs + Math.floor(this.#validMs)
  }

  /** The error of a lock that is lost, by the clock of this moment; undefined while it is held, and after its release. */
  get lostError(): LockLostError | undefined {
    if (this.#state.tag === 'held' && this.#leftMs() <= 0) this.#expire()
    return this.#state.tag === 'lost' ? this.#state.error : undefined
  }

  async extend(ms: number): Promise<void> {
    new OptionReader('extend', { ms }).milliseconds('ms', 0, { min: 1 })
    this.#refuseIfOver()
    try {
      await this.#renew(ms)
    } catch (cause) {
      this.#refuseIfOver()
      throw new LockUnavailableError({ keys: this.keys, store: this.#host.store.name, cause })
    }
    this.#refuseIfOver()
  }

  /** Says that it is lost; only the first reason counts. */
  lose(reason: LockLostReason): void {
    if (this.#state.tag !== 'held') return
    const error = new LockLostError({ keys: this.keys, reason })
    this.#state = { tag: 'lost', error }
    this.#host.alarms.clear(this)
    // Listeners run in the context of whoever aborts, and never in the middle of the statement that found out.
    outsideEveryScope(() => setImmediate(() => this.#fire(error)))
    const holder: ScopeDescription | undefined = this.#scope?.describe()
    publish('reqscope:lock:lost', () => ({ keys: this.keys, reason, holder }))
    if (reason !== 'scope-ended') {
      this.#host.logger.warn({ keys: this.keys, reason, ...(holder && { scope: holder }) }, 'a lock was lost')
    }
  }

  /** Gives it back, once; never rejects: what fails is logged, and the lease ends by itself. */
  release(): Promise<void> {
    if (this.#released === undefined) {
      if (this.#state.tag === 'held') this.#state = RELEASED
      this.#host.alarms.clear(this)
      const { store, releasing } = this.#host
      releasing.add(this)
      this.#released = outsideEveryScope(() => store.release(this.#grant)).then(
        () => void releasing.delete(this),
        (error: unknown) => {
          releasing.delete(this)
          this.#host.logger.warn(
            { err: error, keys: this.keys },
            'a lock could not be released; it will be free when its lease ends',
          )
        },
      )
    }
    return this.#released
  }

  #fire(error: LockLostError): void {
    const controller = this.#controller
    if (controller === undefined) return
    if (this.#scope === undefined) controller.abort(error)
    else runInContext(this.#scope, () => controller.abort(error))
  }

  #leftMs(): number {
    return this.#validMs - elapsedMs(this.#since, this.#host.clock.now())
  }

  /** No longer than it may be held at all. */
  #capped(validMs: number, since: Moment): number {
    return Math.min(validMs, this.#config.maxHoldMs - elapsedMs(this.#takenAt, since))
  }

  #expire(): void {
    const heldMs = elapsedMs(this.#takenAt, this.#host.clock.now())
    this.lose(heldMs >= this.#config.maxHoldMs ? 'held-too-long' : 'expired')
  }

  #refuseIfOver(): void {
    const lost = this.lostError
    if (lost !== undefined) throw lost
    if (this.#state.tag === 'released') throw new LockLostError({ keys: this.keys, reason: 'taken' })
  }

  #schedule(): void {
    const renews = this.#config.autoExtend && !this.#isRenewing
    const inMs = Math.max(0, Math.min(this.#leftMs(), renews ? this.#renewAfterMs : Number.POSITIVE_INFINITY))
    this.#host.alarms.set(this, inMs)
  }

  /** @internal The alarm's. */
  wake(): void {
    if (this.lostError !== undefined || this.#state.tag !== 'held') return
    if (this.#config.autoExtend && !this.#isRenewing) {
      this.#isRenewing = true
      this.#renew(this.#config.ttlMs).then(
        () => this.#renewed(this.#config.ttlMs / 3),
        () => this.#renewed(Math.min(RETRY_MS, this.#config.ttlMs / 10)), // while the deadline allows, it is tried again
      )
    }
    this.#schedule()
  }

  #renewed(againAfterMs: number): void {
    this.#isRenewing = false
    this.#renewAfterMs = jittered(againAfterMs)
    if (this.#state.tag === 'held') this.#schedule()
  }

  async #renew(leaseMs: number): Promise<void> {
    const since = this.#host.clock.now()
    const isHeld = await this.#host.store.renew(this.#grant, leaseMs)
    // An answer that comes after the deadline comes too late: a statement may have been refused already.
    if (this.#state.tag !== 'held' || this.lostError !== undefined) return
    if (!isHeld) return this.lose('taken')
    const validMs = this.#capped(leaseMs - driftMs(leaseMs), since)
    if (validMs - elapsedMs(since, this.#host.clock.now()) < this.#leftMs()) return // it is valid for longer already
    this.#since = since
    this.#validMs = validMs
  }
}

/** So that locks that were taken together are not renewed together. */
function jittered(ms: number): number {
  return ms * (0.8 + Math.random() * 0.4)
}
