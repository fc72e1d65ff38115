import { parseArgs } from 'node:util'
import { createDatabase, startPostgres } from '@reqscope/services'
import { Closers } from './closers.ts'
import { preferredPort } from './port.ts'
import { onShutdown } from './shutdown.ts'
import { openSongBook } from './song-book.ts'

const USAGE = `Usage: npm start [-- options]

  --port PORT      where the song book listens (default 3001, or any free port where that is taken)
  --smoke SECONDS  do not open it, but test it under load and faults, on a fresh server
  --json           with --smoke: end with the result as one line of JSON
`
const log = (line: string): void => void process.stderr.write(`${line}\n`)

try {
  await run()
} catch (error) {
  log(error instanceof Error && !process.env.DEBUG ? error.message : String((error as Error).stack ?? error))
  process.exit(1)
}

async function run(): Promise<void> {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      port: { type: 'string' },
      smoke: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
  } else if (values.smoke !== undefined) {
    const { smoke } = await import('./smoke/smoke.ts')
    const isWell = await smoke({ seconds: wholeNumber('smoke', values.smoke, 1, 86_400), json: values.json, log })
    process.exitCode = isWell ? 0 : 1
  } else {
    await open(values.port === undefined ? await preferredPort(3_001) : wholeNumber('port', values.port, 0, 65_535))
  }
}

/** On DATABASE_URL, or on a Postgres of its own that is gone afterwards. */
async function open(port: number): Promise<void> {
  const closers = new Closers()
  onShutdown(() => closers.close())
  try {
    const server = await startPostgres({ log })
    closers.add(() => server.stop())
    const databaseUrl = server.external ? server.url : (await createDatabase(server)).url
    const book = await openSongBook({ databaseUrl, port, log })
    closers.add(() => book.close())
    process.stdout.write(welcome(book.url))
  } catch (error) {
    await closers.close()
    throw error
  }
}

function welcome(url: string): string {
  return `
The song book is open: ${url}/songs

    curl '${url}/songs?search=harbour'
    curl ${url}/songs/1
    curl ${url}/plans/1/songs
    curl ${url}/plans -H 'content-type: application/json' -d '{"name":"Friday","songs":[1,2,3]}'
    curl ${url}/debug/connections

Ctrl-C closes it.
`
}

function wholeNumber(option: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= least && value <= most) return value
  throw new Error(`--${option} must be a whole number from ${least} to ${most}, but is '${text}'.`)
}
