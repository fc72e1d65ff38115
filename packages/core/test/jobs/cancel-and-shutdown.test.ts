import { describe, expect, it } from 'vitest'
import { DeadlineExceededError, InvalidOptionError, ScopeAbortedError } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import { eventually, failureOf, Gate, jobApp, orders, ordersDatabase, ordersIn, withDb } from './fixture.ts'

const database = await ordersDatabase()
const aborted = (signal: AbortSignal) =>
  new Promise<unknown>((resolve) => signal.addEventListener('abort', () => resolve(signal.reason), { once: true }))

describe.each(['redis', 'postgres'] as const)('on %s', (transport) => {
  const queueName = (name: string) => `${name}-${transport}`

  it('fires the signal when the timeout passes, fails the attempt for it, and tries again', async () => {
    const app = await jobApp(database, { transport })
    const reasons: unknown[] = []
    const done = new Gate()
    const job = defineJob<{ n: number }>()({
      name: 'slow',
      queue: queueName('slow'),
      attempts: 2,
      timeoutMs: 60,
      async run({ signal, attempt }) {
        if (attempt === 2) return done.open()
        reasons.push(await aborted(signal))
      },
    })
    await app.work([job])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await done.passed
    expect(reasons[0]).toBeInstanceOf(DeadlineExceededError)
    expect(app.logs.some(({ facts }) => facts.err instanceof DeadlineExceededError && facts.job === 'slow')).toBe(true)
  })

  it('abandons a job that ignores its signal, takes its lease back and reports that', async () => {
    const app = await jobApp(database, { transport, abandonAfterMs: 30 })
    const never = new Gate()
    const job = defineJob<{ n: number }>()({
      name: 'deaf',
      queue: queueName('deaf'),
      timeoutMs: 50,
      async run({ scope }) {
        const { db } = withDb(scope)
        const work = scope.transaction(async () => {
          await db.insert(orders).values({ id: `${transport}-deaf` })
          await never.passed
        })
        await work.catch(() => never.passed) // also where the deadline came before the insert was done
      },
    })
    await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await eventually(async () => (await app.jobs.queueOf(job).getJobState(id)) === 'failed')
    expect((await app.jobs.queueOf(job).getJob(id))?.failedReason).toContain('timeout of 50 ms')
    expect(app.snapshot().leases).toEqual([])
    expect(app.snapshot().openScopes.job).toBe(0)
    expect(app.logs.some(({ message }) => message.includes('abandoned'))).toBe(true)
    expect(await ordersIn(database)).not.toContain(`${transport}-deaf`)
    never.open()
  })

  it('cancels a job by its id, and its handles with it', async () => {
    const app = await jobApp(database, { transport })
    const running = new Gate()
    const failure = new Gate<unknown>()
    const job = defineJob<{ n: number }>()({
      name: 'cancelled',
      queue: queueName('cancelled'),
      async run({ scope, signal }) {
        running.open()
        await aborted(signal)
        failure.open(await failureOf(withDb(scope).db.select().from(orders)))
      },
    })
    const workers = await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await running.passed
    expect(workers.cancel('of nobody')).toBe(false)
    expect(workers.cancel(id, 'not needed any more')).toBe(true)
    expect(await failure.passed).toBeInstanceOf(ScopeAbortedError)
    await eventually(async () => (await app.jobs.queueOf(job).getJobState(id)) === 'failed')
  })

  it('cancels a job through BullMQ’s own worker', async () => {
    const app = await jobApp(database, { transport })
    const running = new Gate()
    const reason = new Gate<unknown>()
    const job = defineJob<{ n: number }>()({
      name: 'own',
      queue: queueName('own'),
      async run({ signal }) {
        running.open()
        reason.open(await aborted(signal))
      },
    })
    const workers = await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await running.passed
    workers.byQueue.get(job.queue)?.cancelJob(id, 'by hand')
    expect(await reason.passed).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'signal' })
  })

  it('fires the signal when the job’s lock is lost', async () => {
    const app = await jobApp(database, {
      transport,
      lockDurationMs: 400,
      stalledIntervalMs: 60_000,
      abandonAfterMs: 50,
    })
    const running = new Gate()
    const reason = new Gate<unknown>()
    const job = defineJob<{ n: number }>()({
      name: 'locked',
      queue: queueName('locked'),
      async run({ signal }) {
        running.open()
        reason.open(await aborted(signal))
      },
    })
    await app.work([job])
    const id = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await running.passed
    // What another worker does that has taken it over.
    if (transport === 'postgres') await database.watch`update bullmq.job set lock_token = 'other' where id = ${id}`
    else await (await app.jobs.queueOf(job).getBackend().client).set(app.jobs.queueOf(job).toKey(`${id}:lock`), 'other')
    expect(await reason.passed).toMatchObject({ reason: 'job-lock-lost' })
  })

  it('lets a job finish that is quick enough when its workers close', async () => {
    const app = await jobApp(database, { transport })
    const running = new Gate()
    const finish = new Gate()
    const job = defineJob<{ n: number }>()({
      name: 'quick',
      queue: queueName('quick'),
      async run({ signal }) {
        running.open()
        await finish.passed
        expect(signal.aborted).toBe(false)
      },
    })
    const workers = await app.work([job])
    const first = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await running.passed
    const closed = workers.close({ timeoutMs: 5_000 })
    const waits = await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 2 }))
    finish.open()
    await closed
    expect(await app.jobs.queueOf(job).getJobState(first)).toBe('completed')
    expect(await app.jobs.queueOf(job).getJobState(waits)).toBe('waiting')
  })

  it('gives what it had to force back to the queue within the deadline, uncounted, and another worker runs it', async () => {
    const prefix = `forced-${process.pid}`
    const options = transport === 'redis' ? { prefix } : { transport }
    const app = await jobApp(database, options)
    const other = await jobApp(database, options)
    const running = new Gate()
    const never = new Gate()
    const signalled = new Gate<unknown>()
    const finished = new Gate<number>()
    const settings = { name: 'forced', queue: queueName('forced') }
    const stuck = defineJob<{ n: number }>()({
      ...settings,
      async run({ signal }) {
        void aborted(signal).then(signalled.open)
        running.open()
        await never.passed
      },
    })
    const good = defineJob<{ n: number }>()({ ...settings, run: ({ attempt }) => finished.open(attempt) })
    const workers = await app.work([stuck])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(stuck, { n: 1 }))
    await running.passed
    const began = performance.now()
    await workers.close({ timeoutMs: 400 })
    expect(performance.now() - began).toBeLessThan(1_500)
    expect(await signalled.passed).toMatchObject({ reason: 'shutdown' })
    expect(app.snapshot().openScopes.job).toBe(0)
    await other.work([good])
    expect(await finished.passed).toBe(1)
    never.open()
  })

  it('closes its workers with the runtime, within its deadline', async () => {
    const app = await jobApp(database, { transport })
    const running = new Gate()
    const never = new Gate()
    const job = defineJob<{ n: number }>()({
      name: 'closing',
      queue: queueName('closing'),
      async run() {
        running.open()
        await never.passed
      },
    })
    await app.work([job])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    await running.passed
    const began = performance.now()
    await app.close({ timeoutMs: 600 })
    expect(performance.now() - began).toBeLessThan(2_000)
    expect(app.snapshot().openScopes.total).toBe(0)
    expect(app.logs.filter(({ message }) => message.includes('failed to close'))).toEqual([])
    never.open()
  })
})

it('refuses jobs it can not tell apart, and options that are wrong', async () => {
  const app = await jobApp(database)
  const job = defineJob<{ n: number }>()({ name: 'twin', run: () => {} })
  const twin = defineJob<{ n: number }>()({ name: 'twin', queue: 'elsewhere', run: () => {} })
  const one = defineJob<{ n: number }>()({ name: 'one', concurrency: 1, run: () => {} })
  const two = defineJob<{ n: number }>()({ name: 'two', concurrency: 2, run: () => {} })
  await expect(app.work([job, twin])).rejects.toThrow(/work.jobs.*two jobs have this one/)
  await expect(app.work([one, two])).rejects.toThrow(/defineJob.concurrency.*queue default/)
  await expect(app.work([])).rejects.toThrow(InvalidOptionError)
  await expect(app.work([job], { concurrency: 0 })).rejects.toThrow(/work.concurrency/)
  expect(() => defineJob<{ n: number }>()({ name: 'x', queue: 'a:b', run: () => {} })).toThrow(/defineJob.queue/)
  expect(() => defineJob<{ n: number }>()({ name: 'x', attemps: 3, run: () => {} } as never)).toThrow(/attemps/)
  expect(() => defineJob({ name: 'x', data: {} as never, run: () => {} })).toThrow(/Standard Schema/)
})
