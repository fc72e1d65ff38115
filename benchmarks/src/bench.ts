import { writeFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import postgres from 'postgres'
import { PRODUCTS } from './candidates/products.ts'
import { compile } from './compile.ts'
import { crowd, type LockResult, lockRows, measureCrowd, measureLocks } from './locks.ts'
import { type Effort, measureMemory, measureRow, type RowResult } from './measure.ts'
import { type Results, resultsPage } from './results-page.ts'
import { memory, rows } from './rows.ts'
import { versions } from './versions.ts'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    write: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

if (flags.help) {
  console.log(`npm run bench -- [--quick] [--check] [--write] [--json FILE] [--rounds N] [words of a row's name …]

Measures Reqscope against what a user would pick instead, candidates in turn, and prints medians and ratios.
  --quick   3 short rounds instead of 7
  --check   exits with 1 when a row misses its budget
  --write   writes benchmarks/RESULTS.md; of a whole run only
  --json    writes the figures to FILE`)
  process.exit(0)
}

const effort: Effort = {
  rounds: flags.rounds === undefined ? (flags.quick ? 3 : 7) : Number(flags.rounds),
  seconds: flags.quick ? 2 : 4,
  warmUpSeconds: flags.quick ? 2 : 4,
}
if (flags.write && positionals.length > 0) {
  console.error('--write is of a whole run: leave the names of rows out.')
  process.exit(1)
}
const wanted = (name: string) => positionals.length === 0 || positionals.some((word) => name.includes(word))

console.error('compiling packages and candidates …')
await compile()
const server = await startPostgres()
const database = await createDatabase(server)
const redis = await startRedis({ own: true })
const results: RowResult[] = []
const lockResults: LockResult[] = []
let bytesPerScope: number | undefined
let bytesPerWaiter: number | undefined
try {
  await seed(database.url)
  for (const row of rows.filter(({ name }) => wanted(name))) {
    console.error(`measuring: ${row.name} …`)
    const result = await measureRow(row, { DATABASE_URL: database.url, REDIS_URL: redis.url }, effort)
    results.push(result)
    print(result)
  }
  if (wanted(memory.name)) {
    bytesPerScope = await measureMemory(database.url, effort.rounds)
    console.log(`\n${memory.name}: ${Math.round(bytesPerScope)} bytes (at most ${memory.atMost}, aim ${memory.aim})`)
  }
  if ([...lockRows, crowd].some(({ name }) => wanted(name))) await measureAllLocks()
} finally {
  await database.drop()
  await Promise.all([server.stop(), redis.stop()])
}

const machine = {
  node: process.version,
  cpu: cpus()[0]?.model,
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
}
console.log(
  `\n${effort.rounds} rounds of ${effort.seconds} s each; Node ${machine.node}, ${machine.cores} cores (${machine.cpu})`,
)
const sizes = [
  ...(bytesPerScope === undefined ? [] : [{ ...memory, bytes: bytesPerScope }]),
  ...(bytesPerWaiter === undefined ? [] : [{ ...crowd, bytes: bytesPerWaiter }]),
]
const measured: Results = { machine, versions: versions(), effort, rows: results, locks: lockResults, sizes }
if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify(measured, null, 2)}\n`)
if (flags.write) await writeFile(new URL('../RESULTS.md', import.meta.url), resultsPage(measured))
const missed = [
  ...results.filter(({ holds }) => !holds).map(({ name }) => name),
  ...lockResults.filter(({ figures }) => figures.some(({ holds }) => !holds)).map(({ name }) => name),
  ...sizes.filter(({ bytes, atMost }) => bytes > atMost).map(({ name }) => name),
]
if (missed.length > 0) console.log(`under budget: ${missed.join('; ')}`)
if (flags.check && missed.length > 0) process.exitCode = 1

async function measureAllLocks(): Promise<void> {
  const redis = await startRedis({ own: true })
  try {
    for (const row of lockRows.filter(({ name }) => wanted(name))) {
      console.error(`measuring: ${row.name} …`)
      const result = await measureLocks(row, redis.url, effort)
      lockResults.push(result)
      console.log(`\n${result.name}`)
      for (const { unit, ours, peers, ratio, holds } of result.figures) {
        const shown = Object.entries({ reqscope: ours, ...peers }).map(([name, value]) => `${name} ${round(value)}`)
        console.log(
          `  ${unit}: ${shown.join(', ')}; ratio ${ratio.toFixed(2)} × the best peer: ${holds ? 'holds' : 'MISSED'}`,
        )
      }
    }
    if (wanted(crowd.name)) {
      bytesPerWaiter = await measureCrowd(redis.url)
      console.log(`\n${crowd.name}: ${Math.round(bytesPerWaiter)} (at most ${crowd.atMost})`)
    }
  } finally {
    await redis.stop()
  }
}

function round(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(2)
}

async function seed(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  await sql`create table products (id int primary key, name text not null, price int not null)`
  await sql`insert into products select n, 'product ' || n, n * 10 from generate_series(1, ${PRODUCTS}) n`
  await sql`analyze products`
  await sql.end()
}

function print({ name, ours, baseline, ratio, ratioSpread, atLeast, aim, holds }: RowResult): void {
  const side = (each: RowResult['ours']) =>
    `  ${each.name.padEnd(34)} ${Math.round(each.requestsPerSecond).toLocaleString('en').padStart(9)} req/s   p50 ${each.p50Ms} ms   p99 ${each.p99Ms} ms   ${each.cpuMicrosPerRequest.toFixed(1)} µs CPU/request${each.failed > 0 ? `   ${each.failed} FAILED` : ''}`
  console.log(`\n${name}\n${side(ours)}\n${side(baseline)}`)
  console.log(
    `  ratio ${ratio.toFixed(2)} × (${ratioSpread.map((each) => each.toFixed(2)).join('–')}); at least ${atLeast} ×, aim ${aim} ×: ${holds ? (ratio >= aim ? 'aim reached' : 'holds') : 'MISSED'}`,
  )
}
