import { Child } from './child.ts'
import type { LoadResult } from './load.ts'
import type { Candidate, Row } from './rows.ts'
import { median, spread } from './statistics.ts'

export interface Effort {
  readonly rounds: number
  readonly seconds: number
  readonly warmUpSeconds: number
}

export interface RowResult {
  readonly name: string
  readonly ours: Side
  readonly baseline: Side
  /** The median of the rounds' ratios, each of two measurements that followed each other. */
  readonly ratio: number
  readonly ratioSpread: readonly [number, number]
  readonly atLeast: number
  readonly aim: number
  readonly holds: boolean
}

/** Where the servers are, as the candidates read it from their environment. */
export interface Servers {
  readonly DATABASE_URL: string
  readonly REDIS_URL: string
}

interface Side {
  readonly name: string
  readonly requestsPerSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** Of the candidate's own process. */
  readonly cpuMicrosPerRequest: number
  readonly failed: number
}

interface Measurement extends LoadResult {
  readonly cpuMicrosPerRequest: number
}

/** Runs both candidates in turn, A B B A …, each in a process of its own, loaded from a third one. */
export async function measureRow(row: Row, env: Servers, effort: Effort): Promise<RowResult> {
  const load = new Child('load.js')
  const sides = { ours: new Contender(row.ours, row, env), baseline: new Contender(row.baseline, row, env) }
  try {
    for (const contender of Object.values(sides)) await contender.measure(load, effort.warmUpSeconds)
    const ours: Measurement[] = []
    const baseline: Measurement[] = []
    for (let round = 0; round < effort.rounds; round++) {
      const measureOurs = async () => ours.push(await sides.ours.measure(load, effort.seconds))
      const measureTheirs = async () => baseline.push(await sides.baseline.measure(load, effort.seconds))
      // Who goes first changes, so that neither always has the warmer machine.
      for (const measure of round % 2 === 0 ? [measureOurs, measureTheirs] : [measureTheirs, measureOurs])
        await measure()
    }
    const ratios = ours.map(
      (each, round) => each.requestsPerSecond / (baseline[round]?.requestsPerSecond ?? Number.NaN),
    )
    const ratio = median(ratios)
    return {
      name: row.name,
      ours: summary(row.ours, ours),
      baseline: summary(row.baseline, baseline),
      ratio,
      ratioSpread: spread(ratios),
      atLeast: row.atLeast,
      aim: row.aim,
      // A refusal is quick: a row with failures measures something else.
      holds: ratio >= row.atLeast && [...ours, ...baseline].every(({ failed }) => failed === 0),
    }
  } finally {
    await Promise.all([load.stop(), sides.ours.stop(), sides.baseline.stop()])
  }
}

/** Bytes of heap that an open idle scope takes; the median of a few fresh processes. */
export async function measureMemory(databaseUrl: string, rounds: number): Promise<number> {
  const figures: number[] = []
  for (let round = 0; round < rounds; round++) {
    const child = new Child('candidates/idle-scopes.js', {
      env: { DATABASE_URL: databaseUrl },
      execArgv: ['--expose-gc'],
    })
    figures.push((await child.answer<{ bytesPerScope: number }>()).bytesPerScope)
    await child.stop()
  }
  return median(figures)
}

class Contender {
  readonly #candidate: Candidate
  readonly #row: Row
  readonly #child: Child
  #url: Promise<string>

  constructor(candidate: Candidate, row: Row, env: Servers) {
    this.#candidate = candidate
    this.#row = row
    this.#child = new Child(candidate.program, { env: { ...env } })
    this.#url = this.#child.answer<{ url: string }>().then(({ url }) => url)
  }

  async measure(load: Child, seconds: number): Promise<Measurement> {
    const base = await this.#url
    const { connections, inside, status = 200 } = this.#row
    const { path } = this.#candidate
    const before = await this.#cpu()
    const result = inside
      ? await this.#child.ask<LoadResult>({ run: path, atOnce: connections, seconds })
      : await load.ask<LoadResult>({ url: base + path, connections, seconds, status })
    const spent = (await this.#cpu()) - before
    return { ...result, cpuMicrosPerRequest: spent / result.total }
  }

  async #cpu(): Promise<number> {
    const { cpu } = await this.#child.ask<{ cpu: NodeJS.CpuUsage }>('cpu')
    return cpu.user + cpu.system
  }

  stop(): Promise<void> {
    return this.#child.stop()
  }
}

function summary(candidate: Candidate, all: readonly Measurement[]): Side {
  return {
    name: candidate.name,
    requestsPerSecond: median(all.map((each) => each.requestsPerSecond)),
    p50Ms: median(all.map((each) => each.p50Ms)),
    p99Ms: median(all.map((each) => each.p99Ms)),
    cpuMicrosPerRequest: median(all.map((each) => each.cpuMicrosPerRequest)),
    failed: all.reduce((sum, each) => sum + each.failed, 0),
  }
}
