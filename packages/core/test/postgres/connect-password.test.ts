import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { heard } from '../heard.ts'
import { expectFailure, SECRET, urlOf } from './connect-fixture.ts'
import { accountsDatabase, appOn, backendOf, failureOf, Gate } from './fixture.ts'

const database = await accountsDatabase()
const role = `rotating_${database.name}`
const clerk = urlOf(database.url, { username: role, password: SECRET })

beforeAll(() => database.watch.unsafe(`create role ${role} login password '${SECRET}'`))
afterAll(() => database.watch.unsafe(`drop role ${role}`))

describe('the password as a function', () => {
  it('is called for every new connection, so that credentials can rotate', async () => {
    let current = SECRET
    let calls = 0
    const closed = heard('reqscope:connection:closed')
    const app = appOn(urlOf(clerk, { password: '' }), {
      async password() {
        calls++
        return current
      },
    })
    const backend = await app.run({ name: 'before' }, backendOf)
    expect(await app.run({ name: 'same connection' }, backendOf)).toBe(backend)
    expect(calls).toBe(1)
    current = `second-${SECRET}`
    onTestFinished(() => database.watch.unsafe(`alter role ${role} password '${SECRET}'`).then(() => {}))
    await database.watch.unsafe(`alter role ${role} password '${current}'`)
    await database.watch`select pg_terminate_backend(${backend})`
    // The server is quicker to forget it than we are to hear of it.
    await vi.waitFor(() => expect(closed).toMatchObject([{ backend }]))
    expect(await app.run({ name: 'after' }, backendOf)).not.toBe(backend)
    expect(calls).toBe(2)
  })

  it.each<[string, () => unknown, RegExp]>([
    [
      'throws',
      () => {
        throw new Error('the vault is sealed')
      },
      /function given as postgres\.password threw an error/,
    ],
    ['rejects', () => Promise.reject(new Error('the vault is sealed')), /threw an error/],
    ['throws no error', () => Promise.reject('sealed'), /threw an error/],
    ['gives nothing', () => undefined, /gave undefined, not a string/],
    ['gives null', async () => null, /gave null, not a string/],
    ['gives a number', () => 12_345, /gave number, not a string/],
    ['gives an empty string', () => '', /gave an empty string/],
  ])('that %s is a typed error', async (_name, password, message) => {
    await expectFailure(clerk, { password: password as () => string }, 'authentication', message)
  })

  it('that never answers is a timeout, and costs the pool no connection for ever', async () => {
    const gate = new Gate<string>()
    let calls = 0
    const app = appOn(clerk, {
      max: 1,
      connectTimeoutMs: 100,
      password: () => (calls++ === 0 ? new Promise<string>(() => {}) : gate.passed),
    })
    expect(await failureOf(app.start())).toMatchObject({ code: 'RSC_CONNECTION_LOST', reason: 'timeout' })
    gate.open(SECRET)
    expect(await app.run({ name: 'after' }, backendOf)).toBeGreaterThan(0)
  })

  it('keeps what it threw as the cause', async () => {
    const sealed = new Error('the vault is sealed')
    const error = await failureOf(appOn(clerk, { password: () => Promise.reject(sealed) }).start())
    expect((error as Error & { cause: Error }).cause.cause).toBe(sealed)
  })
})
