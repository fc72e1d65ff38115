import { describe, expect, it } from 'vitest'
import {
  createScopes,
  defineResource,
  InvalidOptionError,
  type Resources,
  type RunOptions,
  type ScopesOptions,
} from '../../src/index.ts'
import { failureOf } from '../gate.ts'
import { notebookScopes } from './fixture.ts'

const resource = defineResource({ handle: () => ({}) })

describe('createScopes', () => {
  it.each<[string, object, string]>([
    ['no options', undefined as never, 'createScopes'],
    ['an option it does not know', { resources: {}, resource: {} }, 'createScopes.resource'],
    ['no resources', {}, 'createScopes.resources'],
    ['resources that are none', { resources: { db: {} } }, 'createScopes.resources.db'],
    ['a resource that is null', { resources: { db: null } }, 'createScopes.resources.db'],
    ['a settleTimeoutMs below 0', { resources: {}, settleTimeoutMs: -1 }, 'createScopes.settleTimeoutMs'],
    ['a settleTimeoutMs in words', { resources: {}, settleTimeoutMs: '10s' }, 'createScopes.settleTimeoutMs'],
    [
      'a settleTimeoutMs no timer can hold',
      { resources: {}, settleTimeoutMs: 2 ** 31 },
      'createScopes.settleTimeoutMs',
    ],
    ['a logger that is none', { resources: {}, logger: {} }, 'createScopes.logger'],
    ['a logger without children', { resources: {}, logger: { ...console, child: undefined } }, 'createScopes.logger'],
  ])('refuses %s, and names it', (_name, options, option) => {
    const error = thrownBy(() => createScopes(options as ScopesOptions<Resources>))
    expect(error).toBeInstanceOf(InvalidOptionError)
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
    expect((error as Error).message).toContain(option)
  })

  it.each([
    'id',
    'kind',
    'name',
    'state',
    'signal',
    'deadline',
    'log',
    'defer',
    'bind',
    'afterCommit',
    'transaction',
    'end',
    'cancel',
    'constructor',
    'then',
    'lock',
    'consume',
    'enqueue',
    'spawn',
  ])("refuses a resource with the name of a scope's member: %s", (name) => {
    expect(thrownBy(() => createScopes({ resources: { [name]: resource } }))).toMatchObject({
      code: 'RSC_INVALID_OPTION',
      option: `createScopes.resources.${name}`,
    })
  })
})

describe('scopes.run', () => {
  it.each<[string, unknown, string]>([
    ['no name', {}, 'run.name'],
    ['an empty name', { name: '' }, 'run.name'],
    ['a name that is no string', { name: 7 }, 'run.name'],
    ['a kind there is not', { name: 'n', kind: 'cron' }, 'run.kind'],
    ['an empty id', { name: 'n', id: '' }, 'run.id'],
    ['a timeout of 0', { name: 'n', timeoutMs: 0 }, 'run.timeoutMs'],
    ['a timeout that is no integer', { name: 'n', timeoutMs: 1.5 }, 'run.timeoutMs'],
    ['a timeout in words', { name: 'n', timeoutMs: '1s' }, 'run.timeoutMs'],
    ['a timeout no timer can hold', { name: 'n', timeoutMs: Infinity }, 'run.timeoutMs'],
    ['a signal that is none', { name: 'n', signal: 'SIGTERM' }, 'run.signal'],
    ['a controller instead of its signal', { name: 'n', signal: new AbortController() }, 'run.signal'],
    ['an option it does not know', { name: 'n', timeout: 5 }, 'run.timeout'],
    ['a name instead of options', 'nightly', 'run'],
  ])('refuses %s, names it, and opens no scope', async (_name, options, option) => {
    const scopes = notebookScopes()
    expect(await failureOf(scopes.run(options as RunOptions, () => {}))).toMatchObject({
      code: 'RSC_INVALID_OPTION',
      option,
    })
    expect(scopes.snapshot().openScopes.total).toBe(0)
  })

  it('takes id, kind and name as they are given, and makes up an id where there is none', async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'tick', kind: 'job', id: 'j-1' }, (scope) => {
      expect(scope.describe()).toEqual({ id: 'j-1', kind: 'job', name: 'tick' })
      expect(scopes.snapshot().openScopes).toEqual({ total: 1, request: 0, job: 1, task: 0 })
    })
    const ids = await Promise.all([1, 2].map(() => scopes.run({ name: 'tick' }, (scope) => scope.id)))
    expect(new Set(ids).size).toBe(2)
  })
})

describe('scopes.close', () => {
  it.each([[{ timeoutMs: -1 }], [{ timeoutMs: '5s' }], [{ timeout: 5 }]])('refuses %j', (options) => {
    expect(() => notebookScopes().close(options as { timeoutMs: number })).toThrow(InvalidOptionError)
  })
})

describe('an InvalidOptionError', () => {
  it('says what was given, but never a value that may hold a secret', () => {
    const shown = (value: unknown) => new InvalidOptionError('x.y', value, 'right').message
    expect(shown(-1)).toBe('Option x.y must be right, but is -1.')
    expect(shown('fast')).toBe("Option x.y must be right, but is 'fast'.")
    expect(shown({ password: 'hunter2' })).not.toContain('hunter2')
    expect(shown(['hunter2'])).not.toContain('hunter2')
    expect(shown('postgres://me:hunter2@host/db')).not.toContain('hunter2')
    expect(shown(() => 'hunter2')).not.toContain('hunter2')
  })

  it('shows nothing of an option it does not know: a misspelt password would be in it', () => {
    const error = thrownBy(() => createScopes({ resources: {}, pasword: 'hunter2' } as never)) as Error
    expect(error.message).toContain('createScopes.pasword')
    expect(error.message).not.toContain('hunter2')
  })
})

describe('the log of a scope', () => {
  it("is a child of the runtime's logger that carries the scope's id", async () => {
    const scopes = notebookScopes()
    await scopes.run({ name: 'nightly', id: 't-1' }, (scope) => scope.log.info({ rows: 3 }, 'counted'))
    expect(scopes.logs).toEqual([{ level: 'info', message: 'counted', facts: { scopeId: 't-1', rows: 3 } }])
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
