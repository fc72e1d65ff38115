import { describe, expect, it } from 'vitest'
import { isReqscopeError, ScopeEndedError, ScopeLeakError } from '../../src/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { here } from '../here.ts'
import { type Notebook, notebookScopes } from './fixture.ts'

const orders = { id: 'r-1', kind: 'request', name: 'POST /orders' } as const
const songs = { id: 'r-2', kind: 'request', name: 'GET /songs/:id' } as const

describe('a handle', () => {
  it('is made on first use, once for its scope, and is another one in another scope', async () => {
    const scopes = notebookScopes()
    const [first, second] = [scopes.open(orders), scopes.open(songs)]
    expect(first.notebook).toBe(first.notebook)
    expect(first.notebook).not.toBe(second.notebook)
  })

  it('used after the end of its scope rejects, naming scope, route, resource and where it was taken', async () => {
    const scope = notebookScopes().open(orders)
    const takenAt = here(1)
    const { notebook } = scope
    scope.end({ tag: 'completed' })
    const error = thrownBy(() => notebook.write('too late')) as ScopeEndedError
    expect(error).toBeInstanceOf(ScopeEndedError)
    expect(error).toMatchObject({
      code: 'RSC_SCOPE_ENDED',
      statusCode: 500,
      scope: orders,
      resource: 'notebook',
      takenAt: expect.stringContaining(takenAt),
    })
    expect(error.message).toMatch(/notebook handle of request POST \/orders \(r-1\)/)
    expect(error.message).toContain(takenAt)
    expect(error.message).toContain('scopes.run')
  })

  it('that was never taken before the end says so at its first use', () => {
    const scope = notebookScopes().open(orders)
    scope.end({ tag: 'completed' })
    expect(() => scope.notebook.write('too late')).toThrow(ScopeEndedError)
  })

  it('used inside another open scope is a leak that names both, while its owner is open', async () => {
    const scopes = notebookScopes()
    const owner = scopes.open(orders)
    const takenAt = here(1)
    const { notebook } = owner
    const user = scopes.open(songs)
    const error = thrownBy(user.bind(() => notebook.write('leaked'))) as ScopeLeakError
    expect(error).toBeInstanceOf(ScopeLeakError)
    expect(error).toMatchObject({
      code: 'RSC_SCOPE_LEAK',
      statusCode: 500,
      scope: orders,
      usedFrom: songs,
      resource: 'notebook',
      takenAt: expect.stringContaining(takenAt),
    })
    expect(error.message).toContain('request POST /orders (r-1)')
    expect(error.message).toContain('request GET /songs/:id (r-2)')
    expect(error.message).toContain(takenAt)
    expect(error.message).toContain('currentScope().notebook')
    expect(scopes.pages).toEqual([])
  })

  it('used inside another open scope is a leak that names both, after the end of its owner too', async () => {
    const scopes = notebookScopes()
    const owner = scopes.open(orders)
    const { notebook } = owner
    owner.end({ tag: 'completed' })
    const user = scopes.open(songs)
    expect(thrownBy(user.bind(() => notebook.write('leaked')))).toMatchObject({
      code: 'RSC_SCOPE_LEAK',
      scope: orders,
      usedFrom: songs,
    })
  })

  it('asked for inside another open scope is a leak already', () => {
    const scopes = notebookScopes()
    const [owner, user] = [scopes.open(orders), scopes.open(songs)]
    expect(user.bind(() => owner.notebook.write('leaked'))).toThrow(ScopeLeakError)
  })

  it('of an outer scope is refused in a nested scopes.run, and works again after it', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'outer' }, async (outer) => {
      const { notebook } = outer
      await scopes.run({ name: 'inner' }, async (inner) => {
        inner.notebook.write('of the inner one')
        expect(() => notebook.write('leaked')).toThrow(ScopeLeakError)
      })
      notebook.write('of the outer one')
    })
    expect(scopes.pages).toEqual(['of the inner one', 'of the outer one'])
  })

  it('works where no scope is current, while its owner is open: libraries lose context', () => {
    const scopes = notebookScopes()
    const { notebook } = scopes.open(orders)
    expect(notebook.write('from nowhere')).toBe('from nowhere')
  })

  it('works where the current scope has ended, while its owner is open', async () => {
    const scopes = notebookScopes()
    const { notebook } = scopes.open(orders)
    const other = scopes.open(songs)
    const write = other.bind(() => notebook.write('from a context that is over'))
    other.end({ tag: 'completed' })
    expect(write()).toBe('from a context that is over')
  })

  it('kept by a background promise of its own scope is refused after the end', async () => {
    const scopes = notebookScopes()
    const gate = new Gate()
    let background: Promise<unknown> | undefined
    await scopes.run({ name: 'careless' }, (scope) => {
      background = gate.passed.then(() => scope.notebook.write('in the background'))
    })
    gate.open()
    expect(await failureOf(background as Promise<unknown>)).toBeInstanceOf(ScopeEndedError)
  })

  it('of one runtime is allowed in an open scope of another one', async () => {
    const [ours, theirs] = [notebookScopes(), notebookScopes()]
    const { notebook } = ours.open(orders)
    const write = theirs.open(songs).bind(() => notebook.write('across runtimes'))
    expect(write()).toBe('across runtimes')
  })

  it('a method that was picked off it before the end is refused after it', () => {
    const scope = notebookScopes().open(orders)
    const { write }: Notebook = scope.notebook
    scope.end({ tag: 'completed' })
    expect(() => write('too late')).toThrow(ScopeEndedError)
  })
})

describe('isReqscopeError', () => {
  it('knows the errors of this copy of the package', () => {
    const scope = notebookScopes().open(orders)
    scope.end({ tag: 'completed' })
    expect(isReqscopeError(thrownBy(() => scope.notebook))).toBe(true)
  })

  it('knows the errors of a second copy of the package, and nothing else', () => {
    const ofAnotherCopy = Object.assign(new Error('elsewhere'), { [Symbol.for('reqscope.error')]: true })
    expect(isReqscopeError(ofAnotherCopy)).toBe(true)
    expect(ofAnotherCopy).not.toBeInstanceOf(ScopeEndedError)
    for (const other of [new Error('no'), undefined, null, 'RSC_SCOPE_ENDED', { code: 'RSC_SCOPE_ENDED' }]) {
      expect(isReqscopeError(other)).toBe(false)
    }
  })
})

function thrownBy(fn: () => unknown): unknown {
  try {
    fn()
  } catch (error) {
    return error
  }
  throw new Error('expected it to throw, and it did not')
}
