import { once } from 'node:events'
import { Readable, type Writable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { DeadlineExceededError, InvalidOptionError, ScopeEndedError, SharedConnectionError } from '../../src/index.ts'
import { crashes } from '../crashes.ts'
import { accounts, accountsDatabase, appOn, backendOf, failureOf, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
await watch.unsafe(`
  create function refuse_bad_owners() returns trigger language plpgsql as $$
    begin if new.owner = 'bad' then raise exception 'no bad owners'; end if; return new; end $$;
  create trigger refuse_bad_owners before insert on accounts for each row execute function refuse_bad_owners()`)

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const lines = (...owners: string[]) => Readable.from(owners.map((owner) => `${owner}\n`))

async function textOf(stream: Readable): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

describe('COPY … FROM STDIN', () => {
  it('takes a stream of rows, which are there when it has finished', async () => {
    const app = appOn(database)
    await app.run({ name: 'import' }, async (scope) => {
      await pipeline(lines('ann', 'bob'), await scope.db.$client`copy accounts (owner) from stdin`.writable())
      expect(await ownersIn(database)).toEqual(['ann', 'bob'])
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('takes many rows', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      const owners = Array.from({ length: 20_000 }, (_, index) => `owner ${index}`)
      await pipeline(lines(...owners), await scope.db.$client`copy accounts (owner) from stdin`.writable())
      expect(await scope.db.$count(accounts)).toBe(20_000)
    })
  })

  it('belongs to the transaction around it: committed with it, although nothing came after the stream', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      await scope.transaction(async () => {
        await pipeline(lines('ann', 'bob'), await scope.db.$client`copy accounts (owner) from stdin`.writable())
        expect(await ownersIn(database)).toEqual([])
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('belongs to the transaction around it: rolled back with it', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      const work = scope.transaction(async () => {
        await pipeline(lines('ann', 'bob'), await scope.db.$client`copy accounts (owner) from stdin`.writable())
        throw new Error('no')
      })
      expect(await failureOf(work)).toMatchObject({ message: 'no' })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('lets the next statement of its transaction follow at once', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      await scope.transaction(async () => {
        const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
        const seen = new Promise((resolve) => stream.on('finish', () => resolve(scope.db.select().from(accounts))))
        await pipeline(lines('ann'), stream)
        expect(await scope.db.$count(accounts)).toBe(1)
        expect(await seen).toHaveLength(1)
        await scope.db.transaction(async () => {
          await pipeline(lines('bob'), await scope.db.$client`copy accounts (owner) from stdin`.writable())
        })
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('refuses other statements of its transaction while it is open, and not those outside', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      await scope.transaction(async () => {
        const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
        expect(await failureOf(scope.db.select().from(accounts))).toBeInstanceOf(SharedConnectionError)
        await scope.transaction({ propagation: 'notSupported' }, async () =>
          expect(await scope.db.$count(accounts)).toBe(0),
        )
        await pipeline(lines('ann'), stream)
      })
    })
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it('fails with the error of the server, and its connection is as good as before', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'import' }, async (scope) => {
      const backend = await backendOf(scope)
      const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
      expect(await failureOf(pipeline(lines('ann', 'bad'), stream))).toMatchObject({ code: 'P0001' })
      expect(await backendOf(scope)).toBe(backend)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('fails inside a savepoint without harm to the transaction', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'before' })
        const part = scope.db.transaction(async () => {
          await pipeline(lines('ann', 'bad'), await scope.db.$client`copy accounts (owner) from stdin`.writable())
        })
        expect(await failureOf(part)).toMatchObject({ code: 'P0001' })
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['before', 'after'])
  })

  it('that failed and was swallowed makes the commit fail, with its error as the cause', async () => {
    await appOn(database).run({ name: 'import' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'before' })
          await pipeline(lines('bad'), await scope.db.$client`copy accounts (owner) from stdin`.writable()).catch(
            () => {},
          )
        }),
      )
      expect(failure).toMatchObject({ reason: 'aborted', cause: { code: 'P0001' } })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('that is given up writes nothing, and gives its connection back', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'import' }, async (scope) => {
      const stream = await scope.db.$client`copy accounts (owner) from stdin`.writable()
      stream.write('ann\n')
      stream.destroy()
      await once(stream, 'close')
      await vi.waitFor(() => expect(app.snapshot().leases).toEqual([]))
      expect(await scope.db.$count(accounts)).toBe(0)
    })
  })

  it('rejects with the error of a wrong statement, and gives its connection back', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'import' }, async (scope) => {
      const backend = await backendOf(scope)
      expect(await failureOf(scope.db.$client`copy nowhere from stdin`.writable())).toMatchObject({ code: '42P01' })
      expect(await backendOf(scope)).toBe(backend)
    })
  })
})

describe('COPY … TO STDOUT', () => {
  beforeEach(async () => {
    await watch`insert into accounts (owner) values ('ann'), ('bob')`
  })

  it('is a stream of rows', async () => {
    const app = appOn(database)
    await app.run({ name: 'export' }, async (scope) => {
      const stream = await scope.db.$client`copy (select owner from accounts order by id) to stdout`.readable()
      expect(await textOf(stream)).toBe('ann\nbob\n')
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('is bigger than memory wants to hold, and read as slowly as its reader likes', async () => {
    await appOn(database).run({ name: 'export' }, async (scope) => {
      const stream = await scope.db
        .$client`copy (select repeat('x', 999) from generate_series(1, 20000)) to stdout`.readable()
      let size = 0
      for await (const chunk of stream) {
        size += chunk.length
        if (size % 100 === 0) await new Promise(setImmediate)
      }
      expect(size).toBe(20_000_000)
    })
  })

  it('sees what its transaction has done, and lets the next statement follow at once', async () => {
    await appOn(database).run({ name: 'export' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'eve' })
        const read = () => scope.db.$client`copy (select owner from accounts order by id) to stdout`.readable()
        expect(await textOf(await read())).toBe('ann\nbob\neve\n')
        expect(await scope.db.$count(accounts)).toBe(3)
        const stream = await read()
        const after = new Promise((resolve) => stream.on('end', () => resolve(scope.db.$count(accounts))))
        stream.resume()
        expect(await after).toBe(3)
        await textOf(await read())
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob', 'eve'])
  })

  it('that the server ends half-way fails with its error, in a savepoint without harm to the transaction', async () => {
    await appOn(database).run({ name: 'export' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'eve' })
        const part = scope.db.transaction(async () => {
          const text = 'copy (select 1 / (5000 - n) from generate_series(1, 6000) n) to stdout'
          await textOf(await scope.db.$client.unsafe(text).readable())
        })
        expect(await failureOf(part)).toMatchObject({ code: '22012' })
        expect(await scope.db.$count(accounts)).toBe(3)
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob', 'eve'])
  })

  it('that the server ends at once, before anybody can listen to the stream, is no uncaught exception', async () => {
    const found = crashes()
    await appOn(database, { max: 1 }).run({ name: 'export' }, async (scope) => {
      const read = async () => textOf(await scope.db.$client`copy (select 1 / 0) to stdout`.readable())
      expect(await failureOf(read())).toMatchObject({ code: '22012' })
      expect(await scope.db.$count(accounts)).toBe(2)
    })
    expect(found).toEqual([])
  })

  it('that is none is refused, and costs nothing', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'export' }, async (scope) => {
      const backend = await backendOf(scope)
      expect(await failureOf(scope.db.$client`select 1`.readable())).toBeInstanceOf(InvalidOptionError)
      expect(await backendOf(scope)).toBe(backend)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('that is given up costs its connection, which is replaced', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'export' }, async (scope) => {
      const stream = await scope.db
        .$client`copy (select repeat('x', 999) from generate_series(1, 20000)) to stdout`.readable()
      for await (const _chunk of stream) break
      await vi.waitFor(() => expect(app.snapshot().leases).toEqual([]))
      expect(await scope.db.$count(accounts)).toBe(2)
    })
  })

  it('ends with the deadline of its scope', async () => {
    const app = appOn(database, { max: 1 })
    const found = crashes()
    const failure = await failureOf(
      app.run({ name: 'export', timeoutMs: 120 }, async (scope) => {
        const query =
          "copy (select repeat('x', 999), case when n > 1000 then pg_sleep(30) end from generate_series(1, 2000) n) to stdout"
        await textOf(await scope.db.$client.unsafe(query).readable())
      }),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(app.snapshot().leases).toEqual([])
    await app.run({ name: 'next' }, async (scope) => expect(await scope.db.$count(accounts)).toBe(2))
    expect(found).toEqual([])
  })
})

describe('a COPY stream that outlives its scope', () => {
  it.each<[string, string, (stream: Readable | Writable) => void]>([
    ['read', "copy (select repeat('x', 999) from generate_series(1, 20000)) to stdout", () => {}],
    ['written', 'copy accounts (owner) from stdin', (stream) => void (stream as Writable).write('ann\n')],
  ])('is ended with it, taken back and reported, while it is %s', async (way, text, begin) => {
    const app = appOn(database, { max: 1 })
    const found = crashes()
    let leaked: Readable | Writable | undefined
    await app.run({ name: 'leaks' }, async (scope) => {
      const query = scope.db.$client.unsafe(text)
      leaked = way === 'read' ? await query.readable() : await query.writable()
      begin(leaked)
    })
    expect(app.snapshot().leases).toEqual([])
    expect(app.logs).toMatchObject([{ level: 'warn', facts: { lease: { state: 'cursor', scope: { name: 'leaks' } } } }])
    expect(await failureOf(finished(leaked as Readable))).toBeInstanceOf(ScopeEndedError)
    await app.run({ name: 'next' }, async (scope) => expect(await scope.db.$count(accounts)).toBe(0))
    expect(found).toEqual([])
  })
})
