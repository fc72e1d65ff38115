import { describe, expect, it } from 'vitest'
import { defineJob } from '../../src/jobs/index.ts'
import { eventually, jobApp, ordersDatabase } from './fixture.ts'

const database = await ordersDatabase()

describe.each(['redis', 'postgres'] as const)('on %s', (transport) => {
  it('begins so many jobs of a queue in a window, by all workers together, and leaves the others in it', async () => {
    const app = await jobApp(database, { transport })
    const ran: number[] = []
    const job = defineJob<{ n: number }>()({
      name: 'mail',
      queue: 'limited',
      rateLimit: { limit: 2, windowMs: 60_000 },
      run: ({ data }) => void ran.push(data.n),
    })
    await app.run({ name: 'test' }, (scope) =>
      scope.enqueueAll(
        job,
        [1, 2, 3, 4, 5].map((n) => ({ n })),
      ),
    )
    await app.work([job], { concurrency: 1 })
    await app.work([job], { concurrency: 1 })
    const queue = app.jobs.queueOf(job)
    await eventually(async () => ran.length === 2 && (await queue.getRateLimitTtl(2)) > 1_000)
    expect(await queue.getJobCounts('completed', 'waiting', 'failed')).toMatchObject({
      completed: 2,
      waiting: 3,
      failed: 0,
    })
  })

  it('runs them all in the windows that follow', async () => {
    const app = await jobApp(database, { transport })
    const ran: number[] = []
    const job = defineJob<{ n: number }>()({
      name: 'mail',
      queue: 'windows',
      rateLimit: { limit: 1, windowMs: 150 },
      run: ({ data }) => void ran.push(data.n),
    })
    await app.run({ name: 'test' }, (scope) => scope.enqueueAll(job, [{ n: 1 }, { n: 2 }, { n: 3 }]))
    await app.work([job])
    await eventually(() => ran.length === 3)
    expect(ran.toSorted()).toEqual([1, 2, 3])
  })
})

describe('is refused', () => {
  const run = () => {}

  it.each<[string, object]>([
    ['defineJob.rateLimit.limit', { windowMs: 1_000 }],
    ['defineJob.rateLimit.windowMs', { limit: 1 }],
    ['defineJob.rateLimit.limit', { limit: '5', windowMs: 1_000 }],
    ['defineJob.rateLimit.window', { limit: 5, window: 1_000 }],
  ])('for %s', (option, rateLimit) => {
    expect(() => defineJob()({ name: 'mail', run, rateLimit: rateLimit as never })).toThrow(option)
  })

  it('where jobs of one queue do not agree, since it would hold for all of them', async () => {
    const app = await jobApp(database)
    const limited = defineJob()({ name: 'one', queue: 'shared', rateLimit: { limit: 1, windowMs: 1_000 }, run })
    const other = defineJob()({ name: 'two', queue: 'shared', run })
    await expect(app.work([limited, other])).rejects.toThrow(/defineJob\.rateLimit.*queue shared/)
    await expect(app.work([other, limited])).rejects.toThrow(/defineJob\.rateLimit.*queue shared/)
  })
})
