import { getTableConfig } from 'drizzle-orm/pg-core'
import { expect, it } from 'vitest'
import { outboxMigration } from '../../src/jobs/index.ts'
import { reqscopeOutbox } from '../../src/jobs/schema.ts'
import { ordersDatabase } from './fixture.ts'

const database = await ordersDatabase()

it('the exported drizzle table is the one that the migration creates', async () => {
  await database.watch.unsafe(outboxMigration())
  await database.watch.unsafe(outboxMigration()) // again does no harm
  const { name, columns } = getTableConfig(reqscopeOutbox)
  const created = await database.watch`
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as "notNull",
      a.attidentity = 'a' as identity, pg_get_expr(d.adbin, d.adrelid) as default,
      exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indkey::text = a.attnum::text) as primary,
      exists (select from pg_index i where i.indrelid = c.oid and i.indisunique and not i.indisprimary
        and i.indkey::text = a.attnum::text) as unique
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.oid = ${name}::regclass order by a.attnum`
  const declared = columns.map((column) => ({
    name: column.name,
    type: column.getSQLType(),
    notNull: column.notNull,
    identity: column.generatedIdentity?.type === 'always',
    default: column.default === undefined ? null : 'clock_timestamp()',
    primary: column.primary,
    unique: column.isUnique,
  }))
  expect([...created]).toEqual(declared)
})
