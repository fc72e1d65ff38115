import { AsyncLocalStorage } from 'node:async_hooks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { DeadlineExceededError, type Outcome, type Scope, ScopeAbortedError, tryCurrentScope } from '../../src/index.ts'
import { failureOf } from '../gate.ts'
import { notebookScopes } from './fixture.ts'

const request = { id: 'r-1', kind: 'request', name: 'POST /orders' } as const
const completed = { tag: 'completed' } as const

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] }))
afterEach(() => void vi.useRealTimers())

describe("a scope's signal", () => {
  it('never fires on a normal end', async () => {
    const scopes = notebookScopes()
    const signals: AbortSignal[] = []
    await scopes.run({ name: 'nightly', timeoutMs: 1_000 }, (scope) => void signals.push(scope.signal))
    await scopes
      .run({ name: 'failing' }, (scope) => {
        signals.push(scope.signal)
        throw new Error('not an abort')
      })
      .catch(() => {})
    await vi.advanceTimersByTimeAsync(5_000)
    await scopes.close({ timeoutMs: 100 })
    expect(signals.map((signal) => signal.aborted)).toEqual([false, false])
  })

  it('leaves no timer behind when the scope ends before its deadline', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'nightly', timeoutMs: 60_000 }, () => expect(vi.getTimerCount()).toBe(1))
    expect(vi.getTimerCount()).toBe(0)
  })

  it('fires when the deadline passes, with a DeadlineExceededError', async () => {
    const scope = notebookScopes().open({ ...request, timeoutMs: 5_000 })
    expect(scope.deadline).toBe(Date.now() + 5_000)
    await vi.advanceTimersByTimeAsync(4_999)
    expect(scope.signal.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(scope.signal.reason).toBeInstanceOf(DeadlineExceededError)
    expect(scope.signal.reason).toMatchObject({
      code: 'RSC_DEADLINE_EXCEEDED',
      statusCode: 504,
      scope: request,
      timeoutMs: 5_000,
    })
    expect(scope.signal.reason.message).toMatch(/POST \/orders \(r-1\).*5000 ms/)
  })

  it('fires when the signal that was given to run does, with that one’s reason as its cause', async () => {
    const controller = new AbortController()
    const reason = new Error('SIGTERM')
    const failure = await failureOf(
      notebookScopes().run({ name: 'nightly', signal: controller.signal }, (scope) => {
        controller.abort(reason)
        expect(scope.signal.aborted).toBe(true)
        return scope.notebook.write('after the abort')
      }),
    )
    expect(failure).toBeInstanceOf(ScopeAbortedError)
    expect(failure).toMatchObject({ code: 'RSC_SCOPE_ABORTED', statusCode: 499, reason: 'signal', cause: reason })
    expect((failure as Error).message).toContain('the signal it was given fired')
  })

  it('has fired at the start when the signal that was given to run had', async () => {
    const aborted = await notebookScopes().run(
      { name: 'nightly', signal: AbortSignal.abort() },
      (scope) => scope.signal.aborted,
    )
    expect(aborted).toBe(true)
  })

  it('keeps no listener on the signal that was given to run', async () => {
    const { signal } = new AbortController()
    const add = vi.spyOn(signal, 'addEventListener')
    const remove = vi.spyOn(signal, 'removeEventListener')
    await notebookScopes().run({ name: 'nightly', signal }, () => {})
    expect(add).toHaveBeenCalledTimes(1)
    expect(remove.mock.calls[0]?.slice(0, 2)).toEqual(add.mock.calls[0]?.slice(0, 2))
  })

  it('fires when the client goes away, once, whatever comes after it', () => {
    const scope = notebookScopes().open(request)
    let fired = 0
    scope.signal.addEventListener('abort', () => fired++)
    scope.clientGone()
    scope.clientGone()
    scope.shutDown()
    expect(fired).toBe(1)
    expect(scope.signal.reason).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'client' })
  })

  it('has fired when it is first asked for after the abort', () => {
    const scope = notebookScopes().open(request)
    scope.clientGone()
    expect(scope.signal.aborted).toBe(true)
  })

  it('does not fire when the client goes away after the end: that is a normal end', () => {
    const scope = notebookScopes().open({ ...request, onAbort: 'cancel' })
    const { signal } = scope
    scope.end(completed)
    scope.clientGone()
    expect(signal.aborted).toBe(false)
  })

  it.each<[string, (scope: Scope) => unknown]>([
    ['the client goes away', (scope) => scope.clientGone()],
    ['the application shuts down', (scope) => scope.shutDown()],
    ['the deadline passes', () => vi.advanceTimersByTimeAsync(1_000)],
  ])('runs its listeners in the context of its own scope when %s, even inside another scope', async (_name, abort) => {
    const scopes = notebookScopes()
    const scope = scopes.open({ ...request, timeoutMs: 1_000 })
    const other = scopes.open({ ...request, id: 'r-2' })
    let seen: Scope | undefined
    scope.signal.addEventListener('abort', () => {
      seen = tryCurrentScope()
    })
    await other.bind(() => abort(scope))()
    expect(seen).toBe(scope)
  })

  it('runs its listeners in its own scope when an external signal is fired inside another one', async () => {
    const scopes = notebookScopes()
    const controller = new AbortController()
    const other = scopes.open(request)
    await scopes.run({ name: 'nightly', signal: controller.signal }, async (scope) => {
      let seen: Scope | undefined
      scope.signal.addEventListener('abort', () => void (seen = tryCurrentScope()))
      other.bind(() => controller.abort())()
      expect(seen).toBe(scope)
    })
  })
})

describe('a client that goes away', () => {
  it("lets the handler finish its work with onAbort 'finish': a card that was charged must not stop the insert", async () => {
    const scopes = notebookScopes()
    const scope = scopes.open({ ...request, onAbort: 'finish' })
    scope.clientGone()
    expect(scope.signal.aborted).toBe(true)
    expect(scope.notebook.write('the order')).toBe('the order')
  })

  it("finishes by default: 'cancel' is for those who ask for it", () => {
    const scope = notebookScopes().open(request)
    scope.clientGone()
    expect(scope.notebook.write('the order')).toBe('the order')
  })

  it("makes handles reject with onAbort 'cancel'", () => {
    const scope = notebookScopes().open({ ...request, onAbort: 'cancel' })
    const { notebook } = scope
    scope.clientGone()
    expect(() => notebook.write('for nobody')).toThrow(scope.signal.reason)
    expect(scope.signal.reason).toMatchObject({ code: 'RSC_SCOPE_ABORTED', statusCode: 499, reason: 'client' })
    expect(scope.signal.reason.message).toContain('client closed the connection')
  })
})

describe('a scope whose deadline has passed', () => {
  it('makes its handles reject with the DeadlineExceededError, and says so to its clean-ups', async () => {
    const scopes = notebookScopes()
    const outcomes: Outcome[] = []
    const running = scopes.run({ name: 'slow', timeoutMs: 100 }, async (scope) => {
      scope.defer((outcome) => void outcomes.push(outcome))
      await new Promise((resolve) => setTimeout(resolve, 200))
      scope.notebook.write('too late')
    })
    const failing = failureOf(running)
    await vi.advanceTimersByTimeAsync(200)
    const failure = await failing
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(scopes.pages).toEqual([])
    expect(outcomes).toEqual([{ tag: 'aborted', error: failure }])
  })

  it('tells its clean-ups that it was aborted also where its function swallowed that', async () => {
    const outcomes: Outcome[] = []
    const running = notebookScopes().run({ name: 'slow', timeoutMs: 100 }, async (scope) => {
      scope.defer((outcome) => void outcomes.push(outcome))
      await new Promise((resolve) => setTimeout(resolve, 200))
      return 'as if nothing had been'
    })
    await vi.advanceTimersByTimeAsync(200)
    expect(await running).toBe('as if nothing had been')
    expect(outcomes).toMatchObject([{ tag: 'aborted', error: { code: 'RSC_DEADLINE_EXCEEDED' } }])
  })

  it('still lets its clean-ups use the handles', async () => {
    const scopes = notebookScopes()
    const running = scopes.run({ name: 'slow', timeoutMs: 100 }, async (scope) => {
      scope.defer(() => void scope.notebook.write('note what was left undone'))
      await new Promise((resolve) => setTimeout(resolve, 200))
    })
    await vi.advanceTimersByTimeAsync(200)
    await running
    expect(scopes.pages).toEqual(['note what was left undone'])
  })
})

describe('a scope that is told of a shutdown', () => {
  it('and then fails has failed, and was not aborted: nothing of it was cancelled', async () => {
    const outcomes: Outcome[] = []
    const error = new Error('no luck')
    const running = notebookScopes().run({ name: 'nightly' }, (scope) => {
      scope.defer((outcome) => void outcomes.push(outcome))
      scope.shutDown()
      throw error
    })
    expect(await failureOf(running)).toBe(error)
    expect(outcomes).toEqual([{ tag: 'failed', error }])
  })
})

describe('timers of ours', () => {
  it('keep nothing of the context they were started in: a listener of the deadline sees no foreign store', async () => {
    const users = new AsyncLocalStorage<string>()
    const scope = users.run('somebody’s request', () => notebookScopes().open({ ...request, timeoutMs: 50 }))
    let seen: string | undefined = 'not called'
    scope.signal.addEventListener('abort', () => void (seen = users.getStore()))
    await vi.advanceTimersByTimeAsync(50)
    expect(seen).toBeUndefined()
  })
})
