import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '@reqscope/services'
import { testDatabase } from '@reqscope/services/testing'
import {
  and,
  asc,
  avg,
  count,
  DrizzleQueryError,
  desc,
  eq,
  exists,
  gt,
  gte,
  ilike,
  inArray,
  isNull,
  ne,
  relations,
  sql,
  sum,
} from 'drizzle-orm'
import { is } from 'drizzle-orm/entity'
import {
  alias,
  bigint,
  boolean,
  customType,
  date,
  doublePrecision,
  except,
  integer,
  json,
  jsonb,
  numeric,
  PgDatabase,
  pgEnum,
  pgMaterializedView,
  pgTable,
  pgView,
  primaryKey,
  serial,
  text,
  time,
  timestamp,
  union,
  unique,
  uuid,
} from 'drizzle-orm/pg-core'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import { migrate } from 'drizzle-orm/postgres-js/migrator'
import type { Sql } from 'postgres'
import { afterAll, beforeAll, describe, expect, expectTypeOf, it, onTestFinished } from 'vitest'
import { createScopes, type Resource, ScopeEndedError, type Scopes } from '../../src/index.ts'
import { type BoundDatabase, postgres } from '../../src/postgres/index.ts'
import { failureOf } from './fixture.ts'

const size = pgEnum('size', ['small', 'big'])
const bytes = customType<{ data: Buffer }>({ dataType: () => 'bytea' })

const people = pgTable('people', {
  id: serial('id').primaryKey(),
  name: text('name').notNull(),
  email: text('email'),
  invitedBy: integer('invited_by'),
})
const songs = pgTable(
  'songs',
  {
    id: serial('id').primaryKey(),
    authorId: integer('author_id').references(() => people.id),
    title: text('title').notNull(),
    plays: integer('plays').notNull().default(0),
  },
  (table) => [unique().on(table.title)],
)
const tags = pgTable('tags', { songId: integer('song_id').references(() => songs.id), tag: text('tag') }, (table) => [
  primaryKey({ columns: [table.songId, table.tag] }),
])
const kinds = pgTable('kinds', {
  id: serial('id').primaryKey(),
  at: timestamp('at', { withTimezone: true }),
  atText: timestamp('at_text', { withTimezone: true, mode: 'string' }),
  local: timestamp('local', { precision: 3 }),
  day: date('day'),
  dayDate: date('day_date', { mode: 'date' }),
  hour: time('hour'),
  facts: jsonb('facts').$type<unknown>(),
  plainFacts: json('plain_facts').$type<unknown>(),
  words: text('words').array(),
  grid: integer('grid').array().array(),
  stamps: timestamp('stamps', { withTimezone: true }).array(),
  price: numeric('price', { precision: 12, scale: 4 }),
  ratio: doublePrecision('ratio'),
  big: bigint('big', { mode: 'bigint' }),
  bigNumber: bigint('big_number', { mode: 'number' }),
  yes: boolean('yes'),
  key: uuid('key'),
  size: size('size'),
  blob: bytes('blob'),
})
const popular = pgView('popular').as((query) => query.select().from(songs).where(gte(songs.plays, 10)))
const totals = pgMaterializedView('totals').as((query) =>
  query
    .select({ authorId: songs.authorId, plays: sum(songs.plays).as('plays') })
    .from(songs)
    .groupBy(songs.authorId),
)
const peopleRelations = relations(people, ({ many, one }) => ({
  songs: many(songs),
  inviter: one(people, { fields: [people.invitedBy], references: [people.id] }),
}))
const songRelations = relations(songs, ({ many, one }) => ({
  author: one(people, { fields: [songs.authorId], references: [people.id] }),
  tags: many(tags),
}))
const tagRelations = relations(tags, ({ one }) => ({
  song: one(songs, { fields: [tags.songId], references: [songs.id] }),
}))

const schema = { people, songs, tags, kinds, popular, totals, peopleRelations, songRelations, tagRelations, size }
type Plain = PostgresJsDatabase<typeof schema> & { $client: Sql }
type Query = (db: Plain) => PromiseLike<unknown>

const DDL = `
  create type size as enum ('small', 'big');
  create table people (id serial primary key, name text not null, email text, invited_by integer);
  create table songs (id serial primary key, author_id integer references people, title text not null unique, plays integer not null default 0);
  create table tags (song_id integer references songs, tag text, primary key (song_id, tag));
  create table kinds (id serial primary key, at timestamptz, at_text timestamptz, local timestamp(3), day date, day_date date, hour time,
    facts jsonb, plain_facts json, words text[], grid integer[][], stamps timestamptz[], price numeric(12, 4), ratio double precision, big bigint,
    big_number bigint, yes boolean, key uuid, size size, blob bytea);
  create view popular as select * from songs where plays >= 10;
  create materialized view totals as select author_id, sum(plays) as plays from songs group by author_id;
  insert into people (name, email, invited_by) values ('ann', 'ann@example.org', null), ('bob', null, 1), ('eve', 'eve@example.org', 1);
  insert into songs (author_id, title, plays) values (1, 'one', 10), (1, 'two', 20), (2, 'three', 5), (null, 'four', 0);
  insert into tags values (1, 'loud'), (1, 'short'), (3, 'slow');
  refresh materialized view totals;`

// Two equal databases: what plain drizzle does in the one, ours does in the other.
const template = await testDatabase()
const [plainDatabase, ourDatabase] = await (async () => {
  const sql = connect(template.url)
  await sql.unsafe(DDL)
  await sql.end()
  return [await testDatabase({ template: template.name }), await testDatabase({ template: template.name })] as const
})()
const plain: Plain = drizzle(plainDatabase.url, { schema })
let app: Scopes<{ db: Resource<BoundDatabase<typeof schema>> }>

beforeAll(() => {
  app = createScopes({ resources: { db: postgres({ url: ourDatabase.url, schema }) } })
})
afterAll(async () => {
  await plain.$client.end()
  await app.close()
})

async function outcomeOf(query: Query, db: Plain): Promise<unknown> {
  try {
    const result = await query(db)
    return Array.isArray(result)
      ? {
          list: [...result],
          count: (result as { count?: number }).count,
          command: (result as { command?: string }).command,
        }
      : result
  } catch (error) {
    const { name, message, cause } = error as Error & { cause?: { code?: string; message?: string; name?: string } }
    return { name, message, cause: cause && { name: cause.name, code: cause.code, message: cause.message } }
  }
}

/** Each is run by plain drizzle, by ours, and by ours inside of a transaction that is rolled back; all see the same. */
async function expectSame(query: Query): Promise<void> {
  const inTransaction = (db: Plain) => {
    let outcome: unknown
    return db
      .transaction(async (tx) => {
        outcome = await outcomeOf(query, tx as unknown as Plain)
        tx.rollback()
      })
      .catch(() => outcome)
  }
  const expected = { inside: await inTransaction(plain), outside: await outcomeOf(query, plain) }
  await app.run({ name: 'drizzle' }, async ({ db }) => {
    const ours = db as Plain
    expect({ inside: await inTransaction(ours), outside: await outcomeOf(query, ours) }).toEqual(expected)
  })
}

const READS: Record<string, Query> = {
  'select everything': (db) => db.select().from(songs).orderBy(songs.id),
  'select some columns': (db) =>
    db
      .select({ title: songs.title, twice: sql<number>`${songs.plays} * 2` })
      .from(songs)
      .orderBy(desc(songs.plays), asc(songs.id)),
  'select where': (db) =>
    db
      .select()
      .from(songs)
      .where(and(gt(songs.plays, 4), ilike(songs.title, '%O%')))
      .orderBy(songs.id),
  'select in a list': (db) =>
    db
      .select()
      .from(songs)
      .where(inArray(songs.id, [1, 3, 99]))
      .orderBy(songs.id),
  'select with a limit and an offset': (db) => db.select().from(songs).orderBy(songs.id).limit(2).offset(1),
  'select distinct': (db) => db.selectDistinct({ authorId: songs.authorId }).from(songs).orderBy(songs.authorId),
  'select distinct on': (db) =>
    db
      .selectDistinctOn([songs.authorId], { authorId: songs.authorId, title: songs.title })
      .from(songs)
      .orderBy(songs.authorId, songs.id),
  'select for update': (db) => db.select().from(songs).where(eq(songs.id, 1)).for('update'),
  'an inner join': (db) => db.select().from(songs).innerJoin(people, eq(people.id, songs.authorId)).orderBy(songs.id),
  'a left join, with null where nothing matches': (db) =>
    db
      .select({ song: songs, author: people })
      .from(songs)
      .leftJoin(people, eq(people.id, songs.authorId))
      .orderBy(songs.id),
  'a full join': (db) =>
    db.select().from(songs).fullJoin(people, eq(people.id, songs.authorId)).orderBy(songs.id, people.id),
  'a join with an alias': (db) => {
    const inviter = alias(people, 'inviter')
    return db
      .select({ name: people.name, by: inviter.name })
      .from(people)
      .leftJoin(inviter, eq(inviter.id, people.invitedBy))
      .orderBy(people.id)
  },
  aggregates: (db) =>
    db
      .select({ authorId: songs.authorId, songs: count(), plays: sum(songs.plays), mean: avg(songs.plays) })
      .from(songs)
      .groupBy(songs.authorId)
      .having(gt(count(), 0))
      .orderBy(songs.authorId),
  'a subquery': (db) => {
    const loud = db.select({ songId: tags.songId }).from(tags).where(eq(tags.tag, 'loud')).as('loud')
    return db.select({ title: songs.title }).from(songs).innerJoin(loud, eq(loud.songId, songs.id))
  },
  exists: (db) =>
    db
      .select({ name: people.name })
      .from(people)
      .where(exists(db.select().from(songs).where(eq(songs.authorId, people.id))))
      .orderBy(people.id),
  'a common table expression': (db) => {
    const hits = db.$with('hits').as(db.select().from(songs).where(gte(songs.plays, 10)))
    return db.with(hits).select({ title: hits.title }).from(hits).orderBy(hits.id)
  },
  'a union': (db) =>
    union(db.select({ name: people.name }).from(people), db.select({ name: songs.title }).from(songs)).orderBy(
      sql`name`,
    ),
  'an except': (db) =>
    except(db.select({ name: people.name }).from(people), db.select({ name: songs.title }).from(songs)).orderBy(
      sql`name`,
    ),
  'a view': (db) => db.select().from(popular).orderBy(popular.id),
  'a materialized view': (db) => db.select().from(totals).orderBy(totals.authorId),
  $count: (db) => db.$count(songs),
  '$count with a filter': (db) => db.$count(songs, gt(songs.plays, 5)),
  '$count as a column': (db) =>
    db
      .select({ name: people.name, songs: db.$count(songs, eq(songs.authorId, people.id)) })
      .from(people)
      .orderBy(people.id),
  'execute with sql': (db) => db.execute(sql`select ${1}::int as n, ${'x'} as t, now() is not null as known`),
  'execute with a text': (db) => db.execute('select 1 as one'),
  'execute with a date': (db) =>
    db.execute(sql`select '2026-01-02 03:04:05+00'::timestamptz at time zone 'utc' as at, '2026-01-02'::date as day`),
  findMany: (db) => db.query.people.findMany({ orderBy: people.id }),
  'findMany with relations': (db) =>
    db.query.people.findMany({
      orderBy: people.id,
      with: { songs: { orderBy: songs.id, with: { tags: { orderBy: tags.tag } } }, inviter: true },
    }),
  'findMany with columns, extras and a limit': (db) =>
    db.query.songs.findMany({
      columns: { id: true, title: true },
      extras: { shout: sql<string>`upper(${songs.title})`.as('shout') },
      where: (song, { gt: over }) => over(song.plays, 0),
      orderBy: (song) => desc(song.plays),
      limit: 2,
      with: { author: { columns: { name: true } } },
    }),
  findFirst: (db) => db.query.songs.findFirst({ where: eq(songs.title, 'three'), with: { author: true, tags: true } }),
  'findFirst of nothing': (db) =>
    db.query.songs.findFirst({ where: eq(songs.title, 'nowhere') }) as PromiseLike<unknown>,
  toSQL: async (db) => db.select().from(songs).where(eq(songs.id, 1)).toSQL(),
  'the name of a table that does not exist': (db) => db.execute(sql`select * from nowhere where id = ${1}`),
  'an error of a query builder': (db) => db.select({ x: sql`1 / 0` }).from(songs),
  'an error of a relational query': (db) => db.query.songs.findMany({ extras: { x: sql`1 / 0`.as('x') } }),
  'a prepared statement': async (db) => {
    const prepared = db
      .select()
      .from(songs)
      .where(eq(songs.id, sql.placeholder('id')))
      .prepare('song_by_id')
    return [await prepared.execute({ id: 1 }), await prepared.execute({ id: 2 }), await prepared.execute({ id: 99 })]
  },
  'a prepared relational query': async (db) => {
    const prepared = db.query.songs
      .findMany({
        where: (song, { eq: is_ }) => is_(song.authorId, sql.placeholder('author')),
        limit: sql.placeholder('limit'),
        orderBy: songs.id,
        with: { author: true },
      })
      .prepare('songs_of')
    return [await prepared.execute({ author: 1, limit: 1 }), await prepared.execute({ author: 1, limit: 5 })]
  },
  'a placeholder that is not given': async (db) => {
    const prepared = db
      .select()
      .from(songs)
      .where(eq(songs.id, sql.placeholder('id')))
      .prepare('song_by_id_again')
    return prepared.execute({})
  },
}

const WRITES: Record<string, Query> = {
  insert: (db) => db.insert(people).values({ name: 'zoe' }),
  'insert returning': (db) => db.insert(people).values({ name: 'zed', email: 'zed@example.org' }).returning(),
  'insert several returning some': (db) =>
    db
      .insert(people)
      .values([{ name: 'yan' }, { name: 'yve' }])
      .returning({ name: people.name }),
  'insert from a select': (db) =>
    db.insert(people).select(
      db
        .select({
          id: sql<number>`id + 100`.as('id'),
          name: people.name,
          email: people.email,
          invitedBy: people.invitedBy,
        })
        .from(people)
        .where(eq(people.name, 'ann')),
    ),
  'insert on conflict do nothing': (db) => db.insert(songs).values({ title: 'one' }).onConflictDoNothing().returning(),
  'insert on conflict do update': (db) =>
    db
      .insert(songs)
      .values({ title: 'one', plays: 1 })
      .onConflictDoUpdate({ target: songs.title, set: { plays: sql`${songs.plays} + excluded.plays` } })
      .returning(),
  'insert that violates a constraint': (db) => db.insert(songs).values({ title: 'one' }),
  'insert of null where that is not allowed': (db) => db.insert(songs).values({ title: null as never }),
  'prepared insert': async (db) => {
    const prepared = db
      .insert(people)
      .values({ name: sql.placeholder('name') })
      .returning({ name: people.name })
      .prepare('add_person')
    return [await prepared.execute({ name: 'p1' }), await prepared.execute({ name: 'p2' })]
  },
  update: (db) =>
    db
      .update(songs)
      .set({ plays: sql`${songs.plays} + 1` })
      .where(eq(songs.id, 2)),
  'update returning': (db) =>
    db.update(songs).set({ plays: 99 }).where(eq(songs.id, 2)).returning({ id: songs.id, plays: songs.plays }),
  'update from another table': (db) =>
    db
      .update(songs)
      .set({ title: sql`${songs.title} || ' by ' || ${people.name}` })
      .from(people)
      .where(and(eq(people.id, songs.authorId), eq(songs.id, 3)))
      .returning(),
  'update of nothing': (db) => db.update(songs).set({ plays: 1 }).where(eq(songs.id, 999)).returning(),
  'update in a common table expression': (db) => {
    const changed = db
      .$with('changed')
      .as(db.update(songs).set({ plays: 7 }).where(eq(songs.id, 4)).returning({ id: songs.id, plays: songs.plays }))
    return db.with(changed).select().from(changed)
  },
  refreshMaterializedView: async (db) => {
    await db.refreshMaterializedView(totals)
    return db.select().from(totals).orderBy(totals.authorId)
  },
  'delete returning': (db) => db.delete(tags).where(eq(tags.tag, 'slow')).returning(),
  delete: (db) => db.delete(tags).where(ne(tags.tag, 'loud')),
}

describe('scope.db and plain drizzle give the same', () => {
  it.each(Object.entries(READS))('for %s', (_name, query) => expectSame(query))
})

describe('scope.db and plain drizzle do the same', () => {
  it.each(Object.entries(WRITES))('for %s', (_name, query) => expectSame(query))

  it('so that in the end both databases are equal', async () => {
    await expectSame((db) =>
      db.query.people.findMany({ orderBy: people.id, with: { songs: { orderBy: songs.id, with: { tags: true } } } }),
    )
    await expectSame((db) => db.select().from(songs).where(isNull(songs.authorId)).orderBy(songs.id))
  })
})

describe('values make the round trip as with plain drizzle', () => {
  const full = {
    at: new Date('2026-01-02T03:04:05.678Z'),
    atText: '2026-01-02 03:04:05.678901+00',
    local: new Date('2026-07-01T12:00:00.123Z'),
    day: '2026-02-28',
    dayDate: new Date('2026-02-28T00:00:00Z'),
    hour: '23:59:59',
    facts: { nested: [1, null, { deep: 'ü' }], text: 'it\'s "quoted"' } as unknown,
    plainFacts: [true, 1.5, 'x'] as unknown,
    words: ['plain', 'with, comma', 'with "quotes"', 'back\\slash', '', 'NULL', '{}'],
    grid: [
      [1, 2],
      [3, 4],
    ],
    stamps: [new Date('2026-01-02T03:04:05Z'), new Date('1999-12-31T23:59:59Z')],
    price: '12345678.9012',
    ratio: 0.1,
    big: 9_007_199_254_740_993n,
    bigNumber: 42,
    yes: false,
    key: '2b3c9e1a-6f2d-4b7a-9c3e-1f2a3b4c5d6e',
    size: 'big' as const,
    blob: Buffer.from([0, 1, 255]),
  }
  it.each<[string, Partial<typeof full> | { [Column in keyof typeof full]?: null } | Record<string, unknown>]>([
    ['every kind of column', full],
    ['nothing but null', { at: null }],
    ['JSON that is a string, a number, true, an empty object', { facts: 'text', plainFacts: 7 }],
    ['JSON that is an array of arrays', { facts: [[1], []], plainFacts: {} }],
    ['JSON null inside JSON', { facts: { a: null } }],
    ['empty arrays', { words: [], stamps: [] }],
    ['a date before the epoch', { at: new Date('1900-01-01T00:00:00Z'), day: '0044-03-15' }],
  ])('for %s', async (_what, values) => {
    const roundTrip: Query = async (db) => {
      await db.delete(kinds)
      await db.insert(kinds).values({ id: 1, ...(values as object) })
      const [read] = await db.select().from(kinds)
      const [found] = await db
        .select({ found: count() })
        .from(kinds)
        .where(values && 'at' in values && values.at ? eq(kinds.at, values.at as Date) : eq(kinds.id, 1))
      const relational = await db.query.kinds.findFirst()
      const raw = await db.execute(sql`select * from kinds`)
      return { read, found, relational, raw: [...raw] }
    }
    await expectSame(roundTrip)
    const [ours] = await app.run({ name: 'read' }, ({ db }) => db.select().from(kinds))
    expect(ours).toMatchObject(values as object)
  })
})

describe('errors', () => {
  it('of the server are DrizzleQueryErrors, with the query, its parameters and the cause', async () => {
    await app.run({ name: 'errors' }, async ({ db }) => {
      const failure = await failureOf(db.insert(songs).values({ title: 'one' }))
      expect(failure).toBeInstanceOf(DrizzleQueryError)
      expect(failure).toMatchObject({
        query: expect.stringContaining('insert into "songs"'),
        params: ['one'],
        cause: { code: '23505' },
      })
    })
  })

  it('of ours come as they are, with no parameter in the message', async () => {
    let leaked: BoundDatabase<typeof schema> | undefined
    await app.run({ name: 'GET /leak' }, async ({ db }) => {
      leaked = db
    })
    const db = leaked as BoundDatabase<typeof schema>
    const uses: (() => PromiseLike<unknown>)[] = [
      () => db.select().from(songs).where(eq(songs.title, 'secret')),
      () => db.query.songs.findFirst({ where: eq(songs.title, 'secret') }),
      () => db.$count(songs, eq(songs.title, 'secret')),
      () => db.execute(sql`select ${'secret'}`),
      () => db.transaction((tx) => tx.select().from(songs)),
      () => db.$client`select ${'secret'}`,
    ]
    for (const use of uses) {
      const failure = await failureOf(Promise.resolve().then(use))
      expect(failure).toBeInstanceOf(ScopeEndedError)
      expect((failure as Error).message).not.toContain('secret')
    }
  })
})

describe('db.transaction', () => {
  it('takes a configuration, nests, and rolls back by tx.rollback(), side by side with plain drizzle', async () => {
    await expectSame(async (db) => {
      const steps: unknown[] = []
      await db.transaction(
        async (tx) => {
          steps.push([...(await tx.execute(sql`select current_setting('transaction_isolation') as level`))])
          await tx.insert(people).values({ name: 'outer' })
          await tx
            .transaction(async (inner) => {
              await inner.insert(people).values({ name: 'inner' })
              steps.push(await inner.$count(people, inArray(people.name, ['outer', 'inner'])))
              inner.rollback()
            })
            .catch((error: Error) => steps.push(error.constructor.name))
          steps.push(await tx.$count(people, inArray(people.name, ['outer', 'inner'])))
          await tx.delete(people).where(eq(people.name, 'outer'))
        },
        // Inside another transaction there is nothing to configure.
        is(db, PgDatabase) && !('rollback' in db) ? { isolationLevel: 'repeatable read' } : undefined,
      )
      return steps
    })
  })

  it('takes setTransaction before the first query, as drizzle has it', async () => {
    await app.run({ name: 'set' }, ({ db }) =>
      db.transaction(async (tx) => {
        await tx.setTransaction({ isolationLevel: 'serializable' })
        expect([...(await tx.execute(sql`select current_setting('transaction_isolation') as level`))]).toEqual([
          { level: 'serializable' },
        ])
      }),
    )
  })
})

describe("drizzle's migrator", () => {
  it('runs over scope.db, all migrations in one transaction, once', async () => {
    const migrationsFolder = await mkdtemp(join(tmpdir(), 'reqscope-migrations-'))
    onTestFinished(() => rm(migrationsFolder, { recursive: true }))
    const entry = (idx: number, tag: string) => ({ idx, version: '7', when: idx + 1, tag, breakpoints: true })
    const journal = {
      version: '7',
      dialect: 'postgresql',
      entries: [entry(0, '0000_table'), entry(1, '0001_function')],
    }
    await mkdir(join(migrationsFolder, 'meta'))
    await writeFile(join(migrationsFolder, 'meta', '_journal.json'), JSON.stringify(journal))
    await writeFile(
      join(migrationsFolder, '0000_table.sql'),
      'create table migrated (id integer);\n--> statement-breakpoint\ninsert into migrated values (1);',
    )
    await writeFile(
      join(migrationsFolder, '0001_function.sql'),
      'create function seven() returns integer language plpgsql as $$ begin return 7; end $$; insert into migrated select seven();',
    )
    const ids = () => app.run({ name: 'read' }, ({ db }) => db.execute(sql`select id from migrated order by id`))
    for (let times = 0; times < 2; times++) {
      await app.run({ name: 'migrate' }, ({ db }) => migrate(db, { migrationsFolder }))
      expect([...(await ids())]).toEqual([{ id: 1 }, { id: 7 }])
    }
    journal.entries.push(entry(2, '0002_wrong'))
    await writeFile(join(migrationsFolder, 'meta', '_journal.json'), JSON.stringify(journal))
    await writeFile(join(migrationsFolder, '0002_wrong.sql'), 'insert into migrated values (9); select 1 / 0;')
    const failure = await failureOf(app.run({ name: 'migrate' }, ({ db }) => migrate(db, { migrationsFolder })))
    expect(failure).toMatchObject({ cause: { code: '22012' } })
    expect([...(await ids())]).toEqual([{ id: 1 }, { id: 7 }])
  })
})

describe("drizzle's own types", () => {
  it('are those of scope.db, all through', async () => {
    expectTypeOf<BoundDatabase<typeof schema>>().toEqualTypeOf<
      PostgresJsDatabase<typeof schema> & { readonly $client: Sql }
    >()
    await app.run({ name: 'types' }, async (scope) => {
      expectTypeOf(scope.db).toEqualTypeOf<BoundDatabase<typeof schema>>()
      expectTypeOf(await scope.db.select({ id: songs.id, title: songs.title }).from(songs)).toEqualTypeOf<
        { id: number; title: string }[]
      >()
      expectTypeOf(
        await scope.db.query.songs.findFirst({ columns: { id: true }, with: { author: true } }),
      ).toEqualTypeOf<
        | { id: number; author: { id: number; name: string; email: string | null; invitedBy: number | null } | null }
        | undefined
      >()
      expectTypeOf(await scope.db.$count(songs)).toEqualTypeOf<number>()
      await scope.db.transaction(async (tx) => {
        expectTypeOf(tx.query.songs).toEqualTypeOf(scope.db.query.songs)
      })
      expectTypeOf(await scope.transaction(async () => 1)).toEqualTypeOf<number>()
      expectTypeOf(await scope.transaction({ isolationLevel: 'serializable' }, () => 'x')).toEqualTypeOf<string>()
    })
  })

  it('hold at run time: scope.db is a PgDatabase to drizzle, and a transaction handle too', async () => {
    await app.run({ name: 'types' }, async ({ db }) => {
      expect(is(db, PgDatabase)).toBe(true)
      await db.transaction(async (tx) => expect(is(tx, PgDatabase)).toBe(true))
    })
  })
})
