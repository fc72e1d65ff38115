import { sql } from 'drizzle-orm'
import type { Sql } from 'postgres'
import { beforeEach, describe, expect, it } from 'vitest'
import { ConnectionLostError, DeadlineExceededError, PoolExhaustedError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

/** What a session shows of what an earlier one may have left: all of it is the default. */
const CLEAN = {
  searchPath: '"$user", public',
  isolation: 'read committed',
  role: 'none',
  temporary: 0,
  listening: 0,
  locks: 0,
  cursors: 0,
  custom: '',
}

async function traces(scope: { db: { $client: Sql } }): Promise<unknown> {
  const [row] = await scope.db.$client`
    select current_setting('search_path') as "searchPath", current_setting('default_transaction_isolation') as isolation,
      current_setting('role') as role, coalesce(current_setting('my.tenant', true), '') as custom,
      (select count(*)::int from pg_class where relpersistence = 't' and pg_table_is_visible(oid)) as temporary,
      (select count(*)::int from pg_listening_channels()) as listening,
      (select count(*)::int from pg_cursors where is_holdable) as cursors,
      (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks`
  return row
}

const STATEFUL = [
  'set search_path to pg_catalog',
  'SET SESSION search_path TO pg_catalog',
  'set session characteristics as transaction isolation level serializable',
  'set role pg_monitor',
  "select set_config('my.tenant', '7', false)",
  "select 1; set my.tenant = '7'",
  'listen orders',
  'create temp table scratch (id integer)',
  'create temporary table scratch as select 1 as id',
  'select 1 as id into temp scratch',
  'declare kept cursor with hold for select 1',
  'select pg_advisory_lock(7)',
  'select pg_try_advisory_lock(7)',
  'select pg_advisory_lock_shared(7)',
  "/* why */ set my.tenant = '7'",
]

describe('session state', () => {
  it.each(STATEFUL)(
    'keeps the connection with its scope until the end, then it is reset for the next one: %j',
    async (text) => {
      const app = appOn(database, { max: 1, acquireTimeoutMs: 60 })
      const backend = await app.run({ name: 'first' }, async (scope) => {
        expect(await traces(scope)).toEqual(CLEAN)
        await scope.db.execute(sql.raw(text))
        expect(app.snapshot().leases).toMatchObject([{ state: 'session', scope: { name: 'first' } }])
        // An idle connection without session state would have been handed on.
        const other = app.run({ name: 'other' }, (second) => second.db.execute(sql`select 1`))
        expect(await failureOf(other)).toBeInstanceOf(PoolExhaustedError)
        expect(await traces(scope)).not.toEqual(CLEAN)
        return backendOf(scope)
      })
      await app.run({ name: 'next' }, async (scope) => {
        expect(await backendOf(scope)).toBe(backend)
        expect(await traces(scope)).toEqual(CLEAN)
      })
    },
  )

  it.each([
    ['a tagged statement', (client: Sql) => client`set my.tenant = '7'`],
    ['a tagged statement with a hole', (client: Sql) => client`select set_config(${'my.tenant'}, ${'7'}, false)`],
    ['a fragment', (client: Sql) => client`${client`set my.tenant = '7'`}`],
    ['unsafe', (client: Sql) => client.unsafe("set my.tenant = '7'")],
    ['several statements in one text', (client: Sql) => client.unsafe("select 1; set my.tenant = '7'; select 2")],
    ['a cursor', (client: Sql) => client`select set_config('my.tenant', '7', false)`.cursor(1, () => {})],
  ])('is seen in %s', async (_kind, run) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'first' }, async (scope) => {
      await run(scope.db.$client)
    })
    await app.run({ name: 'next' }, async (scope) => expect(await traces(scope)).toEqual(CLEAN))
  })

  it.each([
    "set local my.tenant = '7'",
    "select set_config('my.tenant', '7', true)",
    'select pg_advisory_xact_lock(7)',
    'set transaction isolation level serializable',
    'declare short cursor for select 1',
  ])('is not what ends with the transaction: %j keeps nothing', async (text) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'first' }, async (scope) => {
      await scope.transaction(() => scope.db.execute(sql.raw(text)))
      expect(app.snapshot().leases).toMatchObject([{ state: 'idle' }])
      await app.run({ name: 'other' }, async (second) => expect(await traces(second)).toEqual(CLEAN))
    })
  })

  it.each(['prepare mine as select 1', 'discard all', 'deallocate all', "load 'auto_explain'"])(
    'that nobody can take back costs the connection: %j',
    async (text) => {
      const app = appOn(database, { max: 1 })
      const backend = await app.run({ name: 'first' }, async (scope) => {
        await scope.db.execute(sql.raw(text))
        return backendOf(scope)
      })
      expect(await app.run({ name: 'next' }, backendOf)).not.toBe(backend)
    },
  )

  it('is there for every later statement of the scope, in transactions and after them', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`select set_config('my.tenant', '7', false)`)
      const tenant = () => scope.db.execute(sql`select current_setting('my.tenant', true) as tenant`)
      expect(await tenant()).toMatchObject([{ tenant: '7' }])
      expect(await scope.transaction(tenant)).toMatchObject([{ tenant: '7' }])
      expect(await tenant()).toMatchObject([{ tenant: '7' }])
    })
  })

  it('set inside a transaction stays with the scope after the commit', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`select 1`)
      await scope.transaction(() => scope.db.execute(sql`set my.tenant = '7'`))
      expect(await traces(scope)).toMatchObject({ custom: '7' })
    })
  })

  it('does not keep a scope from running statements in parallel', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      const all = await Promise.all(Array.from({ length: 5 }, () => traces(scope)))
      expect(all).toEqual(all.map(() => ({ ...CLEAN, custom: '7' })))
    })
  })
})

describe('a connection with session state', () => {
  it('serves one transaction at a time: a parallel one waits for it, and has the same state', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      const backend = await backendOf(scope)
      const inside = new Gate()
      const leave = new Gate()
      const steps: string[] = []
      const first = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'first' })
        inside.open()
        await leave.passed
        steps.push('first')
      })
      await inside.passed
      const second = scope.transaction(async () => {
        const [row] = await scope.db.$client`select pg_backend_pid() as pid, current_setting('my.tenant') as tenant`
        steps.push('second')
        return row
      })
      const statement = backendOf(scope).then((pid) => {
        steps.push('statement')
        return pid
      })
      await watch`select 1`
      expect(steps).toEqual([])
      leave.open()
      await first
      expect(await second).toEqual({ pid: backend, tenant: '7' })
      expect(await statement).toBe(backend)
      expect(steps[0]).toBe('first')
    })
  })

  it('never lets two transactions that waited for it begin at once', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      let open = 0
      const seen: number[] = []
      const branch = (index: number) =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: `owner ${index}` })
          seen.push(++open)
          await watch`select 1`
          open--
          if (index % 2 === 0) throw new Error('rolled back')
        })
      await Promise.allSettled(Array.from({ length: 6 }, (_, index) => branch(index)))
      expect(seen).toEqual([1, 1, 1, 1, 1, 1])
    })
    expect((await ownersIn(database)).sort()).toEqual(['owner 1', 'owner 3', 'owner 5'])
  })

  it('makes a nested requiresNew transaction fail within the acquire timeout instead of for ever', async () => {
    const app = appOn(database, { acquireTimeoutMs: 80 })
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      const work = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        await scope.transaction({ propagation: 'requiresNew' }, () =>
          scope.db.insert(accounts).values({ owner: 'inner' }),
        )
      })
      const failure = await failureOf(work)
      expect(failure).toBeInstanceOf(PoolExhaustedError)
      expect((failure as Error).message).toContain("holds this scope's session state")
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('lets whoever waits for it go at the deadline of the scope', async () => {
    const app = appOn(database, { acquireTimeoutMs: 10_000 })
    const failure = await failureOf(
      app.run({ name: 'tenant', timeoutMs: 120 }, async (scope) => {
        await scope.db.execute(sql`set my.tenant = '7'`)
        await scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'outer' })
          await scope.transaction({ propagation: 'notSupported' }, () => scope.db.select().from(accounts))
        })
      }),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await ownersIn(database)).toEqual([])
  })

  it('that is lost is not replaced: the state the scope counts on is gone, and it is told so', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      await watch`select pg_terminate_backend(${await backendOf(scope)}, 5000)`
      expect(await failureOf(backendOf(scope))).toBeInstanceOf(ConnectionLostError)
      expect(await failureOf(backendOf(scope))).toBeInstanceOf(ConnectionLostError)
    })
    await app.run({ name: 'next' }, async (scope) => expect(await traces(scope)).toEqual(CLEAN))
  })

  it('is given back once, also when the scope ends while it is being reset', async () => {
    const app = appOn(database, { max: 2 })
    await app.run({ name: 'tenant' }, async (scope) => {
      const [held, leave] = [new Gate(), new Gate()]
      const first = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'first' })
        held.open()
        await leave.passed
      })
      await held.passed
      await scope.db.execute(sql`select 1`)
      // Its lease is not the scope's own one when it commits, so it goes back while the scope goes on to its end.
      await scope.transaction(async () => {
        await scope.db.execute(sql`set my.tenant = '7'`)
        leave.open()
        await first
      })
    })
    expect(app.snapshot().leases).toEqual([])
    const [inFirst, leaveFirst] = [new Gate<number>(), new Gate()]
    const holder = app.run({ name: 'holder' }, (scope) =>
      scope.transaction(async () => {
        expect(await traces(scope)).toEqual(CLEAN)
        inFirst.open(await backendOf(scope))
        await leaveFirst.passed
      }),
    )
    const backend = await inFirst.passed
    await app.run({ name: 'other' }, async (scope) => {
      expect(await traces(scope)).toEqual(CLEAN)
      expect(await backendOf(scope)).not.toBe(backend)
    })
    leaveFirst.open()
    await holder
    expect(await backendsOf(database)).toHaveLength(2)
  })
})
