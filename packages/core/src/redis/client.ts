import { Cluster, Redis } from 'ioredis'
import type { RedisConfig } from './options.ts'

/** One of ioredis', to one server or to a cluster. */
export type Client = Redis | Cluster

const MAX_RECONNECT_DELAY_MS = 1_000

/** The client that the options ask for, not connected yet, or the one that was given. */
export function clientOf(config: RedisConfig): Client {
  const { source } = config
  if (source.tag === 'client') return source.client
  const own = {
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: null,
    retryStrategy: reconnectDelayMs,
  }
  if (source.tag === 'url') return new Redis(source.url, { ...source.connection, ...own })
  if (source.tag === 'sentinels') return new Redis({ ...source.connection, ...own })
  return new Cluster(source.nodes, {
    ...source.options,
    lazyConnect: true,
    clusterRetryStrategy: reconnectDelayMs,
    // A node that is lost must not have done twice what it was asked.
    retryDelayOnFailover: 0,
    redisOptions: { ...source.connection },
  })
}

function reconnectDelayMs(attempt: number): number {
  return Math.min(2 ** (attempt - 1) * 25, MAX_RECONNECT_DELAY_MS) * (0.5 + Math.random() / 2)
}

/** Whether it leaves what was under way when its connection was lost to whoever asked. */
export function neverResends(client: Client): boolean {
  return !client.isCluster && (client as Redis).options.autoResendUnfulfilledCommands === false
}

/**
 * Resolves when the client is connected; rejects when the attempt that is under way, or the next one, fails.
 *
 * @param mayConnect whether one that has ended is to begin anew.
 * @param cause what ioredis said last of its connection.
 */
export function becomeReady(client: Client, mayConnect: boolean, cause: () => unknown): Promise<void> {
  // The end of the one before is no failure of the next.
  let closing = client.status === 'ready'
  return new Promise((resolve, reject) => {
    const settle = (error?: unknown) => {
      client.off('ready', succeed)
      client.off('close', failUnlessClosing)
      client.off('end', fail)
      if (error === undefined) resolve()
      else reject(error)
    }
    const succeed = () => settle()
    const fail = () => settle(cause() ?? new Error('Connection is closed.'))
    const failUnlessClosing = () => {
      if (!closing) fail()
      closing = false
    }
    client.on('ready', succeed)
    client.on('close', failUnlessClosing)
    client.on('end', fail)
    if (client.status === 'wait' || (client.status === 'end' && mayConnect)) client.connect().catch(settle)
    else if (client.status === 'end') fail()
  })
}
