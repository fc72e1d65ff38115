import { writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { eventually } from './deadline.ts'
import { freePort } from './free-port.ts'
import { type RedisServer, startRedis } from './redis.ts'
import { redisBinary } from './redis-binary.ts'
import { askRedis } from './redis-inquiry.ts'
import { ServerProcess } from './server-process.ts'
import { type Guard, guard } from './watchdog.ts'
import { workFolder } from './work-folder.ts'

/** What the sentinels call the master. */
const NAME = 'main'

export interface RedisSentinels {
  readonly name: string
  /** As ioredis wants them. */
  readonly addresses: readonly { host: string; port: number }[]
  /** The master at first, and its replica. */
  readonly servers: readonly [RedisServer, RedisServer]
  stop(): Promise<void>
}

export interface RedisSentinelsOptions {
  /** How many there are. Default 3, of which two have to agree. */
  sentinels?: number
  /** Told in a line what happens. */
  log?: (line: string) => void
}

/** A master, a replica, and sentinels that make the replica the master when that is gone: local processes that end with this one. */
export async function startRedisSentinels({
  sentinels = 3,
  log = () => {},
}: RedisSentinelsOptions = {}): Promise<RedisSentinels> {
  const atOnce = ['--repl-diskless-sync-delay', '0']
  const master = await startRedis({ own: true, settings: atOnce })
  const replica = await startRedis({
    own: true,
    settings: [...atOnce, '--replicaof', '127.0.0.1', String(portOf(master))],
  })
  const binary = await redisBinary({ install: process.env.REQSCOPE_INSTALL === '1', log })
  const watching: Sentinel[] = []
  const stop = async () => {
    await Promise.all(watching.map((each) => each.stop()))
    await Promise.all([replica.stop(), master.stop()])
  }
  try {
    await eventually(() => checkSays(portOf(replica), 'INFO replication', 'master_link_status:up'), { forMs: 30_000 })
    const quorum = Math.floor(sentinels / 2) + 1
    for (let count = 0; count < sentinels; count++)
      watching.push(new Sentinel(binary, await freePort(), master, quorum))
    const all = `slaves=1,sentinels=${sentinels}`
    for (const sentinel of watching) await sentinel.until(all)
  } catch (cause) {
    await stop()
    throw cause
  }
  const addresses = watching.map(({ port }) => ({ host: '127.0.0.1', port }))
  log(`Redis Sentinel: ready on ${addresses.map(({ port }) => port).join(', ')}`)
  return { name: NAME, addresses, servers: [master, replica], stop }
}

class Sentinel {
  readonly port: number
  readonly #process: ServerProcess
  readonly #folder: string
  readonly #guard: Guard

  constructor(binary: string, port: number, master: RedisServer, quorum: number) {
    this.port = port
    this.#folder = workFolder('redis-sentinel', undefined, undefined)
    this.#guard = guard(this.#folder)
    // It writes what it learns into the file of its settings.
    const settings = join(this.#folder, 'sentinel.conf')
    writeFileSync(
      settings,
      `port ${port}
bind 127.0.0.1
dir ${this.#folder}
sentinel monitor ${NAME} 127.0.0.1 ${portOf(master)} ${quorum}
sentinel down-after-milliseconds ${NAME} 500
sentinel failover-timeout ${NAME} 5000
`,
    )
    this.#process = new ServerProcess({
      binary,
      args: [settings, '--sentinel'],
      folder: this.#folder,
      logFile: join(this.#folder, 'server.log'),
      stopSignal: 'SIGTERM',
      guard: this.#guard,
    })
  }

  /** Resolves once it says so. */
  async until(fact: string): Promise<void> {
    await eventually(() => checkSays(this.port, 'INFO sentinel', fact), {
      forMs: 30_000,
      everyMs: 50,
      retryable: () => this.#process.running,
    })
  }

  async stop(): Promise<void> {
    await this.#process.stop()
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 10 })
    this.#guard.release()
  }
}

async function checkSays(port: number, question: string, expected: string): Promise<void> {
  const answer = await askRedis(port, question)
  if (!answer.includes(expected)) throw new Error(`No ${expected} on port ${port}: ${answer}`)
}

function portOf(server: RedisServer): number {
  return Number(new URL(server.url).port)
}
