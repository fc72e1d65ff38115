import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { advisoryAccessOf } from '../postgres/access.ts'
import { redisAccessOf } from '../redis/access.ts'
import { PostgresLockStore } from './postgres-store.ts'
import { RedisLockStore } from './redis-store.ts'
import type { LockStore } from './store.ts'

/**
 * The store of the user's choice, else in the first Redis among the resources, else in the first Postgres. Undefined where there is nothing that could
 * keep locks.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function lockStoreOf(
  options: { readonly store?: LockStore } | undefined,
  resources: readonly unknown[],
): LockStore | undefined {
  if (options !== undefined) {
    new OptionReader('createScopes.locks', options).onlyKnown(['store'])
    const { store } = options
    if (store !== undefined) return checkedStore(store)
  }
  for (const resource of resources) {
    const access = redisAccessOf(resource)
    if (access !== undefined) return new RedisLockStore(access)
  }
  for (const resource of resources) {
    const access = advisoryAccessOf(resource)
    if (access !== undefined) return new PostgresLockStore(access)
  }
  return undefined
}

function checkedStore(store: LockStore): LockStore {
  const members = store as Partial<LockStore> | null
  const isStore =
    typeof members?.name === 'string' &&
    typeof members.supports === 'object' &&
    (['acquire', 'renew', 'release'] as const).every((member) => typeof members[member] === 'function')
  if (!isStore) {
    throw new InvalidOptionError(
      'createScopes.locks.store',
      store,
      'a LockStore: name, supports, acquire, renew, release',
    )
  }
  return store
}
