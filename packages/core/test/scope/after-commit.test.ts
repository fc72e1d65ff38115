import { describe, expect, it } from 'vitest'
import { createScopes, type Scope } from '../../src/index.ts'
import { currentContext, findInContext, runWithin } from '../../src/scope/current.ts'
import type { Resource, TransactionalResource } from '../../src/scope/resource.ts'

/** A resource whose transactions are links of the context, each with a list of what it was given. */
function transactional(): Resource<object> &
  TransactionalResource & { inside(scope: Scope, fn: () => void): unknown[] } {
  const key = {}
  return {
    start() {},
    stop() {},
    handle: () => ({}),
    release() {},
    health: () => ({ status: 'up' }),
    transaction: async (_scope, _options, fn) => fn(),
    openTransaction() {
      throw new Error('not used here')
    },
    afterCommit(_scope, fn) {
      const registered = findInContext(currentContext(), key) as unknown[] | undefined
      registered?.push(fn)
      return registered !== undefined
    },
    inside(scope, fn) {
      const registered: unknown[] = []
      runWithin(currentContext() ?? scope, key, registered, fn)
      return registered
    },
  }
}

describe('afterCommit with two resources that know transactions', () => {
  it.each(['a', 'b'] as const)('registers with the innermost transaction, that of %s', async (inner) => {
    const resources = { a: transactional(), b: transactional() }
    const outer = inner === 'a' ? 'b' : 'a'
    await createScopes({ resources }).run({ name: 'nightly' }, (scope) => {
      const fn = () => {}
      let inInner: unknown[] = []
      const inOuter = resources[outer].inside(scope, () => {
        inInner = resources[inner].inside(scope, () => scope.afterCommit(fn))
      })
      expect(inInner).toEqual([fn])
      expect(inOuter).toEqual([])
    })
  })

  it('registers with the only transaction there is, and runs at once where there is none', async () => {
    const resources = { a: transactional(), b: transactional() }
    await createScopes({ resources }).run({ name: 'nightly' }, (scope) => {
      let ran = 0
      expect(resources.b.inside(scope, () => scope.afterCommit(() => ran++))).toHaveLength(1)
      expect(ran).toBe(0)
      scope.afterCommit(() => ran++)
      expect(ran).toBe(1)
    })
  })
})
