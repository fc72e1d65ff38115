import { SharedConnectionError } from '../errors.ts'
import { type ConnectionEffect, connectionEffectOf, insteadOf } from './connection-commands.ts'
import { sharedSlot } from './key-slot.ts'
import { withCallback } from './scoped-pipeline.ts'
import type { RedisSession } from './session.ts'

const RUNS_SCRIPT: ReadonlySet<string> = new Set(['eval', 'evalsha', 'eval_ro', 'evalsha_ro', 'fcall', 'fcall_ro'])

/**
 * Sends a command on the shared connection.
 *
 * @param method of ioredis' client; `getBuffer`.
 * @param name of the command, in lower case; `get`.
 */
export function sendShared(session: RedisSession, method: string, name: string, args: unknown[]): Promise<unknown> {
  const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
  if (session.connections.isCluster && RUNS_SCRIPT.has(name)) {
    const [, count, ...rest] = args.flat() as string[]
    checkSlots(session, name, rest.slice(0, Number(count)))
  }
  const sent = session.send(method, args)
  return callback === undefined ? sent : withCallback(sent, callback)
}

/** The same for a command that may change the connection, as its arguments say. */
export function sendChecked(session: RedisSession, method: string, name: string, args: unknown[]): Promise<unknown> {
  refuseEffect(session.resource, name, connectionEffectOf(name, args.flat()))
  return sendShared(session, method, name, args)
}

/** The same for a command by its name, whatever that is. */
export function callShared(session: RedisSession, method: string, command: unknown, args: unknown[]): Promise<unknown> {
  const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
  const flat = args.flat()
  const name = String(command).toLowerCase()
  refuseEffect(session.resource, name, connectionEffectOf(name, flat))
  if (session.connections.isCluster && RUNS_SCRIPT.has(name)) {
    checkSlots(session, name, flat.slice(2, 2 + Number(flat[1])) as string[])
  }
  const sent = session.send(method, [String(command), ...flat])
  return callback === undefined ? sent : withCallback(sent, callback)
}

/** Runs a script that has a method of its own. */
export function runShared(session: RedisSession, name: string, method: string, args: unknown[]): Promise<unknown> {
  if (session.connections.isCluster) {
    const flat = args.flat()
    const fixed = session.connections.scripts.get(name)?.numberOfKeys
    const count = fixed ?? Number(flat[0])
    checkSlots(session, name, flat.slice(fixed === undefined ? 1 : 0).slice(0, count) as string[])
  }
  return sendShared(session, method, name, args)
}

function checkSlots(session: RedisSession, name: string, keys: readonly string[]): void {
  sharedSlot(`${session.resource}.${name}.keys`, keys, session.connections.keyPrefix)
}

/** @throws SharedConnectionError where there is an effect. */
export function refuseEffect(resource: string, name: string, effect: ConnectionEffect | undefined): void {
  if (effect === undefined) return
  throw new SharedConnectionError({ resource, operation: name.toUpperCase(), instead: insteadOf(effect) })
}
