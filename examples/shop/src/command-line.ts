import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

export type Command =
  | { readonly tag: 'help' }
  | {
      readonly tag: 'open'
      readonly port: number | undefined
      readonly dataFolder: string
      readonly withoutRedis: boolean
    }
  | {
      readonly tag: 'smoke'
      readonly seconds: number
      readonly seed: number
      readonly json: boolean
      readonly withoutRedis: boolean
    }

const DATA_FOLDER = fileURLToPath(new URL('../.data', import.meta.url))

export const USAGE = `Usage: npm start -- [options]

  --port PORT      where the shop listens (default 3000, or any free port where that is taken)
  --data FOLDER    where Postgres and Redis keep their data (default examples/shop/.data)
  --no-redis       keep the jobs in Postgres, and start no Redis
  --install        install Redis without asking where it is missing

  --smoke SECONDS  do not open the shop, but test it under load and faults, on fresh servers
  --json           with --smoke: end with the result as one line of JSON
  --seed NUMBER    with --smoke: repeat the random choices of an earlier test
`

/** @throws Error saying which option is wrong. */
export function readCommandLine(args: readonly string[]): Command {
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean', short: 'h' },
      port: { type: 'string' },
      data: { type: 'string' },
      install: { type: 'boolean' },
      'no-redis': { type: 'boolean', default: false },
      smoke: { type: 'string' },
      json: { type: 'boolean', default: false },
      seed: { type: 'string' },
    },
  })
  if (values.help) return { tag: 'help' }
  if (values.install) process.env.REQSCOPE_INSTALL = '1'
  const withoutRedis = values['no-redis']
  if (values.smoke !== undefined) {
    const seed = wholeNumber('seed', values.seed, 0, 2 ** 31 - 1) ?? Date.now() % 2 ** 31
    return {
      tag: 'smoke',
      seconds: wholeNumber('smoke', values.smoke, 1, 86_400),
      seed,
      json: values.json,
      withoutRedis,
    }
  }
  const dataFolder = values.data === undefined ? DATA_FOLDER : resolve(values.data)
  return { tag: 'open', port: wholeNumber('port', values.port, 0, 65_535), dataFolder, withoutRedis }
}

function wholeNumber(option: string, text: string, least: number, most: number): number
function wholeNumber(option: string, text: string | undefined, least: number, most: number): number | undefined
function wholeNumber(option: string, text: string | undefined, least: number, most: number): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= least && value <= most) return value
  throw new Error(`--${option} must be a whole number from ${least} to ${most}, but is '${text}'.`)
}
