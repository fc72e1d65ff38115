import { createHash } from 'node:crypto'

/** A lock as its Redis keys are named. */
export interface LockName {
  /** Its state; the others are made of it: `:s` shared holders, `:q` queue, `:w` waiters. */
  readonly name: string
  /** Names with the same tag are in the same slot of a cluster. */
  readonly tag: string
}

/**
 * All keys of a lock begin with its name and have to share a slot of a cluster, so the name has a hash tag: the user's own
 * where the key has one (`cart:{42}`), else the whole key. Different keys have different names.
 */
export function lockName(key: string): LockName {
  if (!key.includes('{') && !key.includes('}')) return { name: `reqscope:lock:{${key}}`, tag: key }
  const own = /\{([^}]+)\}/.exec(key.slice(Math.max(0, key.indexOf('{'))))
  // The end is what no other key of a lock ends with: `cart:{42}:q` is not the queue of `cart:{42}`.
  if (own !== null && own.index === 0) return { name: `reqscope:lock:=${key}:=`, tag: own[1] as string }
  // Braces that are no hash tag would end ours too early.
  const hash = createHash('sha1').update(key).digest('hex')
  return { name: `reqscope:lock:#{${hash}}:${key}`, tag: hash }
}
