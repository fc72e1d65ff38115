// The song book that `npm start` serves, as a process of its own: it is watched from outside, and may crash alone.
import { onShutdown } from '../shutdown.ts'
import { openSongBook } from '../song-book.ts'

const book = await openSongBook({ databaseUrl: process.env.DATABASE_URL ?? '', log: () => {} })
const close = onShutdown(() => book.close())
process.once('disconnect', close)
process.send?.(book.url)
