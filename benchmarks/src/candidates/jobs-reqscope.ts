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
for (const [path, scopes] of [['/outbox', onRedis] as const, ['/in-transaction', onPostgres] as const]) {
  app.get(path, () =>
    scopes.run({ name: path }, (scope) =>
      scope.transaction(async () => {
        await scope.enqueue(note, { orderId: 'order', items: [1, 2] })
        return {}
      }),
    ),
  )
}
await serve(app)
