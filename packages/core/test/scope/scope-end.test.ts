import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import {
  createScopes,
  defineResource,
  type Outcome,
  type Resource,
  type Scope,
  ScopeAbortedError,
  ScopeEndedError,
} from '../../src/index.ts'
import { assertUsable } from '../../src/scope/ownership.ts'
import { failureOf, Gate } from '../gate.ts'
import { heard } from '../heard.ts'
import { notebookScopes } from './fixture.ts'

const request = { id: 'r-1', kind: 'request', name: 'GET /notes' } as const
const completed: Outcome = { tag: 'completed' }

describe('a scope', () => {
  it('ends exactly once, however often it is told to', async () => {
    const scopes = notebookScopes()
    const ends = heard('reqscope:scope:ended')
    const scope = scopes.open(request)
    const cleanups: Outcome[] = []
    scope.notebook.write('a')
    scope.defer((outcome) => void cleanups.push(outcome))
    const failed: Outcome = { tag: 'failed', error: new Error('second') }
    await Promise.all([scope.end(completed), scope.end(failed), scope.end(failed)])
    expect(scope.end(failed)).toBeUndefined()
    expect(cleanups).toEqual([completed])
    expect(scopes.released).toEqual([completed])
    expect(ends).toHaveLength(1)
    expect(ends[0]).toMatchObject({ scope: request, outcome: 'completed' })
    expect(scope.state).toBe('ended')
  })

  it('is open until its function has settled, and ended when run resolves', async () => {
    const scopes = notebookScopes()
    const gate = new Gate()
    const cleanedUp = new Gate()
    let scope: Scope | undefined
    const running = scopes.run({ name: 'nightly' }, async (own) => {
      scope = own
      own.defer(() => cleanedUp.passed)
      await gate.passed
      return 'result'
    })
    await expect.poll(() => scope?.state).toBe('open')
    gate.open()
    await expect.poll(() => scope?.state).toBe('ending')
    cleanedUp.open()
    expect(await running).toBe('result')
    expect(scope?.state).toBe('ended')
    expect(scopes.snapshot().openScopes).toEqual({ total: 0, request: 0, job: 0, task: 0 })
  })

  it('ends at once, without waiting, when it used nothing', () => {
    const scope = notebookScopes().open(request)
    expect(scope.end(completed)).toBeUndefined()
    expect(scope.state).toBe('ended')
  })

  it('ends when its function throws, also when it does so before its first await', async () => {
    const scopes = notebookScopes()
    const thrown = new Error('the handler failed')
    for (const fn of [
      () => Promise.reject(thrown),
      () => {
        throw thrown
      },
    ]) {
      expect(await failureOf(scopes.run({ name: 'nightly' }, fn))).toBe(thrown)
    }
    expect(scopes.snapshot().openScopes.total).toBe(0)
  })
})

describe('clean-ups', () => {
  it('run last-in first-out, each after the one before has settled', async () => {
    const order: string[] = []
    const gate = new Gate()
    const running = notebookScopes().run({ name: 'nightly' }, (scope) => {
      scope.defer(() => void order.push('first'))
      scope.defer(async () => {
        order.push('second begins')
        await gate.passed
        order.push('second ends')
      })
      scope.defer(() => void order.push('third'))
    })
    await expect.poll(() => order).toEqual(['third', 'second begins'])
    gate.open()
    await running
    expect(order).toEqual(['third', 'second begins', 'second ends', 'first'])
  })

  it('run all of them, whatever the others do, and their failures are joined', async () => {
    const scopes = notebookScopes()
    const [one, two] = [new Error('one'), new Error('two')]
    let ran = false
    const running = scopes.run({ name: 'nightly' }, (scope) => {
      scope.defer(() => {
        ran = true
      })
      scope.defer(() => Promise.reject(one))
      scope.defer(() => {
        throw two
      })
    })
    const failure = await failureOf(running)
    expect(failure).toBeInstanceOf(AggregateError)
    expect((failure as AggregateError).errors).toEqual([two, one])
    expect((failure as Error).message).toContain('task nightly')
    expect(ran).toBe(true)
  })

  it('never hide the error of the handler: what they throw is logged instead', async () => {
    const scopes = notebookScopes()
    const [handlers, cleanups] = [new Error("the handler's"), new Error("the clean-up's")]
    const running = scopes.run({ name: 'nightly' }, (scope) => {
      scope.defer(() => Promise.reject(cleanups))
      throw handlers
    })
    expect(await failureOf(running)).toBe(handlers)
    expect(scopes.logs).toMatchObject([
      { level: 'error', facts: { err: cleanups, scope: { kind: 'task', name: 'nightly' } } },
    ])
  })

  it('run in the scope they belong to, also those that are added by another one', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'nightly' }, (scope) => {
      scope.defer(async () => {
        await Promise.resolve()
        scope.defer(() => void scope.notebook.write('from the inner one'))
        scope.notebook.write('from the outer one')
      })
    })
    expect(scopes.pages).toEqual(['from the outer one', 'from the inner one'])
  })

  it.each<[string, (scope: Scope) => unknown, (outcome: Outcome) => unknown]>([
    ['completed', () => 1, (outcome) => expect(outcome).toEqual({ tag: 'completed' })],
    [
      'failed, with the error',
      () => Promise.reject(new Error('no luck')),
      (outcome) => expect(outcome).toMatchObject({ tag: 'failed', error: { message: 'no luck' } }),
    ],
    [
      'aborted, with the error',
      (scope) => {
        const reason = new ScopeAbortedError({ scope: scope.describe(), reason: 'client' })
        scope.cancel(reason)
        throw reason
      },
      (outcome) => expect(outcome).toMatchObject({ tag: 'aborted', error: { code: 'RSC_SCOPE_ABORTED' } }),
    ],
  ])('are told how the scope ended: %s', async (_name, fn, check) => {
    const scopes = notebookScopes()
    const outcomes: Outcome[] = []
    await scopes
      .run({ name: 'nightly' }, (scope) => {
        scope.notebook.write('made, so released')
        scope.defer((outcome) => void outcomes.push(outcome))
        return fn(scope)
      })
      .catch(() => {})
    expect(outcomes).toHaveLength(1)
    check(outcomes[0] as Outcome)
    expect(scopes.released).toEqual(outcomes)
  })

  it('come before the release of the handles, which work in them', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'nightly' }, (scope) => {
      const { notebook } = scope
      scope.defer(async () => {
        notebook.write('at once')
        await Promise.resolve()
        notebook.write('and after an await')
        expect(scopes.released).toEqual([])
      })
    })
    expect(scopes.pages).toEqual(['at once', 'and after an await'])
    expect(scopes.released).toHaveLength(1)
  })

  it('can use a handle that nobody has asked for before, and it is released too', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'nightly' }, (scope) => scope.defer(() => void scope.notebook.write('first use')))
    expect(scopes.pages).toEqual(['first use'])
    expect(scopes.released).toHaveLength(1)
  })
})

describe('while a scope is ending', () => {
  it('code outside of its clean-ups is refused, in its own context and in none', async () => {
    const scopes = notebookScopes()
    const ending = new Gate()
    const cleanedUp = new Gate()
    const floating: Promise<unknown>[] = []
    const scope = scopes.open(request)
    const { notebook } = scope
    scope.bind(() => floating.push(ending.passed.then(() => notebook.write('a floating promise of the handler'))))()
    scope.defer(() => cleanedUp.passed)
    const ended = scope.end(completed)
    ending.open()
    expect(await failureOf(floating[0] as Promise<unknown>)).toBeInstanceOf(ScopeEndedError)
    expect(() => notebook.write('from nowhere')).toThrow(ScopeEndedError)
    cleanedUp.open()
    await ended
    expect(scopes.pages).toEqual([])
  })

  it('a clean-up of another scope is refused as well', async () => {
    const scopes = notebookScopes()
    const cleanedUp = new Gate()
    const scope = scopes.open(request)
    const { notebook } = scope
    scope.defer(() => cleanedUp.passed)
    const ended = scope.end(completed)
    const other = scopes.open({ ...request, id: 'r-2' })
    let refused: unknown
    other.defer(async () => {
      refused = await failureOf((async () => notebook.write('from the clean-up of r-2'))())
    })
    await other.end(completed)
    expect(refused).toBeInstanceOf(ScopeEndedError)
    cleanedUp.open()
    await ended
  })
})

describe("the release of a user's handle", () => {
  const lender = (released: string[]): Resource<{ lend(): string }> => ({
    start() {},
    stop() {},
    handle: (scope) => ({
      lend() {
        assertUsable(scope, 'lender', undefined)
        return 'lent'
      },
    }),
    release: () => void released.push('lender'),
    health: () => ({ status: 'up' }),
  })

  it.each(['before', 'after'])('can use what lends connections, named %s it, which is released last', async (place) => {
    const released: string[] = []
    const thing = defineResource({
      handle: (scope) => ({ scope: scope as unknown as { readonly lender: { lend(): string } } }),
      async release({ scope }) {
        await Promise.resolve()
        released.push(scope.lender.lend())
      },
    })
    const both = { thing, lender: lender(released) }
    const { lender: lends } = both
    const scopes = createScopes({ resources: place === 'after' ? both : { lender: lends, thing } })
    await scopes.run({ name: 'nightly' }, (scope) => void scope.thing)
    expect(released).toEqual(['lent', 'lender'])
  })

  it('sees the scope ending, and so does what lends connections', async () => {
    const states: string[] = []
    const resource = { ...lender([]), release: (_handle: unknown, scope: Scope) => void states.push(scope.state) }
    const thing = defineResource({ handle: (scope) => ({ scope }), release: (it) => void states.push(it.scope.state) })
    const scopes = createScopes({ resources: { thing, resource } })
    const alone = scopes.open(request)
    void alone.resource
    expect(alone.end(completed)).toBeUndefined()
    expect([...states, alone.state]).toEqual(['ending', 'ended'])
    const scope = scopes.open(request)
    void [scope.thing, scope.resource]
    await scope.end(completed)
    expect(states).toEqual(['ending', 'ending', 'ending'])
  })

  it('can defer: that clean-up runs too', async () => {
    let ran = false
    const thing = defineResource({
      handle: (scope) => ({ scope }),
      release: ({ scope }) => scope.defer(() => void (ran = true)),
    })
    await createScopes({ resources: { thing } }).run({ name: 'nightly' }, (scope) => void scope.thing)
    expect(ran).toBe(true)
  })
})

describe('a scope as JSON or in print', () => {
  it('shows what it is, and neither other requests nor what it holds', () => {
    const scopes = notebookScopes()
    const [first, second] = [scopes.open(request), scopes.open({ ...request, id: 'r-2' })]
    void second.notebook
    for (const scope of [first, second]) {
      expect(JSON.parse(JSON.stringify(scope))).toEqual({ ...request, id: scope.id })
      expect(Object.keys(scope).sort()).toEqual(['deadline', 'id', 'kind', 'name'])
    }
    expect(inspect(second)).not.toContain('r-1')
  })
})

describe('defer', () => {
  it('runs its clean-up at once after the end, told how the scope ended', async () => {
    const scope = notebookScopes().open(request)
    const failed: Outcome = { tag: 'failed', error: new Error('no luck') }
    await scope.end(failed)
    const outcomes: Outcome[] = []
    scope.defer((outcome) => void outcomes.push(outcome))
    expect(outcomes).toEqual([failed])
  })

  it('logs what a clean-up throws that came after the end', async () => {
    const scopes = notebookScopes()
    const scope = scopes.open(request)
    await scope.end(completed)
    const late = new Error('late')
    scope.defer(() => Promise.reject(late))
    await expect.poll(() => scopes.logs).toMatchObject([{ level: 'error', facts: { err: late, scope: request } }])
  })

  it.each(['with', 'without'])(
    'loses no clean-up that comes while the handles are released, %s others before',
    async (others) => {
      const { scopes, releasing, released } = slowScopes()
      const scope = scopes.open(request)
      void scope.slow
      let ran = false
      if (others === 'with') scope.defer(() => {})
      const ended = scope.end(completed)
      await releasing.passed
      scope.defer(() => {
        ran = true
      })
      released.open()
      await ended
      await expect.poll(() => ran).toBe(true)
    },
  )
})

/** A runtime with a handle whose release takes until it is told to go on. */
function slowScopes() {
  const releasing = new Gate()
  const released = new Gate()
  const slow = defineResource({
    handle: () => ({}),
    release() {
      releasing.open()
      return released.passed
    },
  })
  return { scopes: createScopes({ resources: { slow } }), releasing, released }
}
