import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { sql } from 'drizzle-orm'
import { expect, it, vi } from 'vitest'
import { ConnectionLostError, isReqscopeError } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { crashes } from '../crashes.ts'
import { type App, accounts, accountsDatabase, appOn, backendsOf, ownersIn } from './fixture.ts'

// Scopes that do everything at once on a pool that is too small, while backends are killed at random: whatever a
// transaction has told its caller is what the table says in the end.

const database = await accountsDatabase()
const { watch } = database

type Scope = Parameters<Parameters<App['run']>[1]>[0]
const mistake = new Error('on purpose')

/** A small generator of random numbers, so that a failure can be seen again. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

class Ledger {
  #next = 0
  /** What has to be there, and what must not. */
  readonly kept = new Set<string>()
  readonly undone = new Set<string>()

  async insert(scope: Scope, into: string[]): Promise<void> {
    const owner = `owner ${this.#next++}`
    into.push(owner)
    await scope.db.insert(accounts).values({ owner })
  }

  async copy(scope: Scope, into: string[]): Promise<void> {
    const owner = `owner ${this.#next++}`
    into.push(owner)
    await pipeline(Readable.from([`${owner}\n`]), await scope.db.$client`copy accounts (owner) from stdin`.writable())
  }

  /** Runs a unit that is done as a whole or not at all. */
  async unit(run: (inserted: string[]) => Promise<unknown>): Promise<void> {
    const inserted: string[] = []
    try {
      await run(inserted)
      for (const owner of inserted) this.kept.add(owner)
    } catch (error) {
      // Lost during COMMIT, or alone without a transaction: nobody can say.
      const unknown = error instanceof ConnectionLostError && error.outcome === 'unknown'
      if (!unknown) for (const owner of inserted) this.undone.add(owner)
      if (error !== mistake && !isReqscopeError(error) && !isReqscopeError((error as Error).cause)) throw error
    }
  }
}

async function step(
  scope: Scope,
  ledger: Ledger,
  random: (below: number) => number,
  inserted: string[],
  depth: number,
) {
  switch (random(depth > 2 ? 4 : 9)) {
    case 0:
    case 1:
      return ledger.insert(scope, inserted)
    case 2:
      return void (await scope.db.select().from(accounts).limit(3))
    case 3:
      return void (await new Promise(setImmediate))
    case 4:
      // A savepoint that may be undone: what was inserted in it counts only when it was kept.
      return ledgerOf(scope.db.transaction.bind(scope.db), scope, ledger, random, inserted, depth)
    case 5:
      return scope.transaction(() => steps(scope, ledger, random, inserted, depth + 1))
    case 6:
      return ledger.unit((own) =>
        scope.transaction({ propagation: 'requiresNew' }, () => steps(scope, ledger, random, own, depth + 1)),
      )
    case 7: {
      for await (const _rows of scope.db.$client`select generate_series(1, 50)`.cursor(10)) if (random(3) === 0) break
      return
    }
    case 8:
      return ledger.copy(scope, inserted)
  }
}

async function ledgerOf(
  transaction: (fn: () => Promise<void>) => Promise<void>,
  scope: Scope,
  ledger: Ledger,
  random: (below: number) => number,
  outer: string[],
  depth: number,
): Promise<void> {
  const own: string[] = []
  try {
    await transaction(() => steps(scope, ledger, random, own, depth + 1))
    outer.push(...own)
  } catch (error) {
    for (const owner of own) ledger.undone.add(owner)
    if (error !== mistake) throw error
  }
}

async function steps(scope: Scope, ledger: Ledger, random: (below: number) => number, into: string[], depth = 0) {
  for (let count = random(4); count >= 0; count--) await step(scope, ledger, random, into, depth)
  if (random(6) === 0) throw mistake
}

async function work(scope: Scope, ledger: Ledger, random: (below: number) => number): Promise<void> {
  const transaction = () => ledger.unit((own) => scope.transaction(() => steps(scope, ledger, random, own)))
  const several = () =>
    Promise.all([
      transaction(),
      transaction(),
      scope.db
        .select()
        .from(accounts)
        .limit(1)
        .catch(() => {}),
    ])
  const state = () => scope.db.execute(sql`select set_config('my.tenant', '7', false)`)
  const todo = [transaction, several, () => pin(scope.db, several), () => state().then(several), transaction]
  await (todo[random(todo.length)] ?? transaction)()
}

it.each([1, 2])('every transaction that resolved is there, and no other one (seed %i)', async (seed) => {
  await watch`truncate accounts`
  const found = crashes()
  const app = appOn(database, { max: 4, acquireTimeoutMs: 400 })
  await app.start()
  const random = randomFrom(seed)
  const ledger = new Ledger()
  let left = 150
  const killOne = async (own: (below: number) => number) => {
    const backends = await backendsOf(database)
    await watch`select pg_terminate_backend(${backends[own(backends.length)]?.pid ?? 0})`
  }
  const worker = async (own: (below: number) => number) => {
    while (left-- > 0) {
      await app
        .run({ name: 'works', ...(own(10) === 0 && { timeoutMs: 1 + own(40) }) }, (scope) => work(scope, ledger, own))
        .catch((error: unknown) => {
          if (!isReqscopeError(error) && !isReqscopeError((error as Error).cause)) throw error
        })
      if (own(6) === 0) await killOne(own)
    }
  }
  const workers = Array.from({ length: 8 }, () => worker(randomFrom(random(1_000_000))))
  await Promise.all(workers)
  expect(app.snapshot().leases).toEqual([])
  await vi.waitFor(async () => expect((await backendsOf(database)).filter(({ state }) => state !== 'idle')).toEqual([]))
  const there = new Set(await ownersIn(database))
  expect([...ledger.kept].filter((owner) => !there.has(owner))).toEqual([])
  expect([...ledger.undone].filter((owner) => there.has(owner))).toEqual([])
  expect(ledger.kept.size).toBeGreaterThan(30)
  expect(ledger.undone.size).toBeGreaterThan(30)
  // Nobody was left with the state of another one.
  const next = await app.run(
    { name: 'next' },
    (scope) => scope.db.$client`select coalesce(current_setting('my.tenant', true), '') as tenant`,
  )
  expect(next[0]?.tenant).toBe('')
  expect(found).toEqual([])
})
