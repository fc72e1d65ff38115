import type { Cluster, ClusterNode, ClusterOptions, RedisOptions as IoredisOptions, Redis } from 'ioredis'
import { type CircuitBreakerOptions, checkCircuitBreakerOptions } from '../circuit-breaker.ts'
import { InvalidOptionError, UNSHOWN } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { SiteCapture } from '../scope/acquisition-site.ts'

/** The settings of a connection. Replies have the shapes that the types of ioredis say. */
export type ClientOptions = Omit<IoredisOptions, 'replyMapping'>

/** A Lua script that becomes a method of `scope.redis`. */
export interface ScriptDefinition {
  readonly lua: string
  /** How many of the arguments are keys; without it, the first argument says so. */
  readonly numberOfKeys?: number
  /** It only reads, so a cluster may send it to a replica. */
  readonly readOnly?: boolean
}

export type ScriptDefinitions = Readonly<Record<string, ScriptDefinition>>

/** Where Redis is: exactly one of `url`, `client`, `cluster` and `sentinels`. */
export interface RedisOptions<Scripts extends ScriptDefinitions = ScriptDefinitions> {
  /** `redis://user:password@host:port/db`, or `rediss://` with TLS. */
  readonly url?: string
  /** A client of the application's: its connection is shared, its settings are kept, and it is never closed. */
  readonly client?: Redis | Cluster
  /** Redis Cluster: some of its nodes, the others are found. */
  readonly cluster?: readonly ClusterNode[]
  /** Sentinels, and the name of the master they watch. */
  readonly sentinels?: { readonly name: string; readonly addresses: readonly { host: string; port: number }[] }
  /** More settings of ioredis for every connection: `tls`, `password`, `keyPrefix`, …, less those this resource sets itself. */
  readonly connection?: Omit<IoredisOptions, ReservedSetting>
  /** More settings of ioredis' cluster, where `cluster` is given. */
  readonly clusterOptions?: Omit<ClusterOptions, 'redisOptions' | 'scripts' | 'lazyConnect' | 'enableAutoPipelining'>
  /** Lua scripts, by the name of their method. */
  readonly scripts?: Scripts
  /** Whether what is sent in one turn of the event loop goes out in few writes. Default true. */
  readonly autoPipelining?: boolean
  /** How long a command may take, in milliseconds, waiting for the connection included; not one that blocks. Default 5,000. */
  readonly commandTimeoutMs?: number
  /** When commands fail at once instead of waiting for the connection to come back. */
  readonly circuitBreaker?: CircuitBreakerOptions
  /** How long opening a connection may take, in milliseconds. Default 5,000. */
  readonly connectTimeoutMs?: number
  /** The connections that `exclusive` and `optimistic` lease; in a cluster, those of each master. */
  readonly exclusive?: ExclusiveOptions
  /** After how long an exclusive connection that is not given back is reported, in milliseconds; 0 for never. Default 30,000. */
  readonly leakThresholdMs?: number
  /**
   * How often the place in the code that takes a connection is captured: `always`, `sampled` (the first of each route and
   * one of 128 after it) or `never`. Default `sampled` where NODE_ENV is `production`, else `always`; `never` without a
   * leak threshold.
   */
  readonly acquisitionSites?: SiteCapture
}

export interface ExclusiveOptions {
  /** How many are kept open although nobody needs them. Default 1. */
  readonly min?: number
  /** How many there may be. Default 8. */
  readonly max?: number
  /** How long to wait for one, in milliseconds. Default 2,000. */
  readonly acquireTimeoutMs?: number
  /** How many may wait for one; the next is refused at once. Default 1,000. */
  readonly maxWaiting?: number
  /** After how long without use one is closed, in milliseconds; 0 for never. Default 60,000. */
  readonly idleTimeoutMs?: number
}

/** The options, checked and complete. */
export interface RedisConfig {
  readonly source: Source
  readonly scripts: ScriptDefinitions
  readonly autoPipelining: boolean
  readonly commandTimeoutMs: number
  readonly circuitBreaker: Required<CircuitBreakerOptions>
  readonly connectTimeoutMs: number
  readonly exclusive: Required<ExclusiveOptions>
  readonly leakThresholdMs: number
  readonly acquisitionSites: SiteCapture
}

export type Source =
  | { readonly tag: 'url'; readonly url: string; readonly connection: ClientOptions }
  | { readonly tag: 'client'; readonly client: Redis | Cluster }
  | { readonly tag: 'sentinels'; readonly connection: ClientOptions }
  | {
      readonly tag: 'cluster'
      readonly nodes: ClusterNode[]
      readonly connection: ClientOptions
      readonly options: ClusterOptions
    }

/** What keeps the resource's promises, and is therefore not the user's to set. */
const RESERVED = [
  'autoResendUnfulfilledCommands',
  'autoResubscribe',
  'commandTimeout',
  'connectTimeout',
  'enableAutoPipelining',
  'enableOfflineQueue',
  'lazyConnect',
  'maxRetriesPerRequest',
  'monitor',
  'offlineQueue',
  'commandQueue',
  'replyMapping',
  'retryStrategy',
  'reconnectOnError',
  'scripts',
  'sentinels',
] as const satisfies readonly (keyof IoredisOptions)[]
type ReservedSetting = (typeof RESERVED)[number]

const KNOWN = [
  'url',
  'client',
  'cluster',
  'sentinels',
  'connection',
  'clusterOptions',
  'scripts',
  'autoPipelining',
  'commandTimeoutMs',
  'connectTimeoutMs',
  'circuitBreaker',
  'exclusive',
  'leakThresholdMs',
  'acquisitionSites',
] as const satisfies readonly (keyof RedisOptions)[]

/** @throws InvalidOptionError naming the option that is wrong; never showing what may hold a password. */
export function checkRedisOptions(options: RedisOptions): RedisConfig {
  const read = new OptionReader('redis', options).onlyKnown(KNOWN)
  const connectTimeoutMs = read.milliseconds('connectTimeoutMs', 5_000, { min: 1 })
  const leakThresholdMs = read.milliseconds('leakThresholdMs', 30_000)
  const sites = leakThresholdMs === 0 ? 'never' : process.env.NODE_ENV === 'production' ? 'sampled' : 'always'
  return {
    source: hidden(sourceOf(options, connectTimeoutMs)),
    scripts: checkedScripts(options),
    autoPipelining: read.boolean('autoPipelining', true),
    commandTimeoutMs: read.milliseconds('commandTimeoutMs', 5_000, { min: 1 }),
    connectTimeoutMs,
    circuitBreaker: checkCircuitBreakerOptions(options.circuitBreaker ?? {}, 'redis.circuitBreaker'),
    exclusive: checkedExclusive(options.exclusive ?? {}),
    leakThresholdMs,
    acquisitionSites: read.oneOf('acquisitionSites', sites, ['always', 'sampled', 'never']),
  }
}

/** Whoever prints a resource prints what it refers to: that must not be a password. */
function hidden(source: Source): Source {
  for (const name of Object.keys(source)) {
    if (name !== 'tag') Object.defineProperty(source, name, { enumerable: false })
  }
  return source
}

function sourceOf(options: RedisOptions, connectTimeoutMs: number): Source {
  const read = new OptionReader('redis', options)
  const given = (['url', 'client', 'cluster', 'sentinels'] as const).filter((name) => options[name] !== undefined)
  if (given.length !== 1) {
    const found = given.length === 0 ? 'none of them is' : `${given.join(' and ')} are`
    throw new InvalidOptionError(
      'redis',
      UNSHOWN,
      `given exactly one of url, client, cluster and sentinels: ${found} given`,
    )
  }
  for (const name of ['connection', 'clusterOptions'] as const) read.object(name)
  if (options.client !== undefined) return clientSource(options)
  for (const name of RESERVED) {
    if ((options.connection as Record<string, unknown> | undefined)?.[name] === undefined) continue
    throw new InvalidOptionError(`redis.connection.${name}`, UNSHOWN, 'left out: the resource sets it itself')
  }
  if (options.clusterOptions !== undefined && options.cluster === undefined) {
    throw new InvalidOptionError('redis.clusterOptions', UNSHOWN, 'left out where cluster is not given')
  }
  const connection: ClientOptions = {
    connectionName: 'reqscope',
    ...options.connection,
    connectTimeout: connectTimeoutMs,
  }
  if (options.cluster !== undefined) {
    if (!Array.isArray(options.cluster) || options.cluster.length === 0) {
      throw new InvalidOptionError('redis.cluster', UNSHOWN, 'a list of nodes: { host, port } or URLs')
    }
    return { tag: 'cluster', nodes: [...options.cluster], connection, options: { ...options.clusterOptions } }
  }
  if (options.sentinels !== undefined) {
    read.object('sentinels')
    const { name, addresses } = options.sentinels
    if (typeof name !== 'string' || name === '')
      throw new InvalidOptionError('redis.sentinels.name', name, 'the name of the master')
    if (!Array.isArray(addresses) || addresses.length === 0) {
      throw new InvalidOptionError('redis.sentinels.addresses', UNSHOWN, 'a list of { host, port }')
    }
    return { tag: 'sentinels', connection: { ...connection, name, sentinels: [...addresses] } }
  }
  return { tag: 'url', url: checkedUrl(options.url), connection }
}

function clientSource(options: RedisOptions): Source {
  for (const name of ['connection', 'clusterOptions'] as const) {
    if (options[name] === undefined) continue
    throw new InvalidOptionError(`redis.${name}`, UNSHOWN, 'left out where client is given: it has its settings')
  }
  const client = options.client as Redis | Cluster
  const looksRight = typeof client?.sendCommand === 'function' && typeof client.defineCommand === 'function'
  if (!looksRight) throw new InvalidOptionError('redis.client', UNSHOWN, "a client of ioredis, or ioredis' Cluster")
  return { tag: 'client', client }
}

function checkedUrl(url: unknown): string {
  const expected = 'a URL like redis://user:password@host:6379/0'
  if (typeof url !== 'string') throw new InvalidOptionError('redis.url', url, expected)
  if (!/^rediss?:\/\//.test(url) || !URL.canParse(url)) throw new InvalidOptionError('redis.url', UNSHOWN, expected)
  return url
}

function checkedScripts(options: RedisOptions): ScriptDefinitions {
  new OptionReader('redis', options).object('scripts')
  for (const [name, definition] of Object.entries(options.scripts ?? {}))
    checkScript(`redis.scripts.${name}`, definition)
  return options.scripts ?? {}
}

/** @throws InvalidOptionError */
export function checkScript(option: string, definition: ScriptDefinition): ScriptDefinition {
  const read = new OptionReader(option, definition).onlyKnown(['lua', 'numberOfKeys', 'readOnly'])
  if (read.string('lua', undefined) === undefined)
    throw new InvalidOptionError(`${option}.lua`, undefined, 'a Lua script')
  read.integer('numberOfKeys', 0, { min: 0 })
  read.boolean('readOnly', false)
  return definition
}

function checkedExclusive(options: ExclusiveOptions): Required<ExclusiveOptions> {
  const read = new OptionReader('redis.exclusive', options).onlyKnown([
    'min',
    'max',
    'acquireTimeoutMs',
    'maxWaiting',
    'idleTimeoutMs',
  ])
  const max = read.integer('max', 8, { min: 1, max: 10_000 })
  return {
    min: read.integer('min', 1, { min: 0, max }),
    max,
    acquireTimeoutMs: read.milliseconds('acquireTimeoutMs', 2_000, { min: 1 }),
    maxWaiting: read.integer('maxWaiting', 1_000, { min: 0 }),
    idleTimeoutMs: read.milliseconds('idleTimeoutMs', 60_000),
  }
}
