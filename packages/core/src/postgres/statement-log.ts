import { RepeatedStatementsError, type ScopeDescription } from '../errors.ts'
import { eventChannel, type StatementReport } from '../events.ts'
import { OptionReader } from '../options.ts'
import { AcquisitionSite } from '../scope/acquisition-site.ts'

/** What is done about a statement that one scope runs again and again. */
export interface RepeatedStatementsOptions {
  /** From how many times the same text counts as repeated, in one scope. Default 10. */
  readonly threshold?: number
  /**
   * `'throw'` rejects the one that reaches the threshold with a RepeatedStatementsError, `'warn'` logs when the scope ends,
   * with the line that ran it, `'event'` counts and publishes, `'off'` costs nothing. Default: `'throw'` where NODE_ENV is
   * `test`, `'event'` where it is `production`, else `'warn'`.
   */
  readonly mode?: 'throw' | 'warn' | 'event' | 'off'
}

/** What is done about a statement that takes long. */
export interface SlowStatementsOptions {
  /** From how many milliseconds on. Default 1,000. */
  readonly thresholdMs?: number
  /** `'warn'` logs and publishes, `'event'` publishes. Default `'event'` where NODE_ENV is `production`, else `'warn'`. */
  readonly mode?: 'warn' | 'event' | 'off'
}

export interface StatementLogConfig {
  readonly repeated: Required<RepeatedStatementsOptions>
  readonly slow: Required<SlowStatementsOptions>
  readonly isOff: boolean
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkStatementLog(
  repeated: RepeatedStatementsOptions = {},
  slow: SlowStatementsOptions = {},
): StatementLogConfig {
  const { NODE_ENV } = process.env
  const quiet = NODE_ENV === 'production' ? 'event' : 'warn'
  const ofRepeated = new OptionReader('postgres.repeatedStatements', repeated).onlyKnown(['threshold', 'mode'])
  const ofSlow = new OptionReader('postgres.slowStatements', slow).onlyKnown(['thresholdMs', 'mode'])
  const config = {
    repeated: {
      threshold: ofRepeated.integer('threshold', 10, { min: 2 }),
      mode: ofRepeated.oneOf('mode', NODE_ENV === 'test' ? 'throw' : quiet, ['throw', 'warn', 'event', 'off']),
    },
    slow: {
      thresholdMs: ofSlow.milliseconds('thresholdMs', 1_000, { min: 1 }),
      mode: ofSlow.oneOf('mode', quiet, ['warn', 'event', 'off']),
    },
  }
  return { ...config, isOff: config.repeated.mode === 'off' && config.slow.mode === 'off' }
}

interface Counted {
  count: number
  totalMs: number
  site: AcquisitionSite | undefined
}

/** Whose statements they are. */
export interface StatementHolder {
  readonly scope: { describe(): ScopeDescription }
  readonly resource: string
  /** Where its handle was taken, where that is known. */
  readonly takenAt: AcquisitionSite | undefined
  warn(facts: object, message: string): void
}

/** Of how many texts a scope's log knows at most: what comes later was hardly the loop. */
const MAX_TEXTS = 1_000

/** A longer text is a batch already: what fills a table with a thousand rows at a time is no loop to be mended. */
const MAX_TEXT_LENGTH = 4_096
/** What a report shows of a text. */
const MAX_SHOWN = 1_000

const repeatedChannel = eventChannel('reqscope:statements:repeated')
const slowChannel = eventChannel('reqscope:statement:slow')

/** What one scope runs on one Postgres: how often each text, and for how long. */
export class StatementLog {
  readonly #holder: StatementHolder
  readonly #config: StatementLogConfig
  readonly #texts = new Map<string, Counted>()
  #totalMs = 0
  #count = 0
  #repeats = false
  #caller: AcquisitionSite | undefined
  #isArmed = false

  constructor(holder: StatementHolder, config: StatementLogConfig) {
    this.#holder = holder
    this.#config = config
  }

  /**
   * Somebody builds a statement: a builder runs it later, when the line that asked is no longer on the stack. Captured only
   * when one more of a text would be too many.
   */
  calledFrom(below: (...args: never[]) => unknown): void {
    if (this.#isArmed) this.#caller = new AcquisitionSite(below)
  }

  /** A statement is about to run; the error it is refused with, if it is. */
  begun(text: string): RepeatedStatementsError | undefined {
    this.#count++
    if (text.length > MAX_TEXT_LENGTH) return undefined
    const counted = this.#texts.get(text)
    if (counted === undefined) {
      if (this.#texts.size < MAX_TEXTS) this.#texts.set(text, { count: 1, totalMs: 0, site: undefined })
      return undefined
    }
    const { threshold, mode } = this.#config.repeated
    counted.count++
    if (mode === 'off' || counted.count < threshold - 1) return undefined
    if (counted.count === threshold - 1) {
      this.#isArmed = mode !== 'event'
      return undefined
    }
    if (counted.count > threshold) return undefined
    this.#repeats = true
    this.#isArmed = false
    counted.site = this.#caller
    return mode === 'throw' ? new RepeatedStatementsError(this.#describe(text, counted)) : undefined
  }

  /** It has been answered. */
  settled(text: string, tookMs: number): void {
    this.#totalMs += tookMs
    const counted = this.#texts.get(text)
    if (counted !== undefined) counted.totalMs += tookMs
    const { mode, thresholdMs } = this.#config.slow
    if (tookMs < thresholdMs || mode === 'off') return
    const report = this.#describe(text, { count: 1, totalMs: tookMs, site: undefined })
    if (slowChannel.hasSubscribers) slowChannel.publish(report)
    if (mode === 'warn') this.#holder.warn(report, `a statement took ${Math.round(tookMs)} ms`)
  }

  /** The scope has ended. */
  ended(): void {
    if (!this.#repeats) return
    const { threshold, mode } = this.#config.repeated
    for (const report of this.repeated) {
      if (repeatedChannel.hasSubscribers) repeatedChannel.publish(report)
      if (mode !== 'warn') continue
      const { name } = report.scope
      this.#holder.warn(
        report,
        `${name} ran the same statement ${report.count} times (${threshold} or more are reported). Read what they read in one`,
      )
    }
  }

  get repeated(): StatementReport[] {
    if (!this.#repeats) return []
    const { threshold } = this.#config.repeated
    return [...this.#texts]
      .filter(([, { count }]) => count >= threshold)
      .map(([text, counted]) => this.#describe(text, counted))
  }

  get summary() {
    return { statements: this.#count, statementsMs: rounded(this.#totalMs), repeated: this.repeated }
  }

  #describe(text: string, { count, totalMs, site }: Counted): StatementReport {
    const { scope, resource, takenAt } = this.#holder
    const where = site ?? takenAt
    const statement = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text
    return { scope: scope.describe(), resource, statement, count, totalMs: rounded(totalMs), site: where?.toString() }
  }
}

const rounded = (ms: number): number => Math.round(ms * 100) / 100
