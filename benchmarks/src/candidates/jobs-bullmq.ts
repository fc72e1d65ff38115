import { Queue, Worker } from 'bullmq'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { serve } from './answer.ts'
import { Countdown, JOBS, redisUrl } from './jobs-load.ts'

// As Reqscope has it: what is kept of a job, and of how many, is part of the work.
const defaultJobOptions = {
  removeOnComplete: { age: 3_600, count: 1_000 },
  removeOnFail: { age: 7 * 24 * 3_600 },
}
const connection = new Redis(redisUrl, { maxRetriesPerRequest: null })
const added = new Queue('bare-added', { connection, defaultJobOptions })
const run = new Queue('bare-run', { connection, defaultJobOptions })
const countdown = new Countdown()
new Worker('bare-run', async () => countdown.one(), { connection, concurrency: JOBS })

const app = Fastify()
app.get('/enqueue', async () => {
  await Promise.all(Array.from({ length: JOBS }, (_, n) => added.add('note', { orderId: `order ${n}`, items: [1, 2] })))
  return {}
})
app.get('/run', async () => {
  const done = countdown.from(JOBS)
  await run.addBulk(Array.from({ length: JOBS }, (_, n) => ({ name: 'empty', data: { n } })))
  await done
  return {}
})
await serve(app)
