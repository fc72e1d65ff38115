import { createHash } from 'node:crypto'
import { InvalidOptionError } from '../errors.ts'
import type { AdvisoryAccess, AdvisoryHold } from '../postgres/access.ts'
import type { Scope } from '../scope/scope.ts'
import { type Clock, elapsedMs, processClock } from './clock.ts'
import type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'
import { Turns } from './turns.ts'

interface PostgresGrant extends LockGrant {
  readonly hold: AdvisoryHold
  /** Its connection counts among those that locks may occupy. */
  readonly hasPlace: boolean
}

const HELD: LockRefusal = { tag: 'held', holder: undefined }

/**
 * Keeps exclusive locks of single keys in Postgres, as advisory locks: in the scope's transaction where there is one, else
 * on a connection of its own. The server holds such a lock for as long as the connection lives, so the ttl bounds the
 * function and not the lock. Of those in this process who wait for the same key one has a connection at a time.
 */
export class PostgresLockStore implements LockStore {
  readonly name = 'postgres'
  readonly supports = { shared: false, severalKeys: false }
  readonly needsScope = true
  readonly #access: AdvisoryAccess
  readonly #clock: Clock
  /** Whose turn it is to wait with a connection, by key. */
  readonly #waiting = new Map<string, Turns>()
  readonly #places: Turns
  #lastFence = 0

  constructor(access: AdvisoryAccess, clock: Clock = processClock) {
    this.#access = access
    this.#clock = clock
    this.#places = new Turns(access.maxConnections)
  }

  async acquire(request: LockRequest): Promise<LockGrant | LockRefusal> {
    const { scope } = request
    if (scope === undefined)
      throw new InvalidOptionError('lock.scope', scope, 'a scope, whose connection holds the lock')
    const lock = advisoryNumber(request.keys[0] as string)
    if (!this.#access.isInTransaction(scope)) return this.#onConnection(request, scope, lock)
    const signal = request.waitMs === 0 ? undefined : request.signal
    const hold = await this.#access.lockInTransaction(scope, { lock, waitMs: request.waitMs, signal })
    return hold === undefined ? HELD : this.#granted(request, hold, false)
  }

  async renew(grant: LockGrant): Promise<boolean> {
    return (grant as PostgresGrant).hold.isHeld()
  }

  async release(grant: LockGrant): Promise<void> {
    const { hold, hasPlace } = grant as PostgresGrant
    try {
      await hold.release()
    } finally {
      if (hasPlace) this.#places.done()
    }
  }

  async #onConnection(request: LockRequest, scope: Scope, lock: string): Promise<LockGrant | LockRefusal> {
    const { waitMs } = request
    const signal = waitMs === 0 ? undefined : request.signal
    const startedAt = this.#clock.now()
    const leftMs = () => Math.max(0, Math.ceil(waitMs - elapsedMs(startedAt, this.#clock.now())))
    let turns = this.#waiting.get(lock)
    if (turns === undefined) this.#waiting.set(lock, (turns = new Turns(1)))
    if (!(await turns.take(leftMs(), signal))) return HELD
    try {
      if (!(await this.#places.take(leftMs(), signal))) {
        throw new Error(
          `all ${this.#access.maxConnections} connections that locks may occupy are taken: hold fewer locks, or raise max`,
        )
      }
      let hold: AdvisoryHold | undefined
      try {
        hold = await this.#access.lockOnConnection(scope, {
          lock,
          waitMs: waitMs === 0 ? 0 : Math.max(1, leftMs()),
          signal,
        })
        return hold === undefined ? HELD : this.#granted(request, hold, true)
      } finally {
        if (hold === undefined) this.#places.done()
      }
    } finally {
      turns.done()
      if (turns.isIdle) this.#waiting.delete(lock)
    }
  }

  #granted(request: LockRequest, hold: AdvisoryHold, hasPlace: boolean): PostgresGrant {
    // The server's clock, which no two holders read at once; should it be set back, this process at least goes on.
    this.#lastFence = Math.max(this.#lastFence + 1, hold.atUs)
    return {
      tag: 'granted',
      keys: request.keys,
      token: '',
      fence: this.#lastFence,
      since: this.#clock.now(),
      leaseMs: request.ttlMs,
      lost: hold.lost,
      hold,
      hasPlace,
    }
  }
}

/** The first eight bytes of the SHA-256 of `reqscope:lock:<key>`, as a bigint: the number the advisory lock has. */
export function advisoryNumber(key: string): string {
  return createHash('sha256').update(`reqscope:lock:${key}`).digest().readBigInt64BE(0).toString()
}
