import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import {
  createScopes,
  currentScope,
  defineResource,
  OverloadedError,
  type ResourceDefinition,
  type Scope,
  ScopeEndedError,
  tryCurrentScope,
} from '../../src/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { memoryLogger } from '../memory-logger.ts'
import { notebookScopes } from './fixture.ts'

const request = { id: 'r-1', kind: 'request', name: 'POST /orders' } as const
const completed = { tag: 'completed' } as const

type Lifecycle = Pick<ResourceDefinition<object>, 'start' | 'stop'>

/** A runtime with resources that write down when they are opened and closed. */
function recorded(lifecycles: Record<string, Lifecycle> = { a: {}, b: {}, c: {} }) {
  const events: string[] = []
  const { logger, logs } = memoryLogger()
  const resources = Object.fromEntries(
    Object.entries(lifecycles).map(([name, { start, stop }]) => [
      name,
      defineResource<object>({
        handle: () => ({}),
        async start(context) {
          events.push(`start ${name}`)
          await start?.(context)
        },
        async stop(context) {
          events.push(`stop ${name}`)
          await stop?.(context)
        },
      }),
    ]),
  )
  return { scopes: createScopes({ resources, logger }), events, logs }
}

describe('scopes.start', () => {
  it('opens the resources in the order they are named in, once, however often it is called', async () => {
    const { scopes, events } = recorded()
    await Promise.all([scopes.start(), scopes.start()])
    await scopes.start()
    await scopes.run({ name: 'nightly' }, () => {})
    expect(events).toEqual(['start a', 'start b', 'start c'])
    await scopes.close()
  })

  it('waits for each resource before it opens the next', async () => {
    const gate = new Gate()
    const { scopes, events } = recorded({ a: { start: () => gate.passed }, b: {} })
    const starting = scopes.start()
    await expect.poll(() => events).toEqual(['start a'])
    gate.open()
    await starting
    expect(events).toEqual(['start a', 'start b'])
    await scopes.close()
  })

  it('tells a resource its name', async () => {
    let name: string | undefined
    const { scopes } = recorded({ mailer: { start: (context) => void (name = context.name) } })
    await scopes.start()
    expect(name).toBe('mailer')
    await scopes.close()
  })

  it('that fails closes what was opened before, in reverse order, and can be tried again', async () => {
    const down = new Error('the mail server is down')
    let works = false
    const { scopes, events } = recorded({
      a: {},
      b: {},
      c: {
        start() {
          if (!works) throw down
        },
      },
      d: {},
    })
    expect(await failureOf(scopes.start())).toBe(down)
    expect(events).toEqual(['start a', 'start b', 'start c', 'stop b', 'stop a'])
    events.length = 0
    works = true
    expect(await scopes.run({ name: 'nightly' }, () => 'ran')).toBe('ran')
    expect(events).toEqual(['start a', 'start b', 'start c', 'start d'])
    await scopes.close()
  })

  it('that fails says so to run, which opens no scope', async () => {
    const down = new Error('down')
    const { scopes } = recorded({ a: { start: () => Promise.reject(down) } })
    let ran = false
    expect(await failureOf(scopes.run({ name: 'nightly' }, () => void (ran = true)))).toBe(down)
    expect(ran).toBe(false)
    expect(scopes.snapshot().openScopes.total).toBe(0)
  })

  it('runs outside of every scope, also when the first run inside another runtime’s scope causes it', async () => {
    let seen: Scope | undefined | 'not called' = 'not called'
    const { scopes } = recorded({ a: { start: () => void (seen = tryCurrentScope()) } })
    await notebookScopes().run({ name: 'outer' }, () => scopes.run({ name: 'inner' }, () => {}))
    expect(seen).toBeUndefined()
    await scopes.close()
  })
})

describe('scopes.close', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
  afterEach(() => void vi.useRealTimers())

  it('closes the resources in reverse order, once, however often it is called', async () => {
    const { scopes, events } = recorded()
    await scopes.start()
    events.length = 0
    await Promise.all([scopes.close(), scopes.close({ timeoutMs: 5 })])
    await scopes.close()
    expect(events).toEqual(['stop c', 'stop b', 'stop a'])
    expect(scopes.state).toBe('closed')
  })

  it('refuses new scopes with an OverloadedError, while it closes and after it', async () => {
    const scopes = notebookScopes()
    const scope = scopes.open(request)
    const closing = scopes.close({ timeoutMs: 1_000 })
    expect(scopes.state).toBe('closing')
    expect(() => scopes.open(request)).toThrow(OverloadedError)
    expect(await failureOf(scopes.run({ name: 'nightly' }, () => {}))).toMatchObject({
      code: 'RSC_OVERLOADED',
      statusCode: 503,
      reason: 'shutdown',
      message: expect.stringContaining('task nightly'),
    })
    scope.end(completed)
    await closing
    expect(() => scopes.open(request)).toThrow(OverloadedError)
  })

  it('of a runtime that was never opened opens nothing, then or later', async () => {
    const { scopes, events } = recorded()
    await scopes.close()
    expect(await failureOf(scopes.run({ name: 'nightly' }, () => {}))).toBeInstanceOf(OverloadedError)
    expect(await failureOf(scopes.start())).toBeInstanceOf(OverloadedError)
    expect(events.filter((event) => event.startsWith('start'))).toEqual([])
  })

  it('does not close a resource that was never opened', async () => {
    const { scopes, events } = recorded()
    await scopes.close()
    expect(events).toEqual([])
  })

  it('waits for open scopes to finish by themselves, and signals nobody who does', async () => {
    const { scopes, events } = recorded({ a: {} })
    await scopes.start()
    const scope = scopes.open(request)
    let closed = false
    const closing = scopes.close({ timeoutMs: 10_000 }).then(() => void (closed = true))
    await vi.advanceTimersByTimeAsync(4_999)
    expect(closed).toBe(false)
    expect(events).toEqual(['start a'])
    expect(scope.signal.aborted).toBe(false)
    scope.end(completed)
    await closing
    expect(events).toEqual(['start a', 'stop a'])
    expect(scope.signal.aborted).toBe(false)
  })

  it('signals what is open after half of its time, and lets it go on working', async () => {
    const scopes = notebookScopes()
    const scope = scopes.open(request)
    const closing = scopes.close({ timeoutMs: 10_000 })
    await vi.advanceTimersByTimeAsync(4_999)
    expect(scope.signal.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(scope.signal.reason).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'shutdown' })
    expect(scope.notebook.write('the last line')).toBe('the last line')
    scope.end(completed)
    await closing
    expect(scopes.released).toEqual([completed])
  })

  it('cancels and ends within its time what does not listen, and says which it was', async () => {
    const scopes = notebookScopes()
    const scope = scopes.open(request)
    const { notebook } = scope
    let closed = false
    const outcomes: unknown[] = []
    scope.defer((outcome) => void outcomes.push(outcome))
    const closing = scopes.close({ timeoutMs: 10_000 }).then(() => void (closed = true))
    await vi.advanceTimersByTimeAsync(10_000)
    expect(closed).toBe(true)
    await closing
    expect(scope.state).toBe('ended')
    expect(outcomes).toMatchObject([{ tag: 'aborted', error: { reason: 'shutdown' } }])
    expect(() => notebook.write('too late')).toThrow(ScopeEndedError)
    expect(scopes.logs).toMatchObject([{ level: 'warn', facts: { scopes: [request] } }])
  })

  it('does not wait longer than its time for a clean-up that never settles', async () => {
    const scopes = notebookScopes()
    const scope = scopes.open(request)
    scope.defer(() => new Promise(() => {}))
    let closed = false
    const closing = scopes.close({ timeoutMs: 1_000 }).then(() => void (closed = true))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(closed).toBe(true)
    await closing
  })

  it('does not wait longer than its time for a resource that never closes, and closes the others', async () => {
    const { scopes, events, logs } = recorded({ a: {}, stuck: { stop: () => new Promise(() => {}) } })
    await scopes.start()
    let closed = false
    const closing = scopes.close({ timeoutMs: 1_000 }).then(() => void (closed = true))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(closed).toBe(true)
    await closing
    expect(events).toEqual(['start a', 'start stuck', 'stop stuck', 'stop a'])
    expect(logs).toMatchObject([{ level: 'error', facts: { resource: 'stuck' } }])
  })

  it('tells each resource how long it may take', async () => {
    let timeoutMs: number | undefined
    const { scopes } = recorded({ a: { stop: (context) => void (timeoutMs = context.timeoutMs) } })
    await scopes.start()
    await scopes.close({ timeoutMs: 1_000 })
    expect(timeoutMs).toBeGreaterThan(0)
    expect(timeoutMs).toBeLessThanOrEqual(1_000)
  })

  it('waits for a start that is under way, and closes what that opens', async () => {
    const gate = new Gate()
    const { scopes, events } = recorded({ a: { start: () => gate.passed } })
    const starting = scopes.start()
    const closing = scopes.close()
    gate.open()
    await starting
    await closing
    expect(events).toEqual(['start a', 'stop a'])
  })

  it('closes what a slow start opens after the close gave up waiting for it, and opens nothing more', async () => {
    const [gate, stuck] = [new Gate(), new Gate()]
    const { scopes, events } = recorded({ z: { stop: () => stuck.passed }, a: { start: () => gate.passed }, b: {} })
    const starting = failureOf(scopes.start())
    await vi.waitFor(() => expect(events).toContain('start a'))
    const closing = scopes.close({ timeoutMs: 1_000 })
    await vi.advanceTimersByTimeAsync(600)
    expect(events).toEqual(['start z', 'start a', 'stop z'])
    gate.open()
    expect(await starting).toMatchObject({ code: 'RSC_OVERLOADED', reason: 'shutdown' })
    stuck.open()
    await closing
    expect(events).toEqual(['start z', 'start a', 'stop z', 'stop a'])
    expect(scopes.state).toBe('closed')
  })

  it('never rejects: a resource that fails to close is logged, and the others are closed', async () => {
    const failure = new Error('the mail server hung up')
    const { scopes, events, logs } = recorded({ a: {}, b: { stop: () => Promise.reject(failure) } })
    await scopes.start()
    await scopes.close()
    expect(events).toEqual(['start a', 'start b', 'stop b', 'stop a'])
    expect(logs).toMatchObject([{ level: 'error', facts: { err: failure, resource: 'b' } }])
  })

  it('lets a run that is under way finish, with its result', async () => {
    const scopes = notebookScopes()
    const gate = new Gate()
    const begun = new Gate()
    const running = scopes.run({ name: 'nightly' }, async (scope) => {
      begun.open()
      await gate.passed
      return scope.notebook.write(currentScope().name)
    })
    await begun.passed
    const closing = scopes.close({ timeoutMs: 10_000 })
    gate.open()
    expect(await running).toBe('nightly')
    await closing
  })
})

describe('scopes.health', () => {
  it('is up while every resource says so, and names what each says', async () => {
    const scopes = createScopes({
      resources: { a: defineResource({ handle: () => 1 }), b: resourceThatIs({ status: 'up', queue: 3 }) },
    })
    expect(await scopes.health()).toMatchObject({
      status: 'up',
      state: 'open',
      resources: { a: { status: 'up' }, b: { status: 'up', queue: 3 } },
    })
  })

  it.each<[string, ('up' | 'degraded' | 'down')[], string]>([
    ['degraded when one resource is', ['up', 'degraded'], 'degraded'],
    ['down when one resource is, whatever the others say', ['degraded', 'down', 'up'], 'down'],
  ])('is %s', async (_name, statuses, expected) => {
    const resources = Object.fromEntries(statuses.map((status, index) => [`r${index}`, resourceThatIs({ status })]))
    expect((await createScopes({ resources }).health()).status).toBe(expected)
  })

  it('is down for a resource whose own check fails, and says why', async () => {
    const health = () => Promise.reject(new Error('no route to host'))
    const scopes = createScopes({ resources: { mailer: defineResource({ handle: () => 1, health }) } })
    expect(await scopes.health()).toMatchObject({
      status: 'down',
      resources: { mailer: { status: 'down', error: 'no route to host' } },
    })
  })

  it('is down for a resource that says nothing within 2 s, or what it was told', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const health = () => new Promise<never>(() => {})
    const scopes = createScopes({ resources: { mailer: defineResource({ handle: () => 1, health }) } })
    for (const [options, timeoutMs] of [
      [{}, 2_000],
      [{ timeoutMs: 50 }, 50],
    ] as const) {
      const asked = scopes.health(options)
      await vi.advanceTimersByTimeAsync(timeoutMs)
      expect(await asked).toMatchObject({
        status: 'down',
        resources: { mailer: { status: 'down', error: expect.stringContaining(`${timeoutMs} ms`) } },
      })
    }
    expect(vi.getTimerCount()).toBe(0)
  })

  it('is down once the runtime is closing', async () => {
    const scopes = createScopes({ resources: {} })
    await scopes.close()
    expect(await scopes.health()).toMatchObject({ status: 'down', state: 'closed', resources: {} })
  })

  it.each<[string, () => never]>([
    [
      'throws at once',
      () => {
        throw new Error('boom')
      },
    ],
  ])('is down for a resource whose check %s', async (_name, health) => {
    const scopes = createScopes({ resources: { mailer: defineResource({ handle: () => 1, health }) } })
    expect((await scopes.health()).resources).toEqual({ mailer: { status: 'down', error: 'boom' } })
  })
})

function resourceThatIs(health: { status: 'up' | 'degraded' | 'down'; queue?: number }) {
  return defineResource({ handle: () => 1, health: () => health })
}
