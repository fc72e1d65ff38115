// The song book that `npm start` serves, as a process of its own: it is watched from outside, and may crash alone. Its jobs are run
// by a worker.
import { onShutdown } from '../shutdown.ts'
import { openSongBook } from '../song-book.ts'

const { DATABASE_URL = '', REDIS_URL } = process.env
const book = await openSongBook({ databaseUrl: DATABASE_URL, redisUrl: REDIS_URL, worker: false, log: () => {} })
const close = onShutdown(() => book.close())
process.once('disconnect', close)
process.send?.(book.url)
