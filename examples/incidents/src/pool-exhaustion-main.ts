import { createDatabase, startPostgres } from '@reqscope/services'
import { replay, withoutReqscope, withReqscope } from './pool-exhaustion.ts'

const seconds = Number(process.argv[2] ?? 30)
const server = await startPostgres()
const database = await createDatabase(server)
const round = Math.round
try {
  for (const [name, app] of [
    ['without Reqscope', withoutReqscope(database.url)],
    ['with Reqscope', await withReqscope(database.url)],
  ] as const) {
    const told = await replay(name, app, seconds)
    console.table({
      [name]: {
        'unloaded p99, ms': round(told.unloadedP99Ms),
        'capacity, req/s': round(told.capacity),
        'offered, req/s': round(told.offered),
        'goodput, req/s': round(told.goodput),
        'goodput / capacity': `${round((100 * told.goodput) / told.capacity)} %`,
        'p99 of what passed, ms': round(told.p99Ms),
        'p99 / unloaded': (told.p99Ms / told.unloadedP99Ms).toFixed(1),
      },
    })
    console.log(`${name}: ${told.outcomes}\n`)
  }
} finally {
  await database.drop()
  await server.stop()
}
