import { outsideEveryScope } from '../scope/current.ts'
import { elapsedMs } from './clock.ts'
import type { LockName } from './lock-name.ts'
import { granted } from './redis-grant.ts'
import type { RedisLockStore } from './redis-store.ts'
import type { LockGrant, LockRefusal, LockRequest } from './store.ts'

/**
 * Takes several locks one group after the other, always in the same order, so that nobody waits for somebody who waits for
 * them; those it has are renewed meanwhile. All or none.
 */
export async function takeInTurn(
  store: RedisLockStore,
  request: LockRequest,
  inTurn: readonly (readonly LockName[])[],
  token: string,
): Promise<LockGrant | LockRefusal> {
  const startedAt = store.clock.now()
  const taken: LockName[] = []
  const keepAlive = () => {
    // What can't be renewed now is found out by the renewal at the end.
    if (taken.length > 0) void store.renewGroups(store.grouped(taken), token, request.ttlMs, 0).catch(() => {})
  }
  const renewing = outsideEveryScope(() => setInterval(keepAlive, Math.ceil(request.ttlMs / 3)))
  try {
    let fence = 0
    for (const names of inTurn) {
      const leftMs = request.waitMs - elapsedMs(startedAt, store.clock.now())
      const answer = await store.take(request, names, token, Math.max(0, Math.floor(leftMs)))
      if (answer.tag === 'held') {
        leave(store, taken, token)
        return answer
      }
      taken.push(...names)
      fence = Math.max(fence, answer.fence ?? 0)
    }
    const since = store.clock.now()
    const groups = store.grouped(taken)
    // One fence for all keys, the greatest, so that it has to grow for each of them; and none was lost meanwhile.
    if (await store.renewGroups(groups, token, request.ttlMs, fence)) {
      return granted(request, token, groups, since, request.ttlMs, fence)
    }
    leave(store, taken, token)
    return { tag: 'held', holder: undefined }
  } catch (error) {
    leave(store, taken, token)
    throw error
  } finally {
    clearInterval(renewing)
  }
}

function leave(store: RedisLockStore, taken: readonly LockName[], token: string): void {
  for (const names of store.grouped(taken)) store.leaveLater(names, token)
}
