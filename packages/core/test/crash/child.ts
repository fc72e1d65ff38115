// A process of the crash test: places orders and runs their jobs until it is killed.
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { createScopes } from '../../src/index.ts'
import { type BullmqOptions, bullmq, defineJob } from '../../src/jobs/index.ts'
import { type BoundDatabase, postgres } from '../../src/postgres/index.ts'
import { effects, executed, placed, schema } from './schema.ts'

const { CRASH_POSTGRES_URL, CRASH_REDIS_URL, CRASH_TRANSPORT } = process.env
const placing = process.argv[2] === 'place'
process.on('disconnect', () => process.exit())

type Db = { readonly db: BoundDatabase<typeof schema> }

const job = defineJob<{ orderId: string }>()({
  name: 'settle',
  queue: 'settle',
  attempts: 1_000,
  backoff: 50,
  async run({ data, scope, id }) {
    const { db } = scope as unknown as Db
    await delay(Math.random() * 10)
    // The effect and the note that it was executed are one.
    await scope.transaction(async () => {
      await db.insert(effects).values({ jobId: id, orderId: data.orderId, times: 'once' }).onConflictDoNothing()
      await db.insert(executed).values({ jobId: id })
    })
  },
})

const options = {
  // Nothing is removed, so that the jobs can be counted in the end.
  defaultJobOptions: { removeOnComplete: false, removeOnFail: false },
  lockDurationMs: 2_000,
  stalledIntervalMs: 500,
  maxStalledCount: 1_000,
}
const onRedis = { url: CRASH_REDIS_URL, commandTimeoutMs: 2_000, outbox: { sweepIntervalMs: 100, sweepAfterMs: 100 } }

const scopes = createScopes({
  resources: { db: postgres({ url: CRASH_POSTGRES_URL as string, schema, max: 5, acquireTimeoutMs: 2_000 }) },
  jobs: bullmq(
    (CRASH_TRANSPORT === 'postgres'
      ? { transport: 'postgres', ...options }
      : { ...onRedis, ...options }) as BullmqOptions,
  ),
  logger: quiet(),
})

/** Until it succeeds: a server may just be down. */
async function insist(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work()
      return
    } catch {
      await delay(50)
    }
  }
}

async function place(): Promise<void> {
  while (placing) {
    await scopes
      .run({ name: 'place', timeoutMs: 5_000 }, (scope) =>
        scope.transaction(async () => {
          const orderId = randomUUID()
          const jobId = await scope.enqueue(job, { orderId })
          await scope.db.insert(placed).values({ id: orderId, jobId })
          if (Math.random() < 0.2) throw new Error('rolls back')
        }),
      )
      .catch(() => {})
    await delay(Math.random() * 4)
  }
}

await insist(() => scopes.start())
for (let each = 0; each < 4; each++) void place()
await insist(() => scopes.work([job], { concurrency: 10 }))
process.send?.('works')

function quiet() {
  const nothing = () => {}
  const logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => logger }
  return logger
}
