import type { Readable } from 'node:stream'
import type { ConcurrencyOptions, RouteRateLimitOptions } from '../../src/http/index.ts'
import type { Resource, Scopes, ScopeWith } from '../../src/index.ts'
import type { BoundDatabase } from '../../src/postgres/index.ts'
import type { schema } from './schema.ts'

type ContractResources = { db: Resource<BoundDatabase<typeof schema>> }
export type ContractScopes = Scopes<ContractResources>
export type ContractScope = ScopeWith<ContractResources>

/** A limit that every framework can be told: decided first of all, of the client's address or of a constant. */
export type ContractRateLimit = Omit<RouteRateLimitOptions<unknown>, 'stage' | 'limit' | 'key' | 'cost' | 'skip'> & {
  readonly limit: number
  readonly key?: () => string
}

/** A raw response, as far as both HTTP/1 and HTTP/2 have it. */
export interface RawReply {
  readonly destroyed?: boolean
  writeHead(status: number, headers?: Record<string, string>): unknown
  write(chunk: string): boolean
  end(chunk?: string): unknown
}

/** One request and its reply, in words that every framework can be put in. */
export interface Exchange {
  readonly scope: ContractScope
  readonly body: unknown
  readonly raw: RawReply
  /** The status of the reply that is to come. */
  status(code: number): void
  /** Replies from a callback: the handler itself returns nothing. */
  send(value: unknown): void
  /** Replies with a stream; the handler returns what this returns. */
  stream(source: Readable): unknown
  /** Tells the framework to leave the response alone. */
  takeOver(): RawReply
}

export interface ContractRoute {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly transaction?: boolean
  readonly timeoutMs?: number
  readonly onAbort?: 'cancel' | 'finish'
  readonly rateLimit?: ContractRateLimit | readonly ContractRateLimit[]
  readonly concurrency?: ConcurrencyOptions
  /** The framework's own time limit for handlers. */
  readonly handlerTimeoutMs?: number
  /** What it returns, or resolves to, is the reply, as JSON; undefined after `send`, `takeOver` or raw writing. */
  handle(exchange: Exchange): unknown
}

export interface ContractSettings {
  readonly scopes: ContractScopes
  readonly routes: readonly ContractRoute[]
  readonly http2?: boolean
  /** After how long without traffic the server cuts a connection. */
  readonly connectionTimeoutMs?: number
  readonly closeTimeoutMs?: number
  /** Whether there are `/health/live` and `/health/ready`. */
  readonly health?: boolean
}

export interface RunningApp {
  readonly port: number
  close(): Promise<void>
  /** A request without a network, where the framework has that. */
  inject?(request: { method: string; path: string }): Promise<{ status: number; body: string }>
}

/** What an adapter brings so that the contract can be run on it. */
export interface HttpDriver {
  readonly name: string
  readonly handlerTimeouts: boolean
  readonly http2: boolean
  /** Rate limits, concurrency and health endpoints. */
  readonly limits: boolean
  readonly inject: boolean
  /** Listens on a free port of 127.0.0.1. */
  start(settings: ContractSettings): Promise<RunningApp>
}
