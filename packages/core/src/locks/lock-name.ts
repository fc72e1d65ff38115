import { createHash } from 'node:crypto'

/** A lock as its Redis keys are named. */
export interface LockName {
  readonly name: string
  /** Names with the same tag are in the same slot of a cluster. */
  readonly tag: string
}

/**
 * All keys of a lock begin with its name and have to share a slot of a cluster, so the name has a hash tag: the user's own
 * where the key has one (`cart:{42}`), else the whole key. Different keys have different names.
 */
export function lockName(key: string): LockName {
  const own = /\{([^}]+)\}/.exec(key.slice(Math.max(0, key.indexOf('{'))))
  if (own !== null && own.index === 0) return { name: `reqscope:lock:=${key}`, tag: own[1] as string }
  if (!/[{}]/.test(key)) return { name: `reqscope:lock:{${key}}`, tag: key }
  // Braces that are no hash tag would end ours too early.
  const hash = createHash('sha1').update(key).digest('hex')
  return { name: `reqscope:lock:#{${hash}}:${key}`, tag: hash }
}

/** As the scripts name them: state, shared holders, queue, waiters. */
export function keysOf(names: readonly LockName[]): string[] {
  return names.flatMap(({ name }) => [name, `${name}:s`, `${name}:q`, `${name}:w`])
}
