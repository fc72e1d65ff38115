import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onShutdown } from '@reqscope/express-adapter'
import { buildApp } from './app.ts'
import { migrateSongs } from './migrate.ts'
import { createSongScopes, type SongAddresses } from './scopes.ts'
import { seedSongs } from './seed.ts'
import { writeSheet } from './write-sheet.ts'

export interface SongBookOptions extends SongAddresses {
  /** Default: any free one. */
  readonly port?: number
  /** Whether this process runs the jobs, too, or leaves them to `npm run worker`. Default true. */
  readonly worker?: boolean
  /** Told in a line what happens. */
  readonly log: (line: string) => void
}

export interface SongBook {
  readonly url: string
  /** Takes no more requests, lets those that have begun finish, and closes the connections. */
  close(): Promise<void>
}

/** Opens the song book: the database is migrated and filled, and the server listens. */
export async function openSongBook({ port = 0, worker = true, log, ...addresses }: SongBookOptions): Promise<SongBook> {
  const scopes = createSongScopes(addresses)
  try {
    log('Song book: migrating')
    await migrateSongs(scopes) // opens the runtime, so a wrong address fails here and not in a request
    if (await seedSongs(scopes)) log('Song book: filled with 500 songs')
    if (worker) await scopes.work([writeSheet])
    const server = createServer(buildApp({ scopes }))
    const close = onShutdown(server)
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close }
  } catch (error) {
    await scopes.close()
    throw error
  }
}
