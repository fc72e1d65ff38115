import { AsyncLocalStorage } from 'node:async_hooks'
import type { Telemetry } from 'bullmq'
import { expect, it } from 'vitest'
import { defineJob } from '../../src/jobs/index.ts'
import { Gate, jobApp, ordersDatabase } from './fixture.ts'

const database = await ordersDatabase()

/** BullMQ's interface over a context that is one string, as `bullmq-otel` has it over OpenTelemetry's. */
function telemetryOver(baggage: AsyncLocalStorage<string>): Telemetry {
  const span = {
    setSpanOnContext: (context: string) => context,
    setAttribute() {},
    setAttributes() {},
    addEvent() {},
    recordException() {},
    end() {},
  }
  return {
    tracer: { startSpan: () => span },
    contextManager: {
      active: () => baggage.getStore() ?? 'none',
      with: ((context: string, fn: () => unknown) => baggage.run(context, fn)) as never,
      getMetadata: (context: string) => context,
      fromMetadata: (_active: string, metadata: string) => metadata,
    },
  }
}

it.each([
  ['redis', 'inside'],
  ['redis', 'outside'],
  ['postgres', 'inside'],
  ['postgres', 'outside'],
] as const)('travels with a job on %s, %s of a transaction', async (transport, where) => {
  const baggage = new AsyncLocalStorage<string>()
  const app = await jobApp(database, { transport, telemetry: telemetryOver(baggage) })
  const seen = new Gate<string | undefined>()
  const job = defineJob<{ n: number }>()({
    name: 'traced',
    queue: `traced-${where}`,
    run: () => seen.open(baggage.getStore()),
  })
  await app.work([job])
  await baggage.run('trace-1;user=ada', () =>
    app.run({ name: 'test' }, (scope) => {
      const enqueue = () => scope.enqueue(job, { n: 1 })
      return where === 'inside' ? scope.transaction(enqueue) : enqueue()
    }),
  )
  expect(await seen.passed).toBe('trace-1;user=ada')
})
