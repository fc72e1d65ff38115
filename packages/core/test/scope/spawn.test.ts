import { expect, it } from 'vitest'
import { currentScope, InvalidOptionError, ScopeEndedError, ScopeLeakError } from '../../src/index.ts'
import { failureOf, Gate } from '../gate.ts'
import { accounts, accountsDatabase, appOn, ownersIn } from '../postgres/fixture.ts'
import { notebookScopes } from './fixture.ts'

it('runs a spawned task once the scope has ended, in a scope of its own', async () => {
  const scopes = notebookScopes()
  const steps: string[] = []
  const done = new Gate()
  await scopes.run({ name: 'GET /', kind: 'request' }, async (scope) => {
    scope.defer(() => void steps.push('clean-up'))
    scope.spawn('warm-cache', async (task) => {
      steps.push(`${task.kind} ${task.name}, while the request has ${scope.state}`)
      task.notebook.write('warm')
      expect(currentScope()).toBe(task)
      done.open()
    })
    await Promise.resolve()
    steps.push('handler')
  })
  await done.passed
  expect(steps).toEqual(['handler', 'clean-up', 'task warm-cache, while the request has ended'])
  expect(scopes.pages).toEqual(['warm'])
})

it('refuses the handles of the request inside the task', async () => {
  const scopes = notebookScopes()
  const failure = new Gate<unknown>()
  await scopes.run({ name: 'GET /' }, (scope) => {
    const { notebook } = scope
    scope.spawn('late', async () => failure.open(await failureOf((async () => notebook.write('x'))())))
  })
  expect(await failure.passed).toBeInstanceOf(ScopeLeakError)
  expect(scopes.pages).toEqual([])
})

it('runs it when the transaction around has committed, and not when that rolled back, unless always', async () => {
  const database = await accountsDatabase()
  const app = appOn(database)
  const ran: string[] = []
  const done = new Gate()
  await app.run({ name: 'POST /' }, async (scope) => {
    const task = (name: string) => () => void ran.push(name)
    await scope.transaction(async () => {
      await scope.db.insert(accounts).values({ owner: 'a' })
      scope.spawn('committed', task('committed'))
      const inner = scope.transaction({ propagation: 'nested' }, async () => {
        scope.spawn('savepoint', task('savepoint'))
        throw new Error('no')
      })
      await failureOf(inner)
    })
    const undone = scope.transaction(async () => {
      scope.spawn('rolled back', task('rolled back'))
      scope.spawn('always', { always: true }, task('always'))
      throw new Error('no')
    })
    await failureOf(undone)
    scope.spawn('last', () => done.open())
  })
  await done.passed
  expect(ran).toEqual(['committed', 'always'])
  expect(await ownersIn(database)).toEqual(['a'])
})

it('logs what a task throws, with its name', async () => {
  const scopes = notebookScopes()
  await scopes.run({ name: 'GET /' }, (scope) => {
    scope.spawn('broken', () => {
      throw new Error('boom')
    })
  })
  await scopes.close()
  expect(scopes.logs).toContainEqual(
    expect.objectContaining({ level: 'error', facts: expect.objectContaining({ task: 'broken' }) }),
  )
})

it('is waited for by a shutdown that began before it did', async () => {
  const scopes = notebookScopes()
  const handler = new Gate()
  const task = new Gate()
  const began = new Gate()
  const entered = new Gate()
  const request = scopes.run({ name: 'GET /' }, async (scope) => {
    entered.open()
    scope.spawn('slow', async (own) => {
      began.open()
      await task.passed
      own.notebook.write('still open')
    })
    await handler.passed
  })
  await entered.passed
  const closed = scopes.close({ timeoutMs: 5_000 })
  handler.open()
  await request
  await began.passed
  expect(scopes.state).toBe('closing')
  task.open()
  await closed
  expect(scopes.pages).toEqual(['still open'])
})

it('refuses to spawn after the end, and what is no name or no function', async () => {
  const scopes = notebookScopes()
  const { scope } = await scopes.run({ name: 'GET /' }, (own) => {
    expect(() => own.spawn('', () => {})).toThrow(InvalidOptionError)
    expect(() => own.spawn('x', undefined as never)).toThrow(InvalidOptionError)
    expect(() => own.spawn('x', { always: 1 as never }, () => {})).toThrow(InvalidOptionError)
    return { scope: own }
  })
  expect(() => scope.spawn('late', () => {})).toThrow(ScopeEndedError)
})
