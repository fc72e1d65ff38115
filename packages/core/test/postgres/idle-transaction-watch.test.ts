import { sql } from 'drizzle-orm'
import { expect, it } from 'vitest'
import { accountsDatabase, appOn, backendOf, Gate } from './fixture.ts'

const database = await accountsDatabase()

it('says which scope sits idle in a transaction, since when and where it took it, once', async () => {
  const app = appOn(database, { max: 1, idleTransactionCheckMs: 100 })
  const gate = new Gate()
  let backend = 0
  const holding = app.run({ name: 'checkout', id: 't-1' }, (scope) =>
    scope.transaction(async () => {
      await scope.db.execute(sql`select 1 as held`)
      backend = await backendOf(scope)
      await gate.passed
    }),
  )
  const reports = () => app.logs.filter(({ message }) => message.includes('has been idle in a transaction'))
  // Though the pool has no other connection.
  await expect.poll(reports).toHaveLength(1)
  expect(reports()[0]).toMatchObject({
    level: 'warn',
    message: expect.stringMatching(/^task checkout \(t-1\) has been idle in a transaction of db for \d+ ms$/),
    facts: {
      resource: 'db',
      backend,
      scope: { name: 'checkout' },
      statement: 'select pg_backend_pid() as pid',
      site: expect.stringContaining('idle-transaction-watch.test.ts'),
    },
  })
  expect(await app.health()).toMatchObject({
    status: 'degraded',
    crossed: expect.arrayContaining([{ name: 'db.idleInTransaction', value: 1, threshold: 0 }]),
  })
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(reports()).toHaveLength(1)
  gate.open()
  await holding
  await expect.poll(async () => (await app.health()).resources.db?.idleInTransaction).toBe(0)
})

it('asks nothing where it is switched off, and leaves no connection when it is closed', async () => {
  const off = appOn(database, { idleTransactionCheckMs: 0, applicationName: 'watched' })
  await off.run({ name: 't' }, backendOf)
  const on = appOn(database, { idleTransactionCheckMs: 5, applicationName: 'watched' })
  await on.run({ name: 't' }, (scope) =>
    scope.transaction(async () => {
      await backendOf(scope)
      await new Promise((resolve) => setTimeout(resolve, 60))
    }),
  )
  await Promise.all([off.close(), on.close()])
  await expect
    .poll(async () => {
      const [row] =
        await database.watch`select count(*)::int as n from pg_stat_activity where application_name = 'watched'`
      return row?.n
    })
    .toBe(0)
})
