import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import {
  createScopes,
  defineResource,
  type Outcome,
  type ResourceDefinition,
  ScopeEndedError,
  ScopeLeakError,
} from '../../src/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { memoryLogger } from '../memory-logger.ts'

const request = { id: 'r-1', kind: 'request', name: 'POST /orders' } as const
const completed: Outcome = { tag: 'completed' }

/** A runtime whose scopes have a `thing`, made by `definition`. */
function scopesWith<Handle>(definition: ResourceDefinition<Handle>) {
  const { logger, logs } = memoryLogger()
  const scopes = createScopes({ resources: { thing: defineResource(definition) }, logger })
  return Object.assign(scopes, { logs })
}

class Mailer {
  readonly #sent: string[] = []
  from = 'shop@example.org'
  get count(): number {
    return this.#sent.length
  }
  send(to: string): this {
    this.#sent.push(to)
    return this
  }
  *[Symbol.iterator](): Iterator<string> {
    yield* this.#sent
  }
}

describe('defineResource', () => {
  it.each(['start', 'stop', 'handle', 'release', 'health'] as const)('refuses a %s that is no function', (member) => {
    const definition = { handle: () => 1, [member]: 'soon' } as unknown as ResourceDefinition<number>
    expect(() => defineResource(definition)).toThrow(
      expect.objectContaining({ code: 'RSC_INVALID_OPTION', option: `defineResource.${member}` }),
    )
  })

  it.each([[undefined], [null], ['mailer'], [{}]])(
    'refuses to be given %j: it cannot do without handle',
    (definition) => {
      expect(() => defineResource(definition as unknown as ResourceDefinition<number>)).toThrow(
        expect.objectContaining({ code: 'RSC_INVALID_OPTION' }),
      )
    },
  )

  it('needs nothing but handle', async () => {
    const scopes = scopesWith({ handle: (scope) => ({ greet: () => `hello from ${scope.name}` }) })
    expect(await scopes.run({ name: 'nightly' }, (scope) => scope.thing.greet())).toBe('hello from nightly')
    expect(await scopes.health()).toMatchObject({ resources: { thing: { status: 'up' } } })
    await scopes.close()
  })

  it('belongs to one runtime: a second one refuses it', () => {
    const thing = defineResource({ handle: () => 1 })
    createScopes({ resources: { thing } })
    expect(() => createScopes({ resources: { thing } })).toThrow(
      expect.objectContaining({ code: 'RSC_INVALID_OPTION', option: 'createScopes.resources.thing' }),
    )
  })

  it('calls its functions as methods of the definition', async () => {
    class Definition {
      opened = false
      released = 0
      start() {
        this.opened = true
      }
      handle() {
        return { opened: this.opened }
      }
      release() {
        this.released++
      }
      health() {
        return { status: this.opened ? ('up' as const) : ('down' as const) }
      }
    }
    const definition = new Definition()
    const scopes = scopesWith(definition)
    expect(await scopes.run({ name: 'nightly' }, (scope) => scope.thing.opened)).toBe(true)
    expect(definition.released).toBe(1)
    expect((await scopes.health()).status).toBe('up')
  })
})

describe("a user's handle", () => {
  it('is not made for a scope that never asks for it, and nothing is released then', async () => {
    let made = 0
    let released = 0
    const scopes = scopesWith({ handle: () => ({ nr: ++made }), release: () => void released++ })
    await scopes.run({ name: 'idle' }, () => {})
    expect({ made, released }).toEqual({ made: 0, released: 0 })
    await scopes.run({ name: 'busy' }, (scope) => [scope.thing.nr, scope.thing.nr])
    expect({ made, released }).toEqual({ made: 1, released: 1 })
  })

  it.each([[null], [undefined], [0], [''], [false]])('is made and released once even where it is %j', async (value) => {
    let made = 0
    const released: unknown[] = []
    const scopes = scopesWith<unknown>({
      handle() {
        made++
        return value
      },
      release: (handle) => void released.push(handle),
    })
    await scopes.run({ name: 'nightly' }, (scope) => {
      expect(scope.thing).toBe(value)
      expect(scope.thing).toBe(value)
    })
    expect(made).toBe(1)
    expect(released).toEqual([value])
  })

  it('is released with the object that handle returned, and told how the scope ended', async () => {
    const mailer = new Mailer()
    const released: [unknown, Outcome][] = []
    const scopes = scopesWith({ handle: () => mailer, release: (...args) => void released.push(args) })
    const error = new Error('no luck')
    await scopes
      .run({ name: 'nightly' }, (scope) => {
        scope.thing.send('a')
        throw error
      })
      .catch(() => {})
    expect(released).toHaveLength(1)
    expect(released[0]?.[0]).toBe(mailer)
    expect(released[0]?.[1]).toEqual({ tag: 'failed', error })
  })

  it('whose release fails is told to run, or to the log where the handler failed before', async () => {
    const failure = new Error('the mail server hung up')
    const scopes = scopesWith({ handle: () => ({}), release: () => Promise.reject(failure) })
    const error = await failureOf(scopes.run({ name: 'nightly' }, (scope) => void scope.thing))
    expect((error as AggregateError).errors).toEqual([failure])
    const handlers = new Error('no luck')
    const second = scopes.run({ name: 'nightly' }, (scope) => {
      void scope.thing
      throw handlers
    })
    expect(await failureOf(second)).toBe(handlers)
    expect(scopes.logs.map(({ facts }) => facts.err)).toEqual([failure, failure])
  })

  it('whose release throws does not keep the others from being released', async () => {
    const released: string[] = []
    const { logger } = memoryLogger()
    const named = (name: string, release = () => {}) =>
      defineResource({
        handle: () => ({}),
        release() {
          released.push(name)
          release()
        },
      })
    const scopes = createScopes({
      logger,
      resources: {
        a: named('a'),
        b: named('b', () => {
          throw new Error('b fails')
        }),
        c: named('c'),
      },
    })
    const scope = scopes.open(request)
    void [scope.a, scope.b, scope.c]
    await scope.end(completed)
    expect(released).toEqual(['c', 'b', 'a'])
  })

  it('that could not be made is told to whoever asks, and is not released', async () => {
    let attempts = 0
    let released = 0
    const scopes = scopesWith<Mailer>({
      handle() {
        attempts++
        if (attempts === 1) throw new Error('no licence')
        return new Mailer()
      },
      release: () => void released++,
    })
    await scopes.run({ name: 'nightly' }, (scope) => {
      expect(() => scope.thing).toThrow('no licence')
      expect(released).toBe(0)
      expect(scope.thing.send('a').count).toBe(1)
    })
    expect(released).toBe(1)
  })

  it('is not made at all after the end of its scope, or inside another one', () => {
    let made = 0
    const scopes = scopesWith({ handle: () => ({ nr: ++made }) })
    const [ended, open] = [scopes.open(request), scopes.open({ ...request, id: 'r-2' })]
    ended.end(completed)
    expect(() => ended.thing).toThrow(ScopeEndedError)
    const other = scopes.open({ ...request, id: 'r-3' })
    expect(other.bind(() => open.thing)).toThrow(ScopeLeakError)
    expect(made).toBe(0)
  })
})

describe("a user's handle is guarded:", () => {
  function openMailer() {
    const scopes = scopesWith({ handle: () => new Mailer() })
    const scope = scopes.open(request)
    return { scope, mailer: scope.thing, end: () => scope.end(completed) }
  }

  it('an instance of a class with private fields works as ever', () => {
    const { mailer } = openMailer()
    mailer.send('a').send('b')
    expect(mailer.count).toBe(2)
    expect([...mailer]).toEqual(['a', 'b'])
    mailer.from = 'other@example.org'
    expect(mailer.from).toBe('other@example.org')
    expect(mailer).toBeInstanceOf(Mailer)
    expect(mailer.send).toBe(mailer.send)
  })

  it.each<[string, (mailer: Mailer) => unknown]>([
    ['calling a method', (mailer) => mailer.send('a')],
    ['reading a property', (mailer) => mailer.from],
    ['reading an accessor', (mailer) => mailer.count],
    ['setting a property', (mailer) => (mailer.from = 'x')],
    ['iterating', (mailer) => [...mailer]],
  ])('%s after the end is refused', (_name, use) => {
    const { mailer, end } = openMailer()
    use(mailer)
    end()
    expect(() => use(mailer)).toThrow(ScopeEndedError)
  })

  it('printing it, and asking whether it is a promise, is not using it', async () => {
    const { mailer, end } = openMailer()
    end()
    expect(inspect(mailer)).toContain('Mailer')
    expect(await mailer).toBe(mailer)
    expect(Object.prototype.toString.call(mailer)).toBe('[object Object]')
  })

  it.each<[string, (thing: { sent?: number }) => unknown]>([
    ['asking whether it has a property', (thing) => 'sent' in thing],
    ['deleting a property', (thing) => delete thing.sent],
  ])('%s after the end is refused', (_name, use) => {
    const scope = scopesWith({ handle: (): { sent?: number } => ({ sent: 1 }) }).open(request)
    const { thing } = scope
    expect(use(thing)).toBe(true)
    scope.end(completed)
    expect(() => use(thing)).toThrow(ScopeEndedError)
  })

  it('a class makes its own instances, and none after the end', () => {
    const scope = scopesWith({ handle: () => Mailer }).open(request)
    const { thing: Guarded } = scope
    expect(new Guarded().send('a').constructor).toBe(Mailer)
    scope.end(completed)
    expect(() => new Guarded()).toThrow(ScopeEndedError)
  })

  it('a frozen object works, and is refused after the end', () => {
    const scopes = scopesWith({ handle: () => Object.freeze({ greet: () => 'hello', name: 'frozen' }) })
    const scope = scopes.open(request)
    const { thing } = scope
    expect(thing.greet()).toBe('hello')
    expect(thing.name).toBe('frozen')
    scope.end(completed)
    expect(() => thing.greet()).toThrow(ScopeEndedError)
  })

  it('built-in collections work: a Map is iterated, sized and read', () => {
    const scope = scopesWith({ handle: () => new Map([['a', 1]]) }).open(request)
    expect([...scope.thing]).toEqual([['a', 1]])
    expect(scope.thing.size).toBe(1)
    expect(scope.thing.get('a')).toBe(1)
  })

  it('an async iterable is iterated, and refused after the end', async () => {
    const scope = scopesWith({
      handle: () => ({
        async *[Symbol.asyncIterator]() {
          yield 1
          yield 2
        },
      }),
    }).open(request)
    const { thing } = scope
    expect(await all(thing)).toEqual([1, 2])
    scope.end(completed)
    expect(await failureOf(all(thing))).toBeInstanceOf(ScopeEndedError)
  })

  it('a function works with its own this, and is refused after the end', () => {
    const scope = scopesWith({
      handle: (own) => Object.assign((text: string) => `${own.id}: ${text}`, { tag: 't' }),
    }).open(request)
    const { thing } = scope
    expect(thing('hi')).toBe('r-1: hi')
    expect(thing.tag).toBe('t')
    scope.end(completed)
    expect(() => thing('too late')).toThrow(ScopeEndedError)
  })
})

describe('an async handle', () => {
  it('is a promise of the handle, made once, guarded, and released with what it resolved to', async () => {
    const mailer = new Mailer()
    const released: unknown[] = []
    let made = 0
    const scopes = scopesWith({
      async handle() {
        made++
        return mailer
      },
      release: (handle) => void released.push(handle),
    })
    let kept: Mailer | undefined
    await scopes.run({ name: 'nightly' }, async (scope) => {
      const [first, second] = await Promise.all([scope.thing, scope.thing])
      expect(first).toBe(second)
      expect(first.send('a').count).toBe(1)
      kept = first
    })
    expect(made).toBe(1)
    expect(released[0]).toBe(mailer)
    expect(released).toHaveLength(1)
    expect(() => kept?.send('too late')).toThrow(ScopeEndedError)
  })

  it('that is still on its way when the scope ends is released when it has come', async () => {
    const gate = new Gate<Mailer>()
    const mailer = new Mailer()
    const released: unknown[] = []
    const scopes = scopesWith({ handle: () => gate.passed, release: (handle) => void released.push(handle) })
    const running = scopes.run({ name: 'impatient' }, (scope) => void scope.thing)
    gate.open(mailer)
    await running
    expect(released[0]).toBe(mailer)
  })

  it('that comes after its scope was cancelled is refused at its first use, and released', async () => {
    const gate = new Gate<Mailer>()
    const controller = new AbortController()
    const released: unknown[] = []
    const scopes = scopesWith({ handle: () => gate.passed, release: (handle) => void released.push(handle) })
    const running = scopes.run({ name: 'cancelled', signal: controller.signal }, async (scope) => {
      const coming = scope.thing
      controller.abort()
      gate.open(new Mailer())
      ;(await coming).send('a')
    })
    expect(await failureOf(running)).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    expect(released).toHaveLength(1)
  })

  it('that fails is told to whoever awaits it, is not released, and crashes nothing where nobody does', async () => {
    let released = 0
    const down = new Error('down')
    const scopes = scopesWith({ handle: () => Promise.reject(down), release: () => void released++ })
    await scopes.run({ name: 'uninterested' }, (scope) => void scope.thing)
    expect(await failureOf(scopes.run({ name: 'interested' }, (scope) => scope.thing))).toBe(down)
    expect(released).toBe(0)
  })
})

async function all<Value>(values: AsyncIterable<Value>): Promise<Value[]> {
  const found: Value[] = []
  for await (const value of values) found.push(value)
  return found
}
