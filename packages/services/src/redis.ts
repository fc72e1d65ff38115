import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { eventually } from './deadline.ts'
import { freePort } from './free-port.ts'
import { redisBinary } from './redis-binary.ts'
import { askRedis } from './redis-inquiry.ts'
import { ServerProcess } from './server-process.ts'
import { type Guard, guard } from './watchdog.ts'
import { workFolder } from './work-folder.ts'

export interface RedisOptions {
  /** Write every change to disk before it is acknowledged. Default: memory only, so a restart comes back empty. */
  aof?: boolean
  /** Default: a free one. */
  port?: number
  /** Where the data stays between runs. Default: a fresh temporary folder that `stop()` removes. */
  dataFolder?: string
  /** Install Redis without asking when it is missing. Default: REQSCOPE_INSTALL=1. */
  install?: boolean
  /** Start a server even when REDIS_URL is set. Default: only when `aof` needs one. */
  own?: boolean
  /** More settings of the server, as on its command line: `['--maxclients', '50']`. */
  settings?: readonly string[]
  /** Told in a line what happens. */
  log?: (line: string) => void
}

export interface RedisServer {
  readonly url: string
  /** True for the server of REDIS_URL, which is never stopped, restarted or killed. */
  readonly external: boolean
  readonly pid: number | undefined
  stop(): Promise<void>
  /** Stops it, unless it is down already, and starts it on the same port; what was in memory only is gone. */
  restart(): Promise<void>
  /** Sends the server a signal: SIGKILL is a crash, SIGSTOP one that hangs. */
  kill(signal: NodeJS.Signals): void
}

/** The server of REDIS_URL where that is set, else a Redis or Valkey that ends with this process. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const url = process.env.REDIS_URL
  if (url && !(options.own ?? options.aof)) return new ExternalRedis(url)
  const log = options.log ?? (() => {})
  const binary = await redisBinary({ install: options.install ?? process.env.REQSCOPE_INSTALL === '1', log })
  return LocalRedis.start(binary, options, log)
}

class ExternalRedis implements RedisServer {
  readonly external = true
  readonly pid = undefined
  readonly url: string

  constructor(url: string) {
    this.url = url
  }

  async stop(): Promise<void> {}

  async restart(): Promise<void> {
    throw new Error('The server of REDIS_URL cannot be restarted from here: start one with { own: true }.')
  }

  kill(): void {
    throw new Error('The server of REDIS_URL cannot be killed from here: start one with { own: true }.')
  }
}

class LocalRedis implements RedisServer {
  readonly external = false
  readonly #binary: string
  readonly #folder: string
  readonly #options: RedisOptions
  readonly #guard: Guard
  #port = 0
  #process: ServerProcess | undefined

  static async start(binary: string, options: RedisOptions, log: (line: string) => void): Promise<RedisServer> {
    const server = new LocalRedis(binary, options)
    await server.#launch(options.port)
    log(`Redis: ready on 127.0.0.1:${server.#port}`)
    return server
  }

  private constructor(binary: string, options: RedisOptions) {
    this.#binary = binary
    this.#options = options
    this.#folder = workFolder('redis', options.dataFolder, undefined)
    this.#guard = guard(this.#temporary ? this.#folder : undefined)
  }

  get #temporary(): boolean {
    return this.#options.dataFolder === undefined
  }

  get url(): string {
    return `redis://127.0.0.1:${this.#port}`
  }

  get pid(): number | undefined {
    return this.#process?.running ? this.#process.pid : undefined
  }

  async stop(): Promise<void> {
    await this.#process?.stop()
    if (this.#temporary) await rm(this.#folder, { recursive: true, force: true, maxRetries: 10 })
    this.#guard.release()
  }

  async restart(): Promise<void> {
    await this.#process?.stop()
    await this.#launch(this.#port)
  }

  kill(signal: NodeJS.Signals): void {
    this.#process?.signal(signal)
  }

  /** Without a port it tries others when the one it found was taken meanwhile; with one it waits for that. */
  async #launch(port: number | undefined): Promise<void> {
    await eventually(
      async () => {
        this.#port = port ?? (await freePort())
        await this.#attempt()
      },
      { everyMs: 100, retryable: (error) => /address already in use/i.test(String(error)) },
    )
  }

  async #attempt(): Promise<void> {
    const durability = this.#options.aof ? ['--appendonly', 'yes', '--appendfsync', 'always'] : ['--appendonly', 'no']
    const started = new ServerProcess({
      binary: this.#binary,
      args: [
        '--port',
        String(this.#port),
        '--bind',
        '127.0.0.1',
        '--dir',
        this.#folder,
        '--save',
        '',
        ...durability,
        ...(this.#options.settings ?? []),
      ],
      folder: this.#folder,
      logFile: join(this.#folder, 'server.log'),
      stopSignal: 'SIGTERM',
      guard: this.#guard,
    })
    this.#process = started
    try {
      await eventually(() => this.#checkReady(started.pid), { forMs: 60_000, retryable: () => started.running })
    } catch (cause) {
      await started.stop()
      const words = started.log.trim().split('\n').slice(-15).join('\n')
      throw new Error(`Redis did not start: it ${await started.exited}. Its last words:\n${words}`, { cause })
    }
  }

  /** A server of somebody else may answer on the port for a moment, while ours fails to bind it. */
  async #checkReady(pid: number | undefined): Promise<void> {
    const answer = await askRedis(this.#port, 'INFO')
    const facts = Object.fromEntries(answer.split('\r\n').map((line) => line.split(':') as [string, string]))
    if (facts.process_id !== String(pid)) throw new Error(`Another server answers on port ${this.#port}.`)
    if (facts.loading !== '0') throw new Error('Redis is still loading its data.')
  }
}
