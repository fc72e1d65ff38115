import { createScopes } from '@reqscope/core'
import { bullmq, defineJob } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import Fastify from 'fastify'
import { databaseUrl, serve } from './answer.ts'
import { Countdown, JOBS, redisUrl } from './jobs-load.ts'

const countdown = new Countdown()
const note = defineJob<{ orderId: string; items: number[] }>()({ name: 'note', queue: 'added', run: () => {} })
const empty = defineJob<{ n: number }>()({ name: 'empty', queue: 'run', run: () => countdown.one() })

const onRedis = createScopes({
  resources: { db: postgres({ url: databaseUrl, max: 10 }) },
  jobs: bullmq({ url: redisUrl }),
})
const onPostgres = createScopes({
  resources: { db: postgres({ url: databaseUrl, max: 10 }) },
  jobs: bullmq({ transport: 'postgres' }),
})
await onPostgres.start()
await onRedis.work([empty], { concurrency: JOBS })

const app = Fastify()
app.get('/enqueue', () =>
  onRedis.run({ name: 'enqueue' }, async (scope) => {
    const all = Array.from({ length: JOBS }, (_, n) => scope.enqueue(note, { orderId: `order ${n}`, items: [1, 2] }))
    await Promise.all(all)
    return {}
  }),
)
app.get('/run', () =>
  onRedis.run({ name: 'run' }, async (scope) => {
    const done = countdown.from(JOBS)
    await scope.enqueueAll(
      empty,
      Array.from({ length: JOBS }, (_, n) => ({ n })),
    )
    await done
    return {}
  }),
)
const order = { orderId: 'order', items: [1, 2] }
app.get('/in-transaction', () =>
  onPostgres.run({ name: 'in-transaction' }, async (scope) => {
    await scope.transaction(() => scope.enqueue(note, order))
    return {}
  }),
)

// Answers when the job is in its queue, which on Postgres it is with the commit: until then the work is not done.
const queue = onRedis.jobs.queueOf(note)
const addBulk = queue.addBulk.bind(queue)
const expected = new Map<string | undefined, () => void>()
queue.addBulk = async (jobs) => {
  const added = await addBulk(jobs)
  for (const { id } of added) {
    expected.get(id)?.()
    expected.delete(id)
  }
  return added
}
app.get('/outbox', () =>
  onRedis.run({ name: 'outbox' }, async (scope) => {
    let relayed: Promise<void> | undefined
    await scope.transaction(async () => {
      const id = await scope.enqueue(note, order)
      relayed = new Promise((resolve) => expected.set(id, resolve))
    })
    await relayed
    return {}
  }),
)
await serve(app)
