import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Snapshot } from '@reqscope/core'
import type { Closers } from '../closers.ts'
import { Random } from '../random.ts'
import { MAX_CONNECTIONS } from '../scopes.ts'
import type { Servers } from '../servers.ts'
import { Child } from './child.ts'
import { Faults } from './faults.ts'
import { Outside } from './outside.ts'
import { Peaks } from './peaks.ts'
import { Repetition } from './repetition.ts'
import type { Observation } from './result.ts'
import type { Plan, Traffic } from './traffic.ts'
import { judge } from './verdict.ts'

const CONNECTIONS = 50
const ABORTED_SHARE = 0.2
const FAULT_EVERY_MS = 2_000
const SAMPLE_EVERY_MS = 100
const WARM_UP_MS = 5_000
const QUIET_WITHIN_MS = 10_000
const RECEIPTS_WITHIN_MS = 45_000

export interface ObserveOptions {
  readonly servers: Servers
  readonly seconds: number
  readonly seed: number
  readonly closers: Closers
  readonly log: (line: string) => void
}

/** Runs the shop and its load, each in a process of its own, and watches both from this one. */
export async function observe({ servers, seconds, seed, closers, log }: ObserveOptions): Promise<Observation> {
  log('Shop: migrating and filling')
  const mailFolder = await mkdtemp(join(tmpdir(), 'shop-mail-'))
  closers.add(() => rm(mailFolder, { recursive: true, force: true }))
  const app = new Child('the shop', new URL('./app-main.ts', import.meta.url), {
    DATABASE_URL: servers.databaseUrl,
    MAIL_FOLDER: mailFolder,
    ...(servers.redisUrl !== undefined && { SHOP_REDIS_URL: servers.redisUrl }),
  })
  closers.add(() => app.stop())
  const url = await app.message<string>()
  const driver = new Child('the load driver', new URL('./driver-main.ts', import.meta.url))
  closers.add(() => driver.stop())
  const outside = new Outside(servers, mailFolder)
  closers.add(() => outside.close())

  log(`Smoke: ${seconds} s of traffic over ${CONNECTIONS} connections, seed ${seed}`)
  const lastSeeded = await outside.lastOrder()
  const redisClientsBefore = await outside.redisClients()
  const plan = await planOf(outside, { url, seconds, seed, hasRedis: servers.redisUrl !== undefined })
  const faults = new Faults(outside, new Random(seed))
  const peaks = new Peaks(outside, faults, app.pid, Math.min(WARM_UP_MS, seconds * 500))
  const watching = new Repetition(SAMPLE_EVERY_MS, () => peaks.sample())
  const breaking = new Repetition(FAULT_EVERY_MS, () => faults.inject())
  driver.send(plan)
  // Should the app crash, the driver finds nobody there and ends all the same, so that there is a result.
  const traffic = await driver.message<Traffic>()
  await Promise.all([watching.stop(), breaking.stop()])

  log('Smoke: waiting for quiet, then measuring')
  const receipts = await receiptsAtRest(outside, lastSeeded)
  const { leasesOut, openScopes } = await atRest(url)
  const seenAtRest = {
    backendsAtRest: await outside.backends(),
    ...(await redisClientsAtRest(outside, redisClientsBefore)),
    ordersWithoutLines: await outside.ordersWithoutLines(),
    stockMismatch: await outside.stockMismatch(),
    ...receipts,
    jobConnectionsKilled: faults.jobConnections,
    missingOrders: await outside.missingOrders(traffic.acknowledgedOrders),
  }
  const closingAt = performance.now()
  const appEnding = await app.stop()
  return {
    traffic,
    faults: faults.all,
    ...judge(traffic.troubles, faults.all, CONNECTIONS),
    leasesOut,
    openScopes,
    ...seenAtRest,
    peakBackends: peaks.backends,
    maxBackends: MAX_CONNECTIONS,
    rssMiB: peaks.rssMiB,
    rssGrowthMiB: peaks.rssGrowthMiB,
    appEnding,
    closedInMs: performance.now() - closingAt,
    backendsAfterClose: (await outside.backends()).length,
    lastWords: app.lastLines,
  }
}

/** Those of requests that were aborted last may take a moment to go, and others to come in their stead. */
async function redisClientsAtRest(outside: Outside, before: number) {
  const deadline = performance.now() + QUIET_WITHIN_MS
  for (;;) {
    const redisClients = await outside.redisClients()
    const redisClientsGrowth = redisClients - before
    if (redisClientsGrowth === 0 || performance.now() > deadline) return { redisClients, redisClientsGrowth }
    await sleep(50)
  }
}

async function planOf(outside: Outside, facts: Pick<Plan, 'url' | 'seconds' | 'seed' | 'hasRedis'>): Promise<Plan> {
  return {
    ...facts,
    connections: CONNECTIONS,
    abortedShare: ABORTED_SHARE,
    products: await outside.rows('products'),
    customers: await outside.rows('customers'),
    reportLines: await outside.rows('order_lines'),
  }
}

/** What is still held once nobody asks for anything any more: requests that were aborted last may take a moment to end. */
async function atRest(url: string): Promise<{ leasesOut: number; openScopes: number }> {
  const deadline = performance.now() + QUIET_WITHIN_MS
  for (;;) {
    const snapshot = await snapshotOf(url)
    if (snapshot === undefined) return { leasesOut: Number.NaN, openScopes: Number.NaN }
    const { leases, openScopes } = snapshot
    const quiet = leases.length === 0 && openScopes.total === 0
    if (quiet || performance.now() > deadline) return { leasesOut: leases.length, openScopes: openScopes.total }
    await sleep(50)
  }
}

/** Nothing when the app does not answer any more. */
async function snapshotOf(url: string): Promise<Snapshot | undefined> {
  try {
    const response = await fetch(`${url}/debug/connections`, { signal: AbortSignal.timeout(5_000) })
    return (await response.json()) as Snapshot
  } catch {
    return undefined
  }
}

/** Jobs go on after the traffic; what a killed connection had is taken over some seconds later. */
async function receiptsAtRest(outside: Outside, since: number) {
  const until = Date.now() + RECEIPTS_WITHIN_MS
  for (;;) {
    const seen = await outside.receipts(since)
    if (seen.ordersWithoutReceipt === 0 || Date.now() > until) return seen
    await sleep(100)
  }
}
