import type { Moment } from './clock.ts'
import type { LockName } from './lock-name.ts'
import type { LockGrant, LockRequest } from './store.ts'

/** A lock that was had in Redis. */
export interface RedisGrant extends LockGrant {
  /** One group for each slot. */
  readonly groups: readonly (readonly LockName[])[]
}

export function granted(
  request: LockRequest,
  token: string,
  groups: readonly (readonly LockName[])[],
  since: Moment,
  leaseMs: number,
  fence: number,
): RedisGrant {
  return {
    tag: 'granted',
    keys: request.keys,
    token,
    fence: fence > 0 ? fence : undefined,
    since,
    leaseMs,
    groups,
  }
}

export function bySlot(names: readonly LockName[]): LockName[][] {
  const groups = new Map<string, LockName[]>()
  for (const name of names) {
    const group = groups.get(name.tag)
    if (group === undefined) groups.set(name.tag, [name])
    else group.push(name)
  }
  return [...groups.values()]
}
