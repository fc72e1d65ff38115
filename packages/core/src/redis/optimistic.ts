import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'ioredis'
import { ExecCommandError, InvalidOptionError, OptimisticConflictError, UNSHOWN } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import { Execution } from './execution.ts'
import { type Key, sharedSlot } from './key-slot.ts'
import { ABANDONED, OptimisticTransaction } from './optimistic-transaction.ts'
import type { QueuedCommands } from './queued-commands.ts'
import type { RedisSession } from './session.ts'

export interface OptimisticOptions {
  /** How often it is tried altogether. Default 5. */
  readonly attempts?: number
  /** How long to wait between two attempts at most, in milliseconds; the wait is random and grows. Default 100. */
  readonly maxDelayMs?: number
}

const FIRST_DELAY_MS = 2

const CONFLICT: unique symbol = Symbol('conflict')
type Outcome = unknown[] | undefined | typeof CONFLICT

/** See ScopedRedis.optimistic. */
export async function runOptimistic(
  session: RedisSession,
  keys: readonly string[],
  options: OptimisticOptions | undefined,
  fn: (tx: OptimisticTransaction) => unknown,
): Promise<unknown[] | undefined> {
  const { attempts, maxDelayMs } = checked(keys, options, fn)
  for (let attempt = 1; ; attempt++) {
    let outcome: Outcome = CONFLICT
    try {
      outcome = await tryOnce(session, keys, fn, attempt)
    } catch (error) {
      // Its slot has moved to another master, where the next attempt goes; nothing was written on this one.
      if (attempt >= attempts || !isMoved(error)) throw error
    }
    if (outcome !== CONFLICT) return outcome
    if (attempt >= attempts) throw new OptimisticConflictError({ resource: session.resource, keys, attempts })
    const longest = Math.min(maxDelayMs, FIRST_DELAY_MS * 2 ** (attempt - 1))
    await outsideEveryScope(() => delay(Math.random() * longest))
  }
}

function isMoved(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('MOVED ')
}

async function tryOnce(
  session: RedisSession,
  keys: readonly Key[],
  fn: (tx: OptimisticTransaction) => unknown,
  attempt: number,
): Promise<Outcome> {
  const leased = session.lease('redis.optimistic.keys', keys, 'transaction', runOptimistic)
  const lease = leased instanceof Promise ? await leased : leased
  try {
    // WATCH goes out with what the function reads first: one round trip for both.
    const watched = lease.send(lease.client.makeCommand('watch', keys))
    session.arm(watched)
    const tx = new OptimisticTransaction(lease, session, attempt, watched, slotCheck(session, keys))
    const result = await fn(tx)
    await watched // without it EXEC would guard nothing
    if (result === ABANDONED) return undefined
    if (!OptimisticTransaction.owns(tx, result)) {
      throw new InvalidOptionError(
        'redis.optimistic.fn',
        UNSHOWN,
        'a function that returns tx.multi() with its commands, or tx.abandon()',
      )
    }
    session.assertUsable()
    lease.assertHeld('EXEC')
    return await execute(session.resource, lease, result)
  } finally {
    // Not waited for: a connection that has to be un-watched first is lent to nobody before it is.
    void lease.release()
  }
}

/** In a cluster the commands have to be about keys of the slot that is watched. */
function slotCheck(
  { connections, resource }: RedisSession,
  [first]: readonly Key[],
): ((command: Command) => void) | undefined {
  if (!connections.isCluster) return undefined
  const watched = `${connections.keyPrefix}${String(first)}`
  return (command) => void sharedSlot(`${resource}.optimistic.multi.keys`, [watched, ...command.getKeys()], '')
}

async function execute(
  resource: string,
  lease: ExclusiveLease,
  queued: QueuedCommands,
): Promise<unknown[] | typeof CONFLICT> {
  const { client } = lease
  if (client.isGone) throw client.lostError(new Error('Connection is closed.'))
  const running = client.execute(new Execution(queued.commands))
  const executed = await lease.reply(running, { bounded: true, outcome: 'unknown' })
  switch (executed.tag) {
    case 'conflict':
      return CONFLICT
    case 'refused':
      if (isMoved(executed.error)) throw lease.failure(executed.error)
      throw new ExecCommandError({ resource, index: executed.index, applied: false, cause: executed.error })
    case 'done': {
      const { replies } = executed
      const index = replies.findIndex((reply) => reply instanceof Error)
      if (index >= 0) throw new ExecCommandError({ resource, index, applied: true, cause: replies[index] })
      queued.tell(replies)
      return replies as unknown[]
    }
  }
}

const DEFAULTS: Required<OptimisticOptions> = { attempts: 5, maxDelayMs: 100 }

function checked(
  keys: readonly string[],
  options: OptimisticOptions | undefined,
  fn: unknown,
): Required<OptimisticOptions> {
  if (
    !Array.isArray(keys) ||
    keys.length === 0 ||
    keys.some((key) => typeof key !== 'string' && !Buffer.isBuffer(key))
  ) {
    throw new InvalidOptionError('redis.optimistic.keys', UNSHOWN, 'a list of at least one key')
  }
  if (typeof fn !== 'function') throw new InvalidOptionError('redis.optimistic.fn', fn, 'a function')
  if (options === undefined) return DEFAULTS
  const read = new OptionReader('redis.optimistic', options).onlyKnown(['attempts', 'maxDelayMs'])
  return {
    attempts: read.integer('attempts', DEFAULTS.attempts, { min: 1, max: 1_000 }),
    maxDelayMs: read.milliseconds('maxDelayMs', DEFAULTS.maxDelayMs),
  }
}
