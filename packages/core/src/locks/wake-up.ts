import type { RedisAccess, Subscriber } from '../redis/access.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { keysOf, type LockName } from './lock-name.ts'
import { CHECK } from './redis-scripts.ts'

/** What a waiter is told. */
export type Tidings =
  /** The lock was handed to it, at this moment of the server's clock, in µs. */
  | { readonly tag: 'yours'; readonly atUs: number; readonly fence: number }
  /** What was said may have gone unheard: ask again. */
  | { readonly tag: 'ask-again' }
  | { readonly tag: 'timeout' }
  | { readonly tag: 'abort' }

const ASK_AGAIN: Tidings = { tag: 'ask-again' }
const TIMEOUT: Tidings = { tag: 'timeout' }
const ABORT: Tidings = { tag: 'abort' }
const AFTER_FAILURE_MS = 1_000

/** Somebody who waits for a lock of this name. Tidings may come before it listens. */
export class Waiter {
  readonly token: string
  readonly name: LockName
  #early: Tidings | undefined
  #hear: ((tidings: Tidings) => void) | undefined

  constructor(token: string, name: LockName) {
    this.token = token
    this.name = name
  }

  tell(tidings: Tidings): void {
    if (this.#hear !== undefined) this.#hear(tidings)
    // To have it is better news than to be asked to ask for it.
    else if (this.#early?.tag !== 'yours') this.#early = tidings
  }

  /** The next tidings, at the latest after `ms` milliseconds; an early `ask-again` is forgotten by `forget`. */
  next(ms: number, signal: AbortSignal | undefined): Promise<Tidings> {
    const early = this.#early
    if (early !== undefined) {
      this.#early = undefined
      return Promise.resolve(early)
    }
    return new Promise((resolve) => {
      const abort = () => this.#hear?.(ABORT)
      const timer = outsideEveryScope(() => setTimeout(() => this.#hear?.(TIMEOUT), ms))
      signal?.addEventListener('abort', abort)
      this.#hear = (tidings) => {
        this.#hear = undefined
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        resolve(tidings)
      }
      if (signal?.aborted) abort()
    })
  }

  /** It asks (again) from here on: what was said before is answered by that. */
  forget(): void {
    if (this.#early?.tag === 'ask-again') this.#early = undefined
  }
}

/** The waiters of one lock in this process, and when to look whether its holder is still there. */
class Watched {
  readonly waiters = new Set<Waiter>()
  timer: NodeJS.Timeout | undefined
}

/**
 * Wakes the waiters of this process: one connection that subscribes to one channel, however many there are, and for each
 * lock that is waited for one timer, for the case that its holder never releases it.
 */
export class WakeUp {
  readonly channel: string
  readonly #access: RedisAccess
  readonly #claimMs: number
  readonly #waiters = new Map<string, Waiter>()
  readonly #watched = new Map<string, Watched>()
  #subscriber: { readonly connection: Subscriber; readonly listening: Promise<unknown> } | undefined
  #isListening = false

  constructor(access: RedisAccess, channel: string, claimMs: number) {
    this.#access = access
    this.channel = channel
    this.#claimMs = claimMs
  }

  get isListening(): boolean {
    return this.#isListening
  }

  /** How many wait in this process. */
  get waiting(): number {
    return this.#waiters.size
  }

  /** Connects, the first time. */
  async listen(): Promise<void> {
    this.#subscriber ??= outsideEveryScope(() => this.#subscribe())
    try {
      await this.#subscriber.listening
      this.#isListening = true
    } catch (error) {
      this.#subscriber?.connection.disconnect()
      this.#subscriber = undefined
      this.#isListening = false
      throw error
    }
  }

  add(waiter: Waiter): void {
    const { name } = waiter.name
    this.#waiters.set(`${waiter.token} ${name}`, waiter)
    let watched = this.#watched.get(name)
    if (watched === undefined) this.#watched.set(name, (watched = new Watched()))
    watched.waiters.add(waiter)
  }

  remove(waiter: Waiter): void {
    const { name } = waiter.name
    this.#waiters.delete(`${waiter.token} ${name}`)
    const watched = this.#watched.get(name)
    if (watched === undefined) return
    watched.waiters.delete(waiter)
    if (watched.waiters.size > 0) return
    clearTimeout(watched.timer)
    this.#watched.delete(name)
  }

  /** Looks after the lock when its holder must have renewed it; `ms` is negative where there is none. */
  watch(name: string, ms: number): void {
    const watched = this.#watched.get(name)
    if (watched === undefined || watched.timer !== undefined) return
    this.#lookIn(watched, name, ms < 0 ? this.#claimMs : ms)
  }

  close(): void {
    for (const { timer } of this.#watched.values()) clearTimeout(timer)
    this.#watched.clear()
    this.#isListening = false
    this.#subscriber?.connection.disconnect()
    this.#subscriber = undefined
  }

  #subscribe(): { connection: Subscriber; listening: Promise<unknown> } {
    const connection = this.#access.subscriber()
    connection.on('message', (_channel, message) => this.#hear(message))
    const listening = connection.subscribe(this.channel)
    listening.catch(() => {}) // whoever waits is told
    connection.on('ready', () => {
      if (!this.#isListening || this.#subscriber?.connection !== connection) return
      // Subscribed again first: who asks before that could be handed the lock and not hear of it.
      connection.subscribe(this.channel).then(
        () => this.#askAgain(this.#waiters.values()),
        () => {}, // lost again: there will be another 'ready'
      )
    })
    return { connection, listening }
  }

  #hear(message: string): void {
    const [what, ...words] = message.split(' ')
    if (what === 'yours') {
      const [atUs, fence, token, ...name] = words
      this.#waiters.get(`${token} ${name.join(' ')}`)?.tell({ tag: 'yours', atUs: Number(atUs), fence: Number(fence) })
      return
    }
    const name = words.join(' ')
    const watched = this.#watched.get(name)
    if (what === 'next' && watched !== undefined) this.#lookIn(watched, name, this.#claimMs)
  }

  #lookIn(watched: Watched, name: string, ms: number): void {
    clearTimeout(watched.timer)
    // A little later, and not every process at once.
    const inMs = Math.min(ms + 5 + Math.random() * 20, 2_147_483_647)
    watched.timer = outsideEveryScope(() =>
      setTimeout(() => {
        watched.timer = undefined
        void this.#look(watched, name)
      }, inMs),
    )
  }

  async #look(watched: Watched, name: string): Promise<void> {
    const [waiter] = watched.waiters
    if (waiter === undefined) return
    let ms = AFTER_FAILURE_MS
    try {
      const args = [waiter.token, this.#claimMs, this.#access.isCluster ? '0' : '1']
      const [remaining, isKnown] = (await this.#access.run(CHECK, keysOf([waiter.name]), args)) as [number, number]
      ms = remaining < 0 ? this.#claimMs : remaining
      if (isKnown === 0 && watched.waiters.has(waiter)) this.#askAgain(watched.waiters)
    } catch {
      // The store is away; who waits is told when its time is over, or asks again when it is back.
    }
    if (this.#watched.get(name) === watched && watched.timer === undefined) this.#lookIn(watched, name, ms)
  }

  #askAgain(waiters: Iterable<Waiter>): void {
    for (const waiter of [...waiters]) waiter.tell(ASK_AGAIN)
  }
}
