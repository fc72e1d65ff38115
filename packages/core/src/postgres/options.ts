import type { ConnectionOptions as TlsOptions } from 'node:tls'
import createClient, { type ParsedOptions, type PostgresType } from 'postgres'
import { type CircuitBreakerOptions, checkCircuitBreakerOptions } from '../circuit-breaker.ts'
import { InvalidOptionError, UNSHOWN } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { SiteCapture } from '../scope/acquisition-site.ts'
import type { ArrayTypeOf } from './array-types.ts'
import {
  checkStatementLog,
  type RepeatedStatementsOptions,
  type SlowStatementsOptions,
  type StatementLogConfig,
} from './statement-log.ts'
import { type ReadUrl, readUrl } from './url.ts'

/** How to reach Postgres, and how many connections may be held for how long. */
export interface PostgresOptions<Schema extends Record<string, unknown> = Record<string, never>> {
  /**
   * `postgres://user:password@host:port/database`, with several hosts if need be: the first that answers is taken. IPv6
   * addresses stand in brackets; a unix socket is named by its folder, `?host=/var/run/postgresql`.
   */
  readonly url: string
  /** The drizzle schema: gives `scope.db.query` its tables. */
  readonly schema?: Schema
  /** Drizzle's naming of columns that were given no name. */
  readonly casing?: 'snake_case' | 'camelCase'
  /** Instead of the URL's; a function is asked for every new connection, so credentials can rotate. */
  readonly password?: string | (() => string | Promise<string>)
  /**
   * TLS, instead of the URL's `sslmode`: `require` and `prefer` encrypt without verifying the server, `verify-full` or
   * `true` verify it, and an object is passed to `tls.connect`. Default: the URL's, else none.
   */
  readonly ssl?: boolean | 'require' | 'prefer' | 'verify-full' | TlsOptions
  /** Shown in `pg_stat_activity`. Default `'reqscope'`. */
  readonly applicationName?: string
  /** Settings of every session, `search_path` and the like. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>
  /** Types of postgres.js, for raw tagged statements. */
  readonly types?: Record<string, PostgresType>
  /** How many connections there may be. Default 10. */
  readonly max?: number
  /** How long a statement may wait for a connection, in milliseconds. Default 5,000. */
  readonly acquireTimeoutMs?: number
  /** How many may wait for a connection; the next one is refused at once. Default 1,000. */
  readonly maxWaiting?: number
  /** After how long without use a connection is closed, in milliseconds; 0 for never. Default 60,000. */
  readonly idleTimeoutMs?: number
  /** How old a connection may get, in milliseconds, less up to a tenth at random; 0 for ever. Never closed in use. Default 1,800,000. */
  readonly maxLifetimeMs?: number
  /** How long opening a connection may take, in milliseconds. Default 10,000. */
  readonly connectTimeoutMs?: number
  /** After how long without use a connection is asked whether it still works before it is used, in milliseconds. Default 30,000. */
  readonly validateAfterIdleMs?: number
  /** The server's `statement_timeout`, in milliseconds; 0 for none. Default 60,000. */
  readonly statementTimeoutMs?: number
  /** The server's `idle_in_transaction_session_timeout`, in milliseconds; 0 for none. Default 30,000. */
  readonly idleInTransactionTimeoutMs?: number
  /** After how long a lease that cannot yield is reported, in milliseconds; 0 for never. Default 30,000. */
  readonly leakThresholdMs?: number
  /**
   * How often the place in the code that takes a connection is captured: `always`, `sampled` (the first of each route and
   * one of 128 after it) or `never`. Default `sampled` where NODE_ENV is `production`, else `always`; `never` without a
   * leak threshold.
   */
  readonly acquisitionSites?: SiteCapture
  /** Whether statements are prepared. Switch it off behind a pooler in transaction mode. Default true. */
  readonly prepare?: boolean
  /** How many statements are prepared on a connection at most. Default 256. */
  readonly maxPrepared?: number
  /** When a server that can't be reached is left alone for a moment. */
  readonly circuitBreaker?: CircuitBreakerOptions
  /**
   * How often the server is asked which of our sessions are idle in a transaction, in milliseconds; those that have been for as
   * long are reported with the route that holds them. 0 switches it off. Default 10,000.
   */
  readonly idleTransactionCheckMs?: number
  /** What is done about a statement that one scope runs again and again. */
  readonly repeatedStatements?: RepeatedStatementsOptions
  /** What is done about a statement that takes long. */
  readonly slowStatements?: SlowStatementsOptions
}

/** The options, checked and complete. */
export interface PostgresConfig {
  readonly target: Target
  readonly password: string | (() => string | Promise<string>) | undefined
  readonly types: Record<string, PostgresType>
  /** Filled by the first connection. */
  readonly arrayTypeOf: ArrayTypeOf
  /** What the server is told when a connection starts. */
  readonly settings: Readonly<Record<string, string | number | boolean>>
  readonly url: string
  readonly max: number
  readonly acquireTimeoutMs: number
  readonly maxWaiting: number
  readonly idleTimeoutMs: number
  readonly maxLifetimeMs: number
  readonly connectTimeoutMs: number
  readonly validateAfterIdleMs: number
  readonly statementTimeoutMs: number
  readonly idleInTransactionTimeoutMs: number
  readonly leakThresholdMs: number
  readonly acquisitionSites: SiteCapture
  readonly prepare: boolean
  readonly maxPrepared: number
  readonly circuitBreaker: Required<CircuitBreakerOptions>
  readonly idleTransactionCheckMs: number
  readonly statementLog: StatementLogConfig
}

export interface Endpoint {
  readonly host: string
  readonly port: number
  /** The address that the host's name stood for, once it is known. */
  readonly address?: string | undefined
}

/** Where the server is, as far as it may be shown to anybody: no password. */
export interface Target {
  readonly endpoints: readonly Endpoint[]
  readonly path: string | undefined
  readonly user: string
  readonly database: string
  readonly ssl: false | 'require' | 'prefer' | 'verify-full' | true | TlsOptions
}

const KNOWN = [
  'url',
  'schema',
  'casing',
  'password',
  'ssl',
  'applicationName',
  'settings',
  'types',
  'max',
  'acquireTimeoutMs',
  'maxWaiting',
  'idleTimeoutMs',
  'maxLifetimeMs',
  'connectTimeoutMs',
  'validateAfterIdleMs',
  'statementTimeoutMs',
  'idleInTransactionTimeoutMs',
  'leakThresholdMs',
  'acquisitionSites',
  'prepare',
  'maxPrepared',
  'circuitBreaker',
  'idleTransactionCheckMs',
  'repeatedStatements',
  'slowStatements',
] as const satisfies readonly (keyof PostgresOptions)[]

const MODES: readonly unknown[] = [true, false, 'require', 'prefer', 'verify-full']

/** @throws InvalidOptionError naming the option that is wrong; never showing the URL, which may hold a password. */
export function checkPostgresOptions(options: PostgresOptions<Record<string, unknown>>): PostgresConfig {
  const read = new OptionReader('postgres', options).onlyKnown(KNOWN)
  const applicationName = read.string('applicationName', 'reqscope')
  const statementTimeoutMs = read.milliseconds('statementTimeoutMs', 60_000)
  const idleInTransactionTimeoutMs = read.milliseconds('idleInTransactionTimeoutMs', 30_000)
  read.oneOf('casing', undefined, ['snake_case', 'camelCase'])
  read.object('schema')
  read.object('types')
  read.object('settings')
  for (const [name, value] of Object.entries(options.settings ?? {})) {
    if (!['string', 'number', 'boolean'].includes(typeof value)) {
      throw new InvalidOptionError(`postgres.settings.${name}`, value, 'a string, a number or a boolean')
    }
  }
  const { password } = options as { password?: unknown }
  if (password !== undefined && typeof password !== 'function' && (typeof password !== 'string' || password === '')) {
    throw new InvalidOptionError(
      'postgres.password',
      UNSHOWN,
      'a string that is not empty, or a function that gives one',
    )
  }
  const leakThresholdMs = read.milliseconds('leakThresholdMs', 30_000)
  const sites = leakThresholdMs === 0 ? 'never' : process.env.NODE_ENV === 'production' ? 'sampled' : 'always'
  const { parsed, read: url } = parsedUrl(options)
  const hasOwnStatementTimeout = [options.settings, parsed.connection].some(
    (each) => each?.statement_timeout !== undefined,
  )
  return withoutSecretsShown({
    target: targetOf(parsed, url, options.ssl),
    url: url.url,
    password: options.password,
    types: options.types ?? {},
    arrayTypeOf: {},
    settings: {
      // 0 is the server's own default, and a pooler may refuse to hear of it.
      ...(statementTimeoutMs > 0 && { statement_timeout: statementTimeoutMs }),
      ...(idleInTransactionTimeoutMs > 0 && { idle_in_transaction_session_timeout: idleInTransactionTimeoutMs }),
      ...options.settings,
      application_name: applicationName,
    },
    max: read.integer('max', 10, { min: 1, max: 10_000 }),
    acquireTimeoutMs: read.milliseconds('acquireTimeoutMs', 5_000, { min: 1 }),
    maxWaiting: read.integer('maxWaiting', 1_000, { min: 0 }),
    idleTimeoutMs: read.milliseconds('idleTimeoutMs', 60_000),
    maxLifetimeMs: read.milliseconds('maxLifetimeMs', 1_800_000),
    connectTimeoutMs: read.milliseconds('connectTimeoutMs', 10_000, { min: 1 }),
    validateAfterIdleMs: read.milliseconds('validateAfterIdleMs', 30_000),
    // One that is set elsewhere counts; which one that is, only the server knows.
    statementTimeoutMs: hasOwnStatementTimeout ? 0 : statementTimeoutMs,
    idleInTransactionTimeoutMs,
    leakThresholdMs,
    acquisitionSites: read.oneOf('acquisitionSites', sites, ['always', 'sampled', 'never']),
    prepare: read.boolean('prepare', true),
    maxPrepared: read.integer('maxPrepared', 256, { min: 0 }),
    circuitBreaker: checkCircuitBreakerOptions(options.circuitBreaker ?? {}, 'postgres.circuitBreaker'),
    idleTransactionCheckMs: read.milliseconds('idleTransactionCheckMs', 10_000),
    statementLog: checkStatementLog(options.repeatedStatements, options.slowStatements),
  })
}

/** Whoever prints a handle prints what it refers to: that must not be a password or a key. */
function withoutSecretsShown(config: PostgresConfig): PostgresConfig {
  Object.defineProperties(config, { url: { enumerable: false }, password: { enumerable: false } })
  Object.defineProperty(config.target, 'ssl', { enumerable: false })
  return config
}

/** The URL is read by postgres.js itself, so it means here what it means there. The client never connects. */
function parsedUrl(options: PostgresOptions<Record<string, unknown>>): { parsed: ParsedOptions; read: ReadUrl } {
  const expected = 'a URL like postgres://user:password@host:5432/database'
  if (typeof options.url !== 'string' || !/^postgres(ql)?:\/\//.test(options.url)) {
    throw new InvalidOptionError('postgres.url', typeof options.url === 'string' ? UNSHOWN : options.url, expected)
  }
  const read = readUrl(options.url)
  if (read === undefined) throw new InvalidOptionError('postgres.url', UNSHOWN, expected)
  let parsed: ParsedOptions
  try {
    parsed = createClient(read.url, { max: 1 }).options
  } catch {
    throw new InvalidOptionError('postgres.url', UNSHOWN, expected)
  }
  if ((parsed.target_session_attrs as unknown) !== undefined) {
    throw new InvalidOptionError('postgres.url', UNSHOWN, 'without target_session_attrs: name the host that is meant')
  }
  return { parsed, read }
}

/** The password of a URL that was checked, or the environment's, as postgres.js takes it. */
export function passwordIn(url: string): string | undefined {
  const { pass } = createClient(url, { max: 1 }).options
  return typeof pass === 'string' && pass !== '' ? pass : undefined
}

function targetOf(parsed: ParsedOptions, url: ReadUrl, ssl: PostgresOptions['ssl']): Target {
  const mode: unknown = ssl === undefined ? parsed.ssl : ssl
  const isTlsOptions = typeof mode === 'object' && mode !== null && !Array.isArray(mode)
  if (!isTlsOptions && !MODES.includes(mode)) {
    if (ssl === undefined) {
      throw new InvalidOptionError(
        'postgres.url',
        UNSHOWN,
        "with an sslmode that is 'require', 'prefer', 'verify-full' or 'disable', or with none",
      )
    }
    throw new InvalidOptionError(
      'postgres.ssl',
      mode,
      "true, false, 'require', 'prefer', 'verify-full' or options of tls.connect",
    )
  }
  return {
    endpoints: url.endpoints ?? parsed.host.map((host, index) => ({ host, port: Number(parsed.port[index] ?? 5432) })),
    path: url.path ?? (parsed.path || undefined),
    user: parsed.user,
    database: parsed.database,
    ssl: mode as Target['ssl'],
  }
}
