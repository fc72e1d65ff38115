import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { InvalidOptionError } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import { eventually, Gate, jobApp, ordersDatabase } from './fixture.ts'

const database = await ordersDatabase()

describe.each(['redis', 'postgres'] as const)('on %s', (transport) => {
  it('a job scheduler’s jobs run in scopes as well, with data as the schema gives it', async () => {
    const app = await jobApp(database, { transport })
    const ran = new Gate<{ kind: string; at: Date }>()
    const nightly = defineJob({
      name: 'nightly',
      queue: 'schedule',
      data: z.object({ at: z.string().transform((text) => new Date(text)) }),
      run: ({ data, scope }) => ran.open({ kind: (scope as unknown as { kind: string }).kind, at: data.at }),
    })
    await app.work([nightly])
    const queue = app.jobs.queueOf(nightly)
    await queue.upsertJobScheduler('each-night', { every: 3_600_000 }, { name: 'nightly', data: { at: '2026-01-02' } })
    expect(await ran.passed).toEqual({ kind: 'job', at: new Date('2026-01-02') })
    expect(await queue.getJobSchedulersCount()).toBe(1)
    await queue.removeJobScheduler('each-night')
  })

  it('events of a job’s queue are told, over a connection that is closed with the runtime', async () => {
    const app = await jobApp(database, { transport })
    const job = defineJob<{ n: number }>()({ name: 'told', queue: 'told', run: () => 'well' })
    const events = app.jobs.queueEventsOf(job)
    await events.waitUntilReady()
    const completed = new Gate<unknown>()
    events.on('completed', ({ returnvalue }) => completed.open(returnvalue))
    await app.work([job])
    await app.run({ name: 'test' }, (scope) => scope.enqueue(job, { n: 1 }))
    expect(await completed.passed).toBe('well')
    await app.close()
    expect(events.closing).toBeDefined()
  })

  it('a flow outside of transactions runs its children first', async () => {
    const app = await jobApp(database, { transport })
    const order: string[] = []
    const job = defineJob<{ name: string }>()({
      name: 'node',
      queue: 'flow',
      run: ({ data }) => void order.push(data.name),
    })
    await app.work([job])
    const child = (name: string) => ({ name: 'node', queueName: 'flow', data: { name } })
    await app.jobs.addFlow({ ...child('parent'), children: [child('child'), child('child')] })
    await eventually(() => order.length === 3)
    expect(order).toEqual(['child', 'child', 'parent'])
  })

  it('as many jobs of a queue run at once as their definition says, whatever the worker was given', async () => {
    const app = await jobApp(database, { transport })
    const gate = new Gate<void>()
    let running = 0
    let most = 0
    const job = defineJob<{ n: number }>()({
      name: 'two',
      queue: 'two',
      concurrency: 2,
      run: async () => {
        most = Math.max(most, ++running)
        if (running === 2) gate.open()
        await gate.passed
        running--
      },
    })
    await app.run({ name: 'test' }, (scope) =>
      scope.enqueueAll(
        job,
        [1, 2, 3, 4, 5, 6].map((n) => ({ n })),
      ),
    )
    await app.work([job], { concurrency: 50 })
    await eventually(async () => (await app.jobs.queueOf(job).getCompletedCount()) === 6)
    expect(most).toBe(2)
  })

  it('jobs enqueued in bulk outside of a transaction are there at once, in their order', async () => {
    const app = await jobApp(database, { transport })
    const job = defineJob<{ n: number }>()({ name: 'bulk', queue: 'bulk', run: () => {} })
    const options = { priority: 2, delayMs: 60_000 }
    const ids = await app.run({ name: 'test' }, (scope) => scope.enqueueAll(job, [{ n: 1 }, { n: 2 }], options))
    const jobs = await Promise.all(ids.map((id) => app.jobs.queueOf(job).getJob(id)))
    expect(jobs.map((each) => each?.data)).toEqual([{ n: 1 }, { n: 2 }])
    expect(jobs[0]).toMatchObject({ priority: 2, delay: 60_000 })
  })
})

it('jobs of one queue that want to run so many at once, and others, are refused together', async () => {
  const app = await jobApp(database)
  const job = (name: string, concurrency: number) => defineJob()({ name, queue: 'q', concurrency, run: () => {} })
  await expect(app.work([job('a', 1), job('b', 2)])).rejects.toThrow(InvalidOptionError)
  await expect(app.work([job('a', 1), job('a', 1)])).rejects.toThrow(/two jobs have this one/)
})
