import { randomUUID } from 'node:crypto'
import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { observer, testRedis } from '@reqscope/services/testing'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ConnectionLostError, InvalidOptionError, SharedConnectionError } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import { eventually, failureOf, Gate, type JobApp, jobApp, orders, ordersDatabase, ordersIn } from './fixture.ts'

const database = await ordersDatabase()
const work = defineJob<{ id: string }>()({ name: 'work', queue: 'work', run: () => {} })

const waiting = async (app: JobApp) =>
  (await app.jobs.queueOf(work).getJobs(['waiting', 'prioritized', 'delayed'], 0, -1, true)).map(
    ({ data }) => (data as { id: string }).id,
  )
const outboxSize = async () => {
  const [row] = await database.watch<{ size: number }[]>`select count(*)::int as size from reqscope_outbox`
  return row?.size
}

describe.each(['redis', 'postgres'] as const)('on %s', (transport) => {
  // Their queues are told apart by the prefix on Redis; on Postgres all share a database.
  const emptied = async () => {
    const app = await jobApp(database, { transport })
    await app.jobs
      .queueOf(work)
      .obliterate({ force: true })
      .catch(() => {})
    await app.jobs.queueOf(work).resume()
    return app
  }

  it('enqueues what a transaction has enqueued when it has committed, and not before', async () => {
    const app = await emptied()
    const before = new Gate<string[]>()
    const id = await app.run({ name: 'test' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(orders).values({ id: `${transport}-committed` })
        const jobId = await scope.enqueue(work, { id: 'a' })
        before.open(await waiting(app))
        return jobId
      }),
    )
    expect(await before.passed).toEqual([])
    await eventually(async () => (await waiting(app)).length === 1)
    expect((await app.jobs.queueOf(work).getJob(id))?.data).toEqual({ id: 'a' })
    expect(await ordersIn(database)).toContain(`${transport}-committed`)
    if (transport === 'redis') {
      expect(id).toMatch(/^ob-[0-9a-f-]{36}$/)
      await eventually(async () => (await outboxSize()) === 0)
    }
  })

  it('enqueues nothing of a transaction that rolled back, nor of a savepoint that did', async () => {
    const app = await emptied()
    await app.run({ name: 'test' }, async (scope) => {
      const failed = scope.transaction(async () => {
        await scope.enqueue(work, { id: 'rolled back' })
        throw new Error('no')
      })
      expect(await failureOf(failed)).toMatchObject({ message: 'no' })
      await scope.transaction(async () => {
        const inner = scope.transaction({ propagation: 'nested' }, async () => {
          await scope.enqueue(work, { id: 'savepoint' })
          throw new Error('no')
        })
        expect(await failureOf(inner)).toMatchObject({ message: 'no' })
        await scope.enqueue(work, { id: 'kept' })
      })
    })
    await eventually(async () => (await waiting(app)).length > 0)
    expect(await waiting(app)).toEqual(['kept'])
  })

  it('enqueues what one transaction has enqueued in its order, in bulk or one by one', async () => {
    const app = await emptied()
    await app.run({ name: 'test' }, (scope) =>
      scope.transaction(async () => {
        await scope.enqueue(work, { id: '1' })
        await scope.enqueueAll(work, [{ id: '2' }, { id: '3' }, { id: '4' }])
        await scope.enqueue(work, { id: '5' })
      }),
    )
    await eventually(async () => (await waiting(app)).length === 5)
    expect(await waiting(app)).toEqual(['1', '2', '3', '4', '5'])
  })

  it.each(['inside', 'outside'] as const)(
    'knows delays, priorities and deduplication %s of a transaction',
    async (where) => {
      const app = await emptied()
      const began = Date.now()
      const ids = await app.run({ name: 'test' }, (scope) => {
        const enqueue = async () => ({
          delayed: await scope.enqueue(work, { id: 'delayed' }, { delayMs: 60_000 }),
          urgent: await scope.enqueue(work, { id: 'urgent' }, { priority: 3 }),
          first: await scope.enqueue(work, { id: 'first' }, { deduplication: { id: 'one' } }),
          second: await scope.enqueue(work, { id: 'second' }, { deduplication: { id: 'one' } }),
        })
        return where === 'inside' ? scope.transaction(enqueue) : enqueue()
      })
      const queue = app.jobs.queueOf(work)
      const delayed = await eventually(async () => (await queue.getJob(ids.delayed)) ?? false)
      expect(await delayed.getState()).toBe('delayed')
      expect(delayed.timestamp).toBeGreaterThanOrEqual(began)
      const urgent = await eventually(async () => (await queue.getJob(ids.urgent)) ?? false)
      expect(urgent.priority).toBe(3)
      await eventually(async () => (await waiting(app)).includes('first'))
      expect((await waiting(app)).toSorted()).toEqual(['delayed', 'first', 'urgent'])
    },
  )

  it('refuses a flow inside a transaction', async () => {
    const app = await emptied()
    const flow = { name: 'work', queueName: 'work', data: {}, children: [] }
    await app.run({ name: 'test' }, (scope) =>
      scope.transaction(async () => {
        const failure = await failureOf(Promise.resolve().then(() => app.jobs.addFlow(flow)))
        expect(failure).toBeInstanceOf(SharedConnectionError)
      }),
    )
    const { job } = await app.run({ name: 'test' }, () => app.jobs.addFlow(flow))
    expect(job.id).toBeDefined()
  })

  it('refuses to enqueue in a scope that has ended', async () => {
    const app = await emptied()
    const ended = await app.run({ name: 'over' }, (scope) => ({ scope }))
    expect(await failureOf(ended.scope.enqueue(work, { id: 'late' }))).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
  })
})

it('relays by the sweeper what the process that committed could not', async () => {
  const proxy = await startChaosProxy({ target: await testRedis() })
  onTestFinished(() => proxy.close())
  const app = await jobApp(database, {
    url: proxy.url(await testRedis()),
    commandTimeoutMs: 200,
    outbox: { sweepIntervalMs: 50, sweepAfterMs: 0 },
  })
  proxy.blackHole()
  const id = await app.run({ name: 'test' }, (scope) => scope.transaction(() => scope.enqueue(work, { id: 'swept' })))
  await eventually(() =>
    app.logs.some(({ message }) => /could not be relayed|sweep of the outbox failed/.test(message)),
  )
  expect(await outboxSize()).toBe(1)
  await proxy.resume()
  await eventually(async () => (await outboxSize()) === 0)
  await eventually(async () => (await app.jobs.queueOf(work).getJob(id)) !== undefined)
})

it('runs a job whose relay died before its commit when the row is gone, so that nobody adds it again', async () => {
  const app = await jobApp(database, {
    defaultJobOptions: { removeOnComplete: true },
    outbox: { sweepIntervalMs: 60_000 },
  })
  const rowsWhenRun: unknown[] = []
  const once = defineJob<{ id: string }>()({
    name: 'once',
    queue: 'once',
    run: async () => void rowsWhenRun.push(await outboxSize()),
  })
  // What such a relay leaves behind: the job is in its queue, the row in the table, and locked until the server knows.
  const id = randomUUID()
  const relay = observer(database)
  await relay`insert into reqscope_outbox (id, queue, name, data, opts) values (${id}, 'once', 'once', '{"id":"x"}', '{}')`
  await relay.begin(async (sql) => {
    await sql`select 1 from reqscope_outbox where id = ${id} for update`
    await app.jobs.queueOf(once).add('once', { id: 'x' }, { jobId: `ob-${id}` })
    await app.work([once])
    await eventually(async () => {
      const rows = await database.watch`
        select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%reqscope_outbox%'`
      return rows.length > 0
    })
    expect(rowsWhenRun).toEqual([])
  })
  await eventually(() => rowsWhenRun.length > 0)
  expect(rowsWhenRun).toEqual([0])
})

it('postpones a job whose outbox can not be reached, without counting an attempt', async () => {
  const app = await jobApp(database, { outbox: { sweepIntervalMs: 60_000 } })
  const runs: number[] = []
  const job = defineJob<{ id: string }>()({
    name: 'post',
    queue: 'post',
    run: ({ attempt }) => void runs.push(attempt),
  })
  await database.watch`alter table reqscope_outbox rename to away`
  const { id } = await app.jobs.queueOf(job).add('post', { id: 'x' }, { jobId: `ob-${randomUUID()}` })
  await app.work([job])
  await eventually(async () => (await app.jobs.queueOf(job).getJobState(id as string)) === 'delayed')
  await database.watch`alter table away rename to reqscope_outbox`
  await eventually(() => runs.length > 0)
  expect(runs).toEqual([1])
})

it('says in health how many jobs are in the outbox, and how old the oldest is', async () => {
  const app = await jobApp(database, { outbox: { sweepIntervalMs: 60_000 } })
  await database.watch`insert into reqscope_outbox (id, queue, name, data, opts, created_at)
    values (gen_random_uuid(), 'work', 'work', '{}', '{}', now() - interval '1 minute')`
  const health = await app.health()
  expect(health.jobs).toMatchObject({ status: 'up', transport: 'redis', outbox: { size: 1 } })
  const { oldestMs } = (health.jobs as unknown as { outbox: { oldestMs: number } }).outbox
  expect(health.status).toBe('degraded')
  expect(health.crossed).toContainEqual({ name: 'jobs.outboxLagMs', value: oldestMs, threshold: 10_000 })
  expect((health.jobs as unknown as { outbox: { oldestMs: number } }).outbox.oldestMs).toBeGreaterThanOrEqual(60_000)
  await database.watch`delete from reqscope_outbox`
})

it('tells soon that Redis is away where no transaction keeps the job', async () => {
  const proxy = await startChaosProxy({ target: await testRedis() })
  onTestFinished(() => proxy.close())
  const app = await jobApp(database, { url: proxy.url(await testRedis()), commandTimeoutMs: 150 })
  proxy.blackHole()
  const failure = await failureOf(app.run({ name: 'test' }, (scope) => scope.enqueue(work, { id: 'x' })))
  expect(failure).toBeInstanceOf(ConnectionLostError)
  expect(failure).toMatchObject({ resource: 'jobs', outcome: 'unknown' })
  await proxy.resume()
})

it('enqueues at once what an afterCommit function enqueues', async () => {
  const app = await jobApp(database)
  const seen = new Gate<number>()
  const job = defineJob<{ n: number }>()({ name: 'after', queue: 'after', run: ({ data }) => seen.open(data.n) })
  await app.work([job])
  const id = new Gate<string>()
  await app.run({ name: 'test' }, (scope) =>
    scope.transaction(async () => {
      const enqueue = scope.bind(() => scope.enqueue(job, { n: 7 }))
      scope.afterCommit(async () => id.open(await enqueue()))
    }),
  )
  expect(await id.passed).not.toMatch(/^ob-/)
  expect(await seen.passed).toBe(7)
})

it('refuses options that are wrong, by name', async () => {
  await expect(jobApp(database, { resource: 'nope' })).rejects.toThrow(InvalidOptionError)
  const app = await jobApp(database)
  const bad = app.run({ name: 'test' }, (scope) => scope.enqueue(work, { id: 'x' }, { jobId: '17' }))
  expect(await failureOf(bad)).toMatchObject({ option: 'enqueue.jobId' })
})
