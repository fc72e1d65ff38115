import { startRedis } from '@reqscope/services'
import { flood, limitedApp } from './flood.ts'

const perSecond = Number(process.argv[2] ?? 5_000)
const seconds = Number(process.argv[3] ?? 10)
const server = await startRedis()
try {
  const { alone, flooded, sentPerSecond } = await flood(await limitedApp(server.url), perSecond, seconds)
  const row = ({ p99Ms, outcomes }: typeof alone) => ({
    'p99 of the quiet, ms': p99Ms.toFixed(2),
    'their answers': outcomes,
  })
  console.table({ alone: row(alone), [`beside ${Math.round(sentPerSecond)} req/s of one address`]: row(flooded) })
} finally {
  await server.stop()
}
