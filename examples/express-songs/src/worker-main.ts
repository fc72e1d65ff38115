// Runs the song book's jobs in a process of its own, beside any number of others: DATABASE_URL=… REDIS_URL=… npm run worker

import { createSongScopes } from './scopes.ts'
import { onShutdown } from './shutdown.ts'
import { writeSheet } from './write-sheet.ts'

const { DATABASE_URL, REDIS_URL } = process.env
if (DATABASE_URL === undefined) throw new Error('DATABASE_URL must name the song book’s database.')
const scopes = createSongScopes({ databaseUrl: DATABASE_URL, redisUrl: REDIS_URL, applicationName: 'songs worker' })
onShutdown(() => scopes.close())
await scopes.work([writeSheet])
process.send?.('working') // to the smoke test
process.once('disconnect', () => void scopes.close())
