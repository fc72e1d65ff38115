import { realpathSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { eventually } from './deadline.ts'
import { freePort } from './free-port.ts'
import { type PostgresBinaries, postgresBinaries, postgresOwner } from './postgres-binaries.ts'
import { createCluster, PASSWORD, prepareTls, SUPERUSER, type Tls } from './postgres-cluster.ts'
import { connect } from './postgres-database.ts'
import { ServerProcess } from './server-process.ts'
import { type Guard, guard } from './watchdog.ts'
import { type Owner, workFolder } from './work-folder.ts'

export interface PostgresOptions {
  /** Where the data stays between runs. Default: a fresh temporary folder that `stop()` removes. */
  dataFolder?: string
  /** Default: a free one. */
  port?: number
  /** Server settings (`postgresql.conf`). By default fsync is off: data survives a crash of Postgres, not of the machine. */
  settings?: Record<string, string>
  /** Serve TLS with a self-signed certificate. */
  tls?: Tls
  /** Start an embedded server even when DATABASE_URL is set. Default: only when `settings` or `tls` need one. */
  own?: boolean
  /** Told in a line what happens. */
  log?: (line: string) => void
}

export interface PostgresServer {
  /** A superuser's URL to the maintenance database. */
  readonly url: string
  /** True for the server of DATABASE_URL, which is never stopped, restarted or killed. */
  readonly external: boolean
  readonly pid: number | undefined
  /** Where the embedded server keeps its data and its `server.log`. */
  readonly dataFolder?: string
  /** PEM; with `tls` only. */
  readonly certificate?: string
  stop(): Promise<void>
  /** Stops it, unless it is down already, and starts it on the same port with the same data. */
  restart(): Promise<void>
  /** Sends a signal to the postmaster: SIGKILL is a crash, after which `restart()` recovers. */
  kill(signal: NodeJS.Signals): void
}

const TEST_SETTINGS: Record<string, string> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '300',
  fsync: 'off',
  full_page_writes: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  max_prepared_transactions: '10',
}

/** The server of DATABASE_URL where that is set, else an embedded PostgreSQL that ends with this process. */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const own = options.own ?? (options.settings !== undefined || options.tls !== undefined)
  const url = process.env.DATABASE_URL
  if (url && !own) return new ExternalPostgres(url)
  return EmbeddedPostgres.start(options)
}

class ExternalPostgres implements PostgresServer {
  readonly external = true
  readonly pid = undefined
  readonly url: string

  constructor(url: string) {
    this.url = url
  }

  async stop(): Promise<void> {}

  async restart(): Promise<void> {
    throw new Error('The server of DATABASE_URL cannot be restarted from here: start one with { own: true }.')
  }

  kill(): void {
    throw new Error('The server of DATABASE_URL cannot be killed from here: start one with { own: true }.')
  }
}

interface Installation {
  owner: Owner | undefined
  binaries: PostgresBinaries
  folder: string
  data: string
  settings: Record<string, string>
  temporary: boolean
  guard: Guard
}

class EmbeddedPostgres implements PostgresServer {
  readonly external = false
  readonly #installation: Installation
  readonly #fixedPort: number | undefined
  #port = 0
  #process: ServerProcess | undefined
  declare readonly certificate?: string

  static async start({ dataFolder, port, settings, tls, log = () => {} }: PostgresOptions): Promise<PostgresServer> {
    const owner = postgresOwner()
    const binaries = postgresBinaries(owner)
    const folder = workFolder('postgres', dataFolder, owner)
    const temporary = dataFolder === undefined
    const guarded = guard(temporary ? folder : undefined)
    log(`Postgres: ${temporary ? 'a fresh server' : `data in ${folder}`}`)
    const data = await createCluster(folder, binaries, owner)
    const secured = tls ? await prepareTls(folder, tls, owner) : undefined
    const all = { ...TEST_SETTINGS, ...secured?.settings, ...settings }
    const server = new EmbeddedPostgres(
      { owner, binaries, folder, data, settings: all, temporary, guard: guarded },
      port,
      secured?.certificate,
    )
    await server.#launch(port)
    log(`Postgres: ready on 127.0.0.1:${server.#port}`)
    return server
  }

  private constructor(installation: Installation, port: number | undefined, certificate: string | undefined) {
    this.#installation = installation
    this.#fixedPort = port
    if (certificate !== undefined) this.certificate = certificate
  }

  get url(): string {
    return `postgres://${SUPERUSER}:${PASSWORD}@127.0.0.1:${this.#port}/postgres`
  }

  get pid(): number | undefined {
    return this.#process?.running ? this.#process.pid : undefined
  }

  get dataFolder(): string {
    return this.#installation.folder
  }

  async stop(): Promise<void> {
    await this.#process?.stop()
    const { temporary, folder, guard } = this.#installation
    if (temporary) await rm(folder, { recursive: true, force: true, maxRetries: 10 })
    guard.release()
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
      { everyMs: 100, retryable: (error) => error instanceof PassingTrouble },
    )
  }

  async #attempt(): Promise<void> {
    const { owner, binaries, folder, data, settings, guard } = this.#installation
    const options = Object.entries({ ...settings, port: String(this.#port) }).flatMap(([key, value]) => [
      '-c',
      `${key}=${value}`,
    ])
    const started = new ServerProcess({
      binary: binaries.postgres,
      args: ['-D', data, ...options],
      folder: data,
      logFile: join(folder, 'server.log'),
      stopSignal: 'SIGINT',
      runAs: owner,
      guard,
    })
    this.#process = started
    try {
      await eventually(() => this.#checkReady(data), { forMs: 60_000, retryable: () => started.running })
    } catch (cause) {
      await started.stop()
      throw startFailure(await started.exited, started.log, cause, this.#fixedPort)
    }
  }

  /** A server of somebody else may answer on the port for a moment, while ours fails to bind it. */
  async #checkReady(data: string): Promise<void> {
    const sql = connect(this.url)
    try {
      const [row] = await sql`select current_setting('data_directory') as folder`
      if (realpathSync(row?.folder) !== realpathSync(data))
        throw new Error(`Another server answers on port ${this.#port}.`)
    } finally {
      await sql.end({ timeout: 0 })
    }
  }
}

/** Another try may succeed: a port that was taken, or the processes of a killed server that are about to end. */
class PassingTrouble extends Error {}

const PASSING =
  /address already in use|could not bind|pre-existing shared memory|lock file "postmaster.pid" already exists/i

function startFailure(exit: string, log: string, cause: unknown, fixedPort: number | undefined): Error {
  const where = fixedPort === undefined ? '' : ` on port ${fixedPort}`
  const message = `Postgres did not start${where}: it ${exit}. Its last words:\n${log.trim().split('\n').slice(-15).join('\n')}`
  return new (PASSING.test(log) ? PassingTrouble : Error)(message, { cause })
}
