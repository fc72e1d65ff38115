import { Socket } from 'node:net'
import { inspect } from 'node:util'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { createScopes, InvalidOptionError } from '../../src/index.ts'
import { type PostgresOptions, postgres } from '../../src/postgres/index.ts'
import { schema } from './fixture.ts'

const SECRET = 'hunter2-s3cr3t'
const url = `postgres://shop:${SECRET}@127.0.0.1:5432/shop`

const numbers = {
  max: { min: 1, tooMany: 10_001 },
  acquireTimeoutMs: { min: 1, tooMany: 2 ** 31 },
  maxWaiting: { min: 0 },
  idleTimeoutMs: { min: 0, tooMany: 2 ** 31 },
  maxLifetimeMs: { min: 0, tooMany: 2 ** 31 },
  connectTimeoutMs: { min: 1, tooMany: 2 ** 31 },
  validateAfterIdleMs: { min: 0, tooMany: 2 ** 31 },
  statementTimeoutMs: { min: 0, tooMany: 2 ** 31 },
  idleInTransactionTimeoutMs: { min: 0, tooMany: 2 ** 31 },
  leakThresholdMs: { min: 0, tooMany: 2 ** 31 },
  maxPrepared: { min: 0 },
} satisfies Partial<Record<keyof PostgresOptions, { min: number; tooMany?: number }>>

const wrong: [option: string, value: unknown][] = [
  ...Object.entries(numbers).flatMap(([name, { min, ...range }]): [string, unknown][] => [
    [name, min - 1],
    [name, min + 0.5],
    [name, `${min + 1}`],
    [name, Number.NaN],
    [name, Number.POSITIVE_INFINITY],
    [name, null],
    [name, [min + 1]],
    [name, BigInt(min + 1)],
    ...('tooMany' in range ? [[name, range.tooMany] as [string, unknown]] : []),
  ]),
  ...[undefined, null, '', 7, 'localhost', 'mysql://localhost/db', new URL(url)].map((value): [string, unknown] => [
    'url',
    value,
  ]),
  ['url', 'postgres://shop:pass word@[::1/shop'],
  ['url', `${url}?target_session_attrs=primary`],
  ['url', `${url}?target_session_attrs=nonsense`],
  ['url', `${url}?sslmode=verify-ca`],
  ['url', 'postgres://shop@127.0.0.1:99999/shop'],
  ['schema', 7],
  ['schema', null],
  ['schema', 'schema.ts'],
  ['casing', 'kebab-case'],
  ['casing', true],
  ['password', 7],
  ['password', ''],
  ['password', null],
  ['password', { secret: SECRET }],
  ['ssl', 'yes'],
  ['ssl', 1],
  ['ssl', null],
  ['ssl', 'verify-ca'],
  ['ssl', []],
  ['applicationName', 7],
  ['applicationName', ''],
  ['settings', 'search_path=shop'],
  ['settings', null],
  ['settings', ['search_path']],
  ['settings.search_path', { settings: { search_path: null } }],
  ['settings.work_mem', { settings: { work_mem: { mb: 8 } } }],
  ['types', 7],
  ['types', null],
  ['prepare', 'false'],
  ['prepare', 0],
  ['acquisitionSites', true],
  ['acquisitionSites', 'sometimes'],
  ['idleTransactionCheckMs', -1],
  ['repeatedStatements', 5],
  ['repeatedStatements.threshold', { repeatedStatements: { threshold: 1 } }],
  ['slowStatements', 5],
  ['slowStatements.mode', { slowStatements: { mode: 'throw' } }],
  ['circuitBreaker', 5],
  ['circuitBreaker.failures', { circuitBreaker: { failures: '5' } }],
  ['circuitBreaker.halfOpenAfterMs', { circuitBreaker: { halfOpenAfterMs: 0 } }],
]

describe('a wrong option of postgres is an InvalidOptionError that names it, where it is given:', () => {
  it.each(wrong.map(([option, value]) => ({ option, value })))('$option: $value', ({ option, value }) => {
    const given = option.includes('.') ? (value as object) : { [option]: value }
    const error = thrownBy(() => postgres({ url, ...given } as PostgresOptions))
    expect(error).toBeInstanceOf(InvalidOptionError)
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option: `postgres.${option}` })
    expect((error as Error).message).toMatch(new RegExp(`^Option postgres\\.${option} must be `))
    expect((error as Error).message).not.toContain(SECRET)
  })

  it.each([80_318_531, 2n ** 40n, [SECRET], { SECRET }])(
    'a password that is no string is not shown: %s',
    (password) => {
      const error = thrownBy(() => postgres({ url, password } as unknown as PostgresOptions)) as Error
      expect(error.message).toBe(
        'Option postgres.password must be a string that is not empty, or a function that gives one.',
      )
    },
  )

  it('every option is among those above', () => {
    const every = thrownBy(() => postgres({ url, nonsense: 1 } as PostgresOptions)) as InvalidOptionError
    const names = /there are: (.*)\)/.exec(every.expected)?.[1]?.split(', ')
    expect(new Set(wrong.map(([option]) => option.split('.')[0]))).toEqual(new Set(names))
  })

  it.each(['max_connections', 'idleTimeout', 'connection', 'debug', 'pasword'])(
    'an option it does not know: %s',
    (name) => {
      const error = thrownBy(() => postgres({ url, [name]: SECRET } as PostgresOptions))
      expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option: `postgres.${name}` })
      expect((error as Error).message).toContain('there is no such option')
      expect((error as Error).message).not.toContain(SECRET)
    },
  )

  it.each([[undefined], [null], [url], [7]])('%j instead of options', (options) => {
    const error = thrownBy(() => postgres(options as unknown as PostgresOptions))
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option: 'postgres' })
    expect((error as Error).message).not.toContain(SECRET)
  })
})

describe('what postgres() takes', () => {
  it.each<[string, Partial<PostgresOptions<typeof schema>>]>([
    ['nothing but a URL', {}],
    ['the smallest numbers', Object.fromEntries(Object.entries(numbers).map(([name, { min }]) => [name, min]))],
    ['undefined for what has a default', { max: undefined, ssl: undefined, prepare: undefined } as never],
    [
      'everything',
      {
        schema,
        casing: 'snake_case',
        ssl: { rejectUnauthorized: false },
        settings: { work_mem: 1, jit: false },
        types: {},
        password: async () => 'x',
      },
    ],
  ])('%s', (_name, options) => {
    expect(() => postgres({ url, ...options })).not.toThrow()
  })

  it.each([
    'postgresql://shop@localhost/shop',
    'postgres://shop@one:5432,two:5433/shop',
    'postgres://shop@localhost/shop?sslmode=disable',
    'postgres://shop@localhost/shop?sslmode=prefer&search_path=shop',
  ])('the URL %s', (given) => {
    expect(() => postgres({ url: given })).not.toThrow()
  })

  it('opens nothing by itself', async () => {
    const connect = vi.spyOn(Socket.prototype, 'connect').mockReturnThis()
    onTestFinished(() => connect.mockRestore())
    createScopes({ resources: { db: postgres({ url: 'postgres://shop@192.0.2.1/shop' }) } })
    await new Promise((resolve) => setImmediate(resolve))
    expect(connect).not.toHaveBeenCalled()
  })
})

describe('a postgres resource', () => {
  it('belongs to one runtime: a second one refuses it', () => {
    const db = postgres({ url })
    createScopes({ resources: { db } })
    expect(thrownBy(() => createScopes({ resources: { db } }))).toMatchObject({
      code: 'RSC_INVALID_OPTION',
      option: 'createScopes.resources.db',
    })
    expect(thrownBy(() => createScopes({ resources: { again: db } }))).toMatchObject({ code: 'RSC_INVALID_OPTION' })
  })

  it('is shown by JSON.stringify and util.inspect without its password', async () => {
    const scopes = createScopes({ resources: { db: postgres({ url, password: SECRET }) } })
    const scope = scopes.open({ id: 'r-1', kind: 'request', name: 'GET /' })
    for (const value of [scopes, scopes.resources, scope, scopes.snapshot()]) {
      expect(inspect(value, { depth: 8 })).not.toContain(SECRET)
      expect(JSON.stringify(value)).not.toContain(SECRET)
    }
    expect(inspect(scope.db, { depth: 8 })).not.toContain(SECRET)
    expect(inspect(scope.db.$client, { depth: 8 })).not.toContain(SECRET)
    expect(JSON.stringify(scope.db.$client.options) ?? '').not.toContain(SECRET)
  })
})

function thrownBy(fn: () => unknown): unknown {
  try {
    fn()
  } catch (error) {
    return error
  }
  throw new Error('expected it to throw, and it did not')
}
