import { AsyncLocalStorage } from 'node:async_hooks'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { currentScope, ScopeEndedError, ScopeLeakError, tryCurrentScope } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import { eventually, failureOf, Gate, jobApp, orders, ordersDatabase, ordersIn, withDb } from './fixture.ts'

const database = await ordersDatabase()

describe.each(['redis', 'postgres'] as const)('on %s', (transport) => {
  it('runs a job in a scope of its own, with data as its schema gives it', async () => {
    const app = await jobApp(database, { transport })
    const ran = new Gate<{ kind: string; name: string; when: Date; attempt: number; id: string }>()
    const job = defineJob({
      name: 'note',
      data: z.object({ when: z.string().transform((text) => new Date(text)) }),
      async run({ data, scope, attempt, id }) {
        await withDb(scope)
          .db.insert(orders)
          .values({ id: `${transport}-note` })
        expect(currentScope()).toBe(scope)
        ran.open({ kind: scope.kind, name: scope.name, when: data.when, attempt, id })
      },
    })
    await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { when: '2020-01-02T03:04:05.000Z' }))
    const seen = await ran.passed
    expect(seen).toMatchObject({ kind: 'job', name: 'note', attempt: 1, id })
    expect(seen.when.getUTCFullYear()).toBe(2020)
    expect(await ordersIn(database)).toContain(`${transport}-note`)
    await eventually(() => app.snapshot().openScopes.job === 0)
    expect(app.snapshot().leases).toEqual([])
  })

  it('inherits nothing from a request in which its worker was started', async () => {
    const app = await jobApp(database, { transport })
    const somebodys = new AsyncLocalStorage<string>()
    const seen = new Gate<{ scopeBefore: string | undefined; store: string | undefined }>()
    const captured = new Gate<unknown>()
    const job = defineJob<{ n: number }>()({
      name: 'inherit',
      async run({ scope }) {
        seen.open({ scopeBefore: tryCurrentScope()?.name, store: somebodys.getStore() })
        captured.open(await failureOf(Promise.resolve().then(() => leaked.select().from(orders))))
        expect(scope.kind).toBe('job')
      },
    })
    let leaked!: ReturnType<typeof withDb>['db']
    const requestMayEnd = new Gate()
    const request = app.run({ name: 'POST /workers', kind: 'request' }, async (scope) => {
      leaked = scope.db
      await somebodys.run('of the request', () => app.work([job]))
      await scope.enqueue(job, { n: 1 })
      await requestMayEnd.passed
    })
    expect(await seen.passed).toEqual({ scopeBefore: 'inherit', store: undefined })
    expect(await captured.passed).toBeInstanceOf(ScopeLeakError)
    requestMayEnd.open()
    await request
    expect(await failureOf(leaked.select().from(orders))).toBeInstanceOf(ScopeEndedError)
  })

  it('runs each attempt in a new scope, with the attempt in its log, until one succeeds', async () => {
    const app = await jobApp(database, { transport })
    const scopes: unknown[] = []
    const done = new Gate()
    const job = defineJob<{ n: number }>()({
      name: 'thrice',
      attempts: 3,
      async run({ scope, attempt }) {
        scopes.push(scope)
        scope.log.warn({}, 'here')
        if (attempt < 3) throw new Error(`attempt ${attempt} fails`)
        done.open()
      },
    })
    await app.work([job])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await done.passed
    expect(new Set(scopes).size).toBe(3)
    expect(app.logs.filter(({ message }) => message === 'here').map(({ facts }) => facts.attempt)).toEqual([1, 2, 3])
  })

  it('rolls back what a job with a transaction did, when it fails', async () => {
    const app = await jobApp(database, { transport })
    const job = defineJob<{ id: string; fail: boolean }>()({
      name: 'transactional',
      transaction: true,
      async run({ data, scope }) {
        await withDb(scope).db.insert(orders).values({ id: data.id })
        if (data.fail) throw new Error('after the insert')
      },
    })
    await app.work([job])
    const [failing, good] = await app.run({ name: 'test' }, (scope) =>
      scope.enqueueAll(job, [
        { id: `${transport}-undone`, fail: true },
        { id: `${transport}-done`, fail: false },
      ]),
    )
    const queue = app.jobs.queueOf(job)
    await eventually(async () => (await queue.getJobState(failing as string)) === 'failed')
    await eventually(async () => (await queue.getJobState(good as string)) === 'completed')
    const ids = await ordersIn(database)
    expect(ids).toContain(`${transport}-done`)
    expect(ids).not.toContain(`${transport}-undone`)
  })

  it('fails a job for good whose stored data no longer validates, and says where', async () => {
    const app = await jobApp(database, { transport })
    const schema = z.object({ items: z.array(z.object({ sku: z.string() })) })
    const job = defineJob({ name: 'strict', attempts: 5, data: schema, run: () => expect.unreachable() })
    await app.work([job])
    const queue = app.jobs.queueOf(job)
    const added = await queue.add('strict', { items: [{ sku: 'a' }, { sku: 7 }] }, { attempts: 5 })
    const failed = await eventually(async () => {
      const found = await queue.getJob(added.id as string)
      return found?.failedReason !== undefined && found
    })
    expect(failed.failedReason).toContain('data.items[1].sku')
    expect(failed.attemptsMade).toBe(1)
  })

  it('says of a job nobody knows which ones the worker does', async () => {
    const app = await jobApp(database, { transport })
    const job = defineJob<{ n: number }>()({ name: 'known', run: () => {} })
    await app.work([job])
    const queue = app.jobs.queueOf(job)
    const added = await queue.add('unknown', {})
    const failed = await eventually(async () => {
      const found = await queue.getJob(added.id as string)
      return found?.failedReason !== undefined && found
    })
    expect(failed.failedReason).toMatch(/unknown.*default.*known/)
  })
})
