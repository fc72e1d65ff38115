import { testRedis } from '@reqscope/services/testing'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { Locked, locked, RateLimited, Transactional, transactional } from '../../src/decorators/index.ts'
import { createScopes, InvalidOptionError, NoActiveScopeError, type Scopes } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import type { Resource } from '../../src/scope/resource.ts'
import { freshKey, lockApp, type TestRedis, testRedisResource, until } from '../locks/fixture.ts'
import { memoryLogger } from '../memory-logger.ts'
import { accountsDatabase, type Database, failureOf, schema } from '../postgres/fixture.ts'
import { type Compiler, checkTypes, compile, type Dialect } from './compilers.ts'
import type { ChatSessions as StandardChatSessions } from './standard/chat.ts'

type ChatModule = { readonly ChatSessions: typeof StandardChatSessions }

const database = await accountsDatabase()

type App = Scopes<{ db: Resource<Database>; redis: TestRedis }>

async function app(): Promise<App> {
  const db = postgres({ url: database.url, schema })
  const redis = testRedisResource({ url: await testRedis() })
  const scopes = createScopes({ resources: { db, redis }, logger: memoryLogger().logger })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  return scopes as unknown as App
}

const dialects: readonly Dialect[] = ['standard', 'legacy']
const compilers: readonly Compiler[] = ['tsc', 'esbuild', 'swc']

describe.each(dialects)('in the %s dialect', (dialect) => {
  it('the application compiles, and what is wrong in it does not', async () => {
    expect(await checkTypes(dialect)).toBe('')
  })

  describe.each(compilers)('compiled by %s', (compiler) => {
    let ChatSessions: typeof StandardChatSessions

    beforeAll(async () => {
      ;({ ChatSessions } = (await import(/* @vite-ignore */ await compile(compiler, dialect))) as ChatModule)
    })

    it('locks methods, inherited, static and private ones, with this and the arguments', async () => {
      const scopes = await app()
      const other = await lockApp()
      const isFree = async (key: string) =>
        (await other.run({ name: 'asks' }, (scope) => scope.tryLock(key))) === undefined ? 'held' : 'free'
      const prefix = freshKey()
      const sessions = new ChatSessions(prefix)
      await scopes.run({ name: 'work' }, async () => {
        expect(await sessions.append('1', () => isFree(`${prefix}:1`))).toBe(`chat ${prefix} 1 held`)
        expect(await sessions.hidden(prefix, () => isFree(`private:${prefix}`))).toBe(`hidden ${prefix} held`)
        expect(await ChatSessions.of(prefix, () => isFree(`static:${prefix}`))).toBe(`ChatSessions ${prefix} held`)
        expect(await sessions.several(() => isFree('of them'))).toBe('held')
        await until(async () => (await isFree(`${prefix}:1`)) === 'free')
      })
    })

    it('limits methods, with this and the arguments in key and cost', async () => {
      const scopes = await app()
      const sessions = new ChatSessions(freshKey())
      await scopes.run({ name: 'work' }, async () => {
        expect(await sessions.limited('1', 2)).toBe(`${sessions.prefix} 1 2`)
        expect(await failureOf(sessions.limited('1', 2))).toMatchObject({ statusCode: 429, violated: ['limited'] })
        expect(await sessions.limited('1', 1)).toBe(`${sessions.prefix} 1 1`)
        expect(await sessions.limited('2', 3)).toBe(`${sessions.prefix} 2 3`)
      })
      const error = await failureOf(sessions.limited('1', 1))
      expect((error as Error).message).toMatch(/^@RateLimited on (Sessions\.)?limited needs a current scope/)
    })

    it('keeps name and length', () => {
      const base = Object.getPrototypeOf(ChatSessions.prototype) as StandardChatSessions
      expect([base.append.name, base.append.length]).toEqual(['append', 2])
      expect([ChatSessions.of.name, ChatSessions.of.length]).toEqual(['of', 2])
      expect([base.limited.name, base.limited.length]).toEqual(['limited', 2])
    })

    it('composes lock and transaction in either order', async () => {
      const scopes = await app()
      const sessions = new ChatSessions('')
      await scopes.run({ name: 'work' }, async (scope) => {
        const isolation = async () => {
          const [row] = await scope.db.$client<
            { level: string }[]
          >`select current_setting('transaction_isolation') level`
          return row?.level ?? ''
        }
        expect(await sessions.lockedOutside(freshKey(), isolation)).toBe('read committed')
        expect(await sessions.lockedInside(freshKey(), isolation)).toBe('serializable')
      })
    })

    it('says what to do where no scope is current', async () => {
      const error = await failureOf(new ChatSessions('p').append('1', async () => ''))
      expect(error).toBeInstanceOf(NoActiveScopeError)
      expect((error as Error).message).toMatch(/^@Locked on (Sessions\.)?append needs a current scope.*scopes\.run/)
    })
  })
})

describe('locked and transactional', () => {
  it('wrap functions, keeping this, name, length and types', async () => {
    const scopes = await app()
    const key = freshKey()
    const append = locked(
      { key: (id: string) => `${key}:${id}` },
      async function append(this: { n: number }, id: string) {
        return `${id} ${this.n}`
      },
    )
    const write = transactional(async function write(text: string) {
      return text.length
    })
    expect([append.name, append.length, write.name, write.length]).toEqual(['append', 1, 'write', 1])
    await scopes.run({ name: 'work' }, async () => {
      const text: string = await append.call({ n: 3 }, 'a')
      const length: number = await write('four')
      expect([text, length]).toEqual(['a 3', 4])
    })
    expect(await failureOf(write(''))).toMatchObject({ message: expect.stringContaining('transactional(write)') })
  })

  it('reject with what the key function throws, and with what the function throws', async () => {
    const scopes = await app()
    const wrong = new Error('no key')
    const mine = new Error('mine')
    const noKey = locked(
      {
        key: () => {
          throw wrong
        },
      },
      async () => {},
    )
    const throws = locked({ key: freshKey() }, async () => Promise.reject(mine))
    await scopes.run({ name: 'work' }, async () => {
      expect(await failureOf(noKey())).toBe(wrong)
      expect(await failureOf(throws())).toBe(mine)
    })
  })

  it('refuse wrong options when they are made, by name', () => {
    const options = [
      () => Locked({ key: 3 as never }),
      () => Locked({ key: 'k', ttlMs: 1 }),
      () => Transactional({ retries: -1 }),
      () => RateLimited({ key: String, limit: 0, windowMs: 1_000 }),
      () => RateLimited({ key: 'k' as never, limit: 1, windowMs: 1_000 }),
      () => RateLimited({ key: String, limit: 1, windowMs: 1_000, max: 1 } as never),
      () => locked({ key: 'k', wait: 3 } as never, async () => {}),
      () => transactional({ isolation: 'x' } as never, async () => {}),
      () => (Locked({ key: 'k' }) as never as (...args: unknown[]) => unknown)({}, 'field', undefined),
      () => (Locked({ key: 'k' }) as never as (...args: unknown[]) => unknown)(undefined, { kind: 'field', name: 'f' }),
    ]
    for (const make of options) expect(make).toThrow(InvalidOptionError)
  })
})
