import { outsideEveryScope } from '../scope/current.ts'

/** Something that wants to be woken, at one time at most. */
export interface Sleeper {
  /** When, by the monotonic clock; the alarm's own. */
  alarmDue: number
  /** The bell it waits for, 0 for none; the alarm's own. */
  alarmAt: number
  wake(): void
}

interface Bell {
  readonly sleepers: Set<Sleeper>
  readonly timer: NodeJS.Timeout
}

/**
 * Wakes many with few timers: those who want to be woken at about the same time share one, which rings a little early, and
 * who is not due by then waits for a nearer one. Most are woken never, because what they wait for comes first, so a bell that
 * nobody waits for any more is left to ring. No timer keeps the process alive.
 */
export class Alarms {
  readonly #bells = new Map<number, Bell>()

  set(sleeper: Sleeper, inMs: number): void {
    this.clear(sleeper)
    const now = performance.now()
    sleeper.alarmDue = now + inMs
    this.#wait(sleeper, now)
  }

  clear(sleeper: Sleeper): void {
    if (sleeper.alarmAt === 0) return
    this.#bells.get(sleeper.alarmAt)?.sleepers.delete(sleeper)
    sleeper.alarmAt = 0
  }

  close(): void {
    for (const { timer } of this.#bells.values()) clearTimeout(timer)
    this.#bells.clear()
  }

  #wait(sleeper: Sleeper, now: number): void {
    const inMs = sleeper.alarmDue - now
    // An eighth of the time at most, in steps that many have in common, so that there are never many bells.
    const step = 2 ** Math.max(0, Math.floor(Math.log2(Math.max(1, inMs))) - 3)
    const at = inMs < 8 ? Math.ceil(sleeper.alarmDue) : Math.floor(sleeper.alarmDue / step) * step
    let bell = this.#bells.get(at)
    if (bell === undefined) {
      const waitMs = Math.min(Math.max(1, Math.ceil(at - now)), 2_147_483_647)
      const timer = outsideEveryScope(() => setTimeout(ring, waitMs, this, at).unref())
      this.#bells.set(at, (bell = { sleepers: new Set(), timer }))
    }
    bell.sleepers.add(sleeper)
    sleeper.alarmAt = at
  }

  /** @internal The timers'. */
  ring(at: number): void {
    const bell = this.#bells.get(at)
    if (bell === undefined) return
    this.#bells.delete(at)
    const now = performance.now()
    for (const sleeper of bell.sleepers) {
      // Whoever was cleared meanwhile, by the wake of another one, is not woken.
      if (sleeper.alarmAt !== at) continue
      sleeper.alarmAt = 0
      if (sleeper.alarmDue - now >= 1) this.#wait(sleeper, now)
      else sleeper.wake()
    }
  }
}

function ring(alarms: Alarms, at: number): void {
  alarms.ring(at)
}
