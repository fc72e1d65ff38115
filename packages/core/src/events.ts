import { type Channel, channel } from 'node:diagnostics_channel'
import type { ScopeDescription } from './errors.ts'

/** A lease as reports, events and `scopes.snapshot()` show it. */
export interface LeaseDescription {
  readonly resource: string
  readonly scope: ScopeDescription
  /** The server's process id of the connection, where there is one. */
  readonly backend: number | undefined
  /** What keeps it from being handed on, or `'idle'` and `'active'` for a lease that yields. */
  readonly state: 'idle' | 'active' | 'transaction' | 'session' | 'pinned' | 'cursor'
  /** How long it has been held, in milliseconds. */
  readonly heldMs: number
  /** The text of its last statement. */
  readonly statement: string | undefined
  /** Where it was acquired, the user's own frame first. */
  readonly site: string | undefined
}

/** A statement that was repeated, or slow. Its text is without the parameters. */
export interface StatementReport {
  readonly scope: ScopeDescription
  readonly resource: string
  readonly statement: string
  readonly count: number
  /** How long they took together, in milliseconds. */
  readonly totalMs: number
  /** The line that ran it where that is known, else where the scope's handle was taken. */
  readonly site: string | undefined
}

/** What is published on `node:diagnostics_channel`, by the name of the channel. */
export interface ReqscopeEvents {
  'reqscope:scope:opened': { scope: ScopeDescription }
  'reqscope:scope:ended': { scope: ScopeDescription; outcome: string; durationMs: number }
  /** By resource: how many statements or commands it ran, how long they took, how long it waited for connections. */
  'reqscope:scope:summary': {
    scope: ScopeDescription
    outcome: string
    durationMs: number
    resources: Readonly<Record<string, object>>
  }
  'reqscope:statements:repeated': StatementReport
  'reqscope:statement:slow': StatementReport
  'reqscope:lease:leaking': { lease: LeaseDescription }
  'reqscope:lease:returned-late': { lease: LeaseDescription }
  'reqscope:lease:reclaimed': { lease: LeaseDescription }
  'reqscope:connection:opened': { resource: string; backend: number | undefined; tookMs: number }
  'reqscope:connection:closed': { resource: string; backend: number | undefined; reason: string }
  /** How many idle connections were dead and closed, and how many the pool still has. */
  'reqscope:circuit:opened': { resource: string; discarded: number; kept: number; cause: unknown }
  'reqscope:circuit:closed': { resource: string }
  'reqscope:pool:exhausted': { resource: string; scope: ScopeDescription; reason: string; waitedMs: number }
  'reqscope:lock:lost': { keys: readonly string[]; reason: string; holder: ScopeDescription | undefined }
  'reqscope:lock:reclaimed': { keys: readonly string[]; holder: ScopeDescription | undefined }
  /** `shadow`: it was counted only. `by` says who decided: the store, this process's memory of it, or its own counts. */
  'reqscope:rate-limit:refused': { limit: string; shadow: boolean; by: 'store' | 'memory' | 'local' }
  'reqscope:overload:refused': { scope: ScopeDescription; reason: string; retryAfterMs: number | undefined }
  'reqscope:rate-limit:store-failed': { cause: unknown }
  'reqscope:transaction:idle': { resource: string; backend: number; idleMs: number; lease: LeaseDescription }
  'reqscope:transaction:retried': { scope: ScopeDescription; attempt: number; cause: unknown }
}

const channels = new Map<string, Channel>()

/** The channel of one kind of event; `node:diagnostics_channel` gives every subscriber the same one. */
export function eventChannel(name: keyof ReqscopeEvents): Channel {
  let found = channels.get(name)
  if (found === undefined) channels.set(name, (found = channel(name)))
  return found
}

/** Publishes an event; what it says is only built when somebody listens. */
export function publish<Name extends keyof ReqscopeEvents>(name: Name, event: () => ReqscopeEvents[Name]): void {
  const target = eventChannel(name)
  if (target.hasSubscribers) target.publish(event())
}
