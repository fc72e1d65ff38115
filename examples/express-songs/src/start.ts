import { parseArgs } from 'node:util'
import { Closers } from './closers.ts'
import { preferredPort } from './port.ts'
import { startServers } from './servers.ts'
import { onShutdown } from './shutdown.ts'
import { openSongBook } from './song-book.ts'

const USAGE = `Usage: npm start [-- options]

  --port PORT      where the song book listens (default 3001, or any free port where that is taken)
  --without-redis  counts the limits in the process, and keeps the jobs in Postgres
  --smoke SECONDS  do not open it, but test it under load and faults, on fresh servers
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
      'without-redis': { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
  } else if (values.smoke !== undefined) {
    const { smoke } = await import('./smoke/smoke.ts')
    const seconds = wholeNumber('smoke', values.smoke, 1, 86_400)
    const isWell = await smoke({ seconds, json: values.json, withoutRedis: values['without-redis'], log })
    process.exitCode = isWell ? 0 : 1
  } else {
    const port = values.port === undefined ? await preferredPort(3_001) : wholeNumber('port', values.port, 0, 65_535)
    await open(port, values['without-redis'])
  }
}

/** On DATABASE_URL and REDIS_URL, or on servers of its own that are gone afterwards. */
async function open(port: number, withoutRedis: boolean): Promise<void> {
  const closers = new Closers()
  onShutdown(() => closers.close())
  try {
    const addresses = await startServers(closers, { withoutRedis, log })
    const book = await openSongBook({ ...addresses, port, log })
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
    curl ${url}/plans/1/sheet
    curl ${url}/health/ready
    curl ${url}/debug/connections

Ctrl-C closes it.
`
}

function wholeNumber(option: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= least && value <= most) return value
  throw new Error(`--${option} must be a whole number from ${least} to ${most}, but is '${text}'.`)
}
