import { mkdir, writeFile } from 'node:fs/promises'
import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import { chartOf } from './chart.ts'
import { incidents } from './incidents.ts'
import { compare } from './replay.ts'
import { SERVER_SETTINGS } from './server-settings.ts'
import { comparison } from './table.ts'

const images = new URL('../../../docs/images/', import.meta.url)
const all = incidents({ seconds: 30, messages: 2_000 })
const asked = process.argv.slice(2).map(Number)
const known = all.map(({ number }) => number)
if (asked.some((number) => !known.includes(number))) {
  console.error(`npm run incidents -- [number …]: there are ${known.join(', ')}.`)
  process.exit(1)
}

const log = (line: string) => void process.stderr.write(`${line}\n`)
const postgres = await startPostgres({ own: true, settings: SERVER_SETTINGS, log })
const redis = await startRedis({ own: true, log })
let holds = true
try {
  for (const incident of all.filter(({ number }) => asked.length === 0 || asked.includes(number))) {
    const database = await createDatabase(postgres)
    const { before, after, claims } = await compare(incident, { databaseUrl: database.url, redisUrl: redis.url })
    await database.drop()
    console.log(`\n${incident.number} · ${incident.title}\n\n${comparison(before, after)}\n`)
    for (const each of claims) console.log(`  ${each.holds ? 'shown' : 'NOT SHOWN'}: ${each.claim}`)
    holds &&= claims.every((each) => each.holds)
    await mkdir(images, { recursive: true })
    const { x, y } = incident.axes
    const chart = chartOf({ title: incident.title, x, y, before: before.curve, after: after.curve })
    await writeFile(new URL(`incident-${incident.number}.svg`, images), chart)
  }
} finally {
  await Promise.all([postgres.stop(), redis.stop()])
}
process.exitCode = holds ? 0 : 1
