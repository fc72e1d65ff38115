import { AsyncLocalStorage } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { currentScope, NoActiveScopeError, type Scope, tryCurrentScope } from '../../src/index.ts'
import { currentContext, findInContext, runWithin } from '../../src/scope/current.ts'
import { Gate } from '../gate.ts'
import { notebookScopes } from './fixture.ts'

const request = { id: 'r-1', kind: 'request', name: 'GET /notes' } as const

describe('the current scope', () => {
  it('is the one whose function runs, also after awaits and in timers', async () => {
    await notebookScopes().run({ name: 'nightly' }, async (scope) => {
      expect(currentScope()).toBe(scope)
      await nextTurn()
      expect(currentScope()).toBe(scope)
      await new Promise<void>((resolve) =>
        setTimeout(() => {
          expect(currentScope()).toBe(scope)
          resolve()
        }, 1),
      )
    })
  })

  it('is missing outside of every scope: currentScope throws and tryCurrentScope does not', () => {
    expect(tryCurrentScope()).toBeUndefined()
    expect(currentScope).toThrow(NoActiveScopeError)
    expect(currentScope).toThrow(/currentScope\(\).*scope\.bind/)
  })

  it('is the inner one in a nested scopes.run, and the outer one again after it', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'outer' }, async (outer) => {
      await scopes.run({ name: 'inner' }, async (inner) => {
        await nextTurn()
        expect(currentScope()).toBe(inner)
      })
      expect(currentScope()).toBe(outer)
      expect(outer.state).toBe('open')
    })
  })

  it('is each one’s own in scopes that run at the same time', async () => {
    const scopes = notebookScopes()
    const gates = Array.from({ length: 20 }, () => new Gate())
    const running = gates.map((gate, index) =>
      scopes.run({ name: 'parallel', id: `t-${index}` }, async () => {
        await gate.passed
        return currentScope().id
      }),
    )
    for (const gate of gates.toReversed()) gate.open()
    expect(await Promise.all(running)).toEqual(gates.map((_gate, index) => `t-${index}`))
  })
})

describe('scope.bind', () => {
  it('restores the scope where a library has lost it', async () => {
    const scopes = notebookScopes()
    const library = new EventEmitter()
    let inside: Scope | undefined
    await scopes.run({ name: 'nightly' }, async (scope) => {
      library.once(
        'row',
        scope.bind(() => void (inside = tryCurrentScope())),
      )
      outside(() => library.emit('row'))
      expect(inside).toBe(scope)
    })
  })

  it('passes on arguments, result and what is thrown', () => {
    const scope = notebookScopes().open(request)
    const add = scope.bind((a: number, b: number) => a + b)
    expect(add(1, 2)).toBe(3)
    const fail = scope.bind(() => {
      throw new Error('from inside')
    })
    expect(fail).toThrow('from inside')
  })

  it('keeps the innermost link it was called in: a transaction, say', async () => {
    const scope = notebookScopes().open(request)
    const key = Symbol('transaction')
    const read = () => findInContext(currentContext(), key)
    const [inside, at] = runWithin(scope, key, 'inside', () => [scope.bind(read), scope.bind(() => tryCurrentScope())])
    expect(inside()).toBe('inside')
    expect(at()).toBe(scope)
    const elsewhere = notebookScopes().open(request)
    expect(runWithin(elsewhere, key, 'another scope', () => scope.bind(read))()).toBeUndefined()
  })

  it('keeps the this of its caller', () => {
    const scope = notebookScopes().open(request)
    const counter = {
      count: 2,
      read: scope.bind(function (this: { count: number }) {
        return this.count
      }),
    }
    expect(counter.read()).toBe(2)
  })

  it('turns a leak into a use of the own handle', () => {
    const scopes = notebookScopes()
    const owner = scopes.open(request)
    const other = scopes.open({ ...request, id: 'r-2' })
    const write = owner.bind(() => owner.notebook.write('at home'))
    expect(other.bind(() => write())()).toBe('at home')
  })
})

const outside = AsyncLocalStorage.snapshot()
