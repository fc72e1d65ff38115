import type { LoadResult } from '../load.ts'

/** Something a candidate does by itself. */
export interface Operation {
  /** How many it counts for. */
  readonly count: number
  /** @param worker the number of the one of those at once that does it. */
  run(worker: number): Promise<unknown>
}

interface WorkRequest {
  readonly run: string
  readonly atOnce: number
  readonly seconds: number
}

/** Does what the parent asks for, as often as it can in that time; answers its questions until it goes away. */
export async function work(operations: Readonly<Record<string, Operation>>): Promise<void> {
  process.on('message', (question) => {
    if (question === 'cpu') process.send?.({ cpu: process.cpuUsage() })
    else void measured(operations, question as WorkRequest).then((result) => process.send?.(result))
  })
  process.on('disconnect', () => process.exit())
  process.send?.({ url: '' })
}

async function measured(operations: Readonly<Record<string, Operation>>, request: WorkRequest): Promise<LoadResult> {
  const operation = operations[request.run]
  if (operation === undefined) throw new Error(`there is no ${request.run}`)
  const tookMs: number[] = []
  let failed = 0
  const begun = performance.now()
  const until = begun + request.seconds * 1_000
  await Promise.all(
    Array.from({ length: request.atOnce }, async (_, worker) => {
      for (let now = performance.now(); now < until; ) {
        await operation.run(worker).catch(() => failed++)
        const then = now
        now = performance.now()
        tookMs.push(now - then)
      }
    }),
  )
  const seconds = (performance.now() - begun) / 1_000
  tookMs.sort((a, b) => a - b)
  const at = (share: number) => Math.round((tookMs[Math.floor(tookMs.length * share)] ?? 0) * 10) / 10
  const total = tookMs.length * operation.count
  return { requestsPerSecond: total / seconds, p50Ms: at(0.5), p99Ms: at(0.99), total, failed }
}
