// Run by watchdog.test.ts as a process that starts servers and then ends in some way.
import { startPostgres, startRedis } from '../src/index.ts'

const [postgres, redis] = await Promise.all([startPostgres({ own: true }), startRedis({ own: true })])
console.log(
  JSON.stringify({ pids: [postgres.pid, redis.pid], urls: [postgres.url, redis.url], folder: postgres.dataFolder }),
)

process.once('message', (ending) => {
  if (ending === 'returns') process.disconnect()
  if (ending === 'throws') throw new Error('as the test wants')
  if (ending === 'exits') process.exit(0)
})
