import type { Sql } from 'postgres'
import { expect, vi } from 'vitest'
import type { ResourceHealth } from '../../src/index.ts'
import { type App, backendOf, backendsOf, Gate } from './fixture.ts'

export interface Counts {
  readonly max: number
  readonly open: number
  readonly idle: number
  readonly leased: number
  readonly opening: number
  readonly waiting: number
}

/** What the pool says of itself. */
export async function poolOf(app: App): Promise<Counts> {
  const { db } = (await app.health()).resources as { db: ResourceHealth & { pool: Counts } }
  return db.pool
}

/** A scope that holds a connection in a transaction until it is let go. */
export async function holder(app: App, name = 'holder') {
  const holding = new Gate<number>()
  const gate = new Gate()
  const done = app.run({ name }, (scope) =>
    scope.transaction(async () => {
      holding.open(await backendOf(scope))
      await gate.passed
    }),
  )
  done.catch(holding.fail)
  const backend = await holding.passed
  return {
    backend,
    letGo() {
      gate.open()
      return done
    },
  }
}

/** Opens so many connections, so that nobody has to wait for one later. */
export async function warmUp(app: App, connections: number): Promise<void> {
  const holders = await Promise.all(Array.from({ length: connections }, () => holder(app, 'warms up')))
  await Promise.all(holders.map(({ letGo }) => letGo()))
}

/** Resolves when so many wait for a connection. */
export const waiting = (app: App, count: number) => expect.poll(async () => (await poolOf(app)).waiting).toBe(count)

/** Resolves when the database has no backend but the observer's: no connection outlives its runtime. */
export const noBackends = (database: { name: string; watch: Sql }) =>
  vi.waitFor(async () => expect(await backendsOf(database)).toEqual([]), 5_000)
