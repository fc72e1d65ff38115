import type { Subscriber } from '../redis/access.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { Alarms, type Sleeper } from './alarms.ts'
import type { RedisCalls } from './redis-calls.ts'
import { CLAIM_MS } from './redis-lua.ts'
import type { Waiter } from './waiter.ts'

const AFTER_FAILURE_MS = 1_000

/** The waiters of one lock in this process, and when to look whether its holder is still there. */
class Watched implements Sleeper {
  alarmDue = 0
  alarmAt = 0
  readonly waiters = new Set<Waiter>()
  readonly #wakeUp: WakeUp

  constructor(wakeUp: WakeUp) {
    this.#wakeUp = wakeUp
  }

  wake(): void {
    void this.#wakeUp.look(this)
  }

  askAgain(): void {
    for (const waiter of [...this.waiters]) waiter.askAgain()
  }
}

/**
 * Wakes the waiters of this process: one connection that subscribes to one channel, however many there are, and for each
 * lock that is waited for one alarm, for the case that its holder never releases it.
 */
export class WakeUp {
  readonly alarms = new Alarms()
  readonly #calls: RedisCalls
  readonly #waiters = new Map<string, Waiter>()
  readonly #watched = new Map<string, Watched>()
  #subscriber: { readonly connection: Subscriber; readonly listening: Promise<unknown> } | undefined
  #isListening = false

  constructor(calls: RedisCalls) {
    this.#calls = calls
  }

  get isListening(): boolean {
    return this.#isListening
  }

  /** How many wait in this process. */
  get waiting(): number {
    return this.#waiters.size
  }

  /** Whether somebody in this process waits for the lock of this name. */
  watches(name: string): boolean {
    return this.#watched.has(name)
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
    this.#waiters.set(waiter.wait, waiter)
    let watched = this.#watched.get(name)
    if (watched === undefined) this.#watched.set(name, (watched = new Watched(this)))
    watched.waiters.add(waiter)
  }

  remove(waiter: Waiter): void {
    const { name } = waiter.name
    this.#waiters.delete(waiter.wait)
    const watched = this.#watched.get(name)
    if (watched === undefined) return
    watched.waiters.delete(waiter)
    if (watched.waiters.size > 0) return
    this.alarms.clear(watched)
    this.#watched.delete(name)
  }

  /** Looks after the lock when its holder must have renewed it; `ms` is negative where there is none. */
  watch(name: string, ms: number): void {
    const watched = this.#watched.get(name)
    if (watched === undefined || watched.alarmAt !== 0) return
    this.#lookIn(watched, ms < 0 ? CLAIM_MS : ms)
  }

  /** The lock was handed to this wait; where nobody knows of it any more, it has been told to leave. */
  yours(wait: string, atUs: number, fence: number): void {
    this.#waiters.get(wait)?.tell({ tag: 'yours', atUs, fence })
  }

  /** What was said to those who wait for this lock may have been lost. */
  askAgain(name: string): void {
    this.#watched.get(name)?.askAgain()
  }

  close(): void {
    this.alarms.close()
    this.#watched.clear()
    this.#isListening = false
    this.#subscriber?.connection.disconnect()
    this.#subscriber = undefined
  }

  /** @internal The alarm's: asks the store whether the holder is still there. */
  async look(watched: Watched): Promise<void> {
    const [waiter] = watched.waiters
    if (waiter === undefined) return
    let ms = AFTER_FAILURE_MS
    try {
      const { remainingMs, isKnown } = await this.#calls.check(waiter.name, waiter.token)
      ms = remainingMs < 0 ? CLAIM_MS : remainingMs
      if (!isKnown && watched.waiters.has(waiter)) watched.askAgain()
    } catch {
      // The store is away; who waits is told when its time is over, or asks again when it is back.
    }
    if (this.#watched.get(waiter.name.name) === watched && watched.alarmAt === 0) this.#lookIn(watched, ms)
  }

  #subscribe(): { connection: Subscriber; listening: Promise<unknown> } {
    const { connection, channel } = this.#calls.subscriber()
    connection.on('message', (_channel, message) => this.#hear(message))
    const listening = connection.subscribe(channel)
    listening.catch(() => {}) // whoever waits is told
    connection.on('ready', () => {
      if (!this.#isListening || this.#subscriber?.connection !== connection) return
      // Subscribed again first: who asks before that could be handed the lock and not hear of it.
      connection.subscribe(channel).then(
        () => {
          for (const waiter of [...this.#waiters.values()]) waiter.askAgain()
        },
        () => {}, // lost again: there will be another 'ready'
      )
    })
    return { connection, listening }
  }

  #hear(message: string): void {
    const [what, wait = '', atUs, fence] = message.split(' ')
    if (what === 'yours') {
      this.yours(wait, Number(atUs), Number(fence))
      return
    }
    const waiter = this.#waiters.get(wait)
    const watched = waiter && this.#watched.get(waiter.name.name)
    if (what === 'next' && watched !== undefined) this.#lookIn(watched, CLAIM_MS)
  }

  #lookIn(watched: Watched, ms: number): void {
    // A little later, and not every process at once.
    this.alarms.set(watched, ms + 5 + Math.random() * 20)
  }
}
