import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { ChaosFlow } from './chaos-flow.ts'
import { freePort } from './free-port.ts'

interface Connection {
  client: Socket
  upstream: Socket
  flows: ChaosFlow[]
}

/** A plain TCP proxy that stands between a client and its server and plays the bad network. */
export class ChaosProxy {
  readonly #target: { host: string; port: number }
  readonly #connections = new Set<Connection>()
  readonly #weather = { blackHole: false, delayMs: 0 }
  readonly #server: Server
  #port = 0

  /** @param target `host:port` or a URL with a port */
  constructor(target: string) {
    this.#target = address(target)
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client))
  }

  get port(): number {
    return this.#port
  }

  /** Connections that are open on the client's side. */
  get connections(): number {
    return [...this.#connections].filter(({ client }) => !client.destroyed).length
  }

  /** The same URL, but through the proxy. */
  url(originalUrl: string): string {
    const url = new URL(originalUrl)
    url.hostname = '127.0.0.1'
    url.port = String(this.#port)
    return url.href
  }

  /** From now on every byte arrives `ms` later, in each direction. */
  delay(ms: number): void {
    this.#weather.delayMs = ms
  }

  /** Resets all connections there are, on both sides; new ones are served. */
  cut(): void {
    for (const { client, upstream, flows } of this.#connections) {
      for (const flow of flows) flow.drop()
      client.resetAndDestroy()
      upstream.resetAndDestroy()
    }
  }

  /** Connections stay open and are accepted, but nothing gets through until `resume()`, not even their end. */
  blackHole(): void {
    this.#weather.blackHole = true
  }

  /** New connections are refused, as by a server that is down; open ones stay (see `cut`). */
  refuse(): void {
    this.#server.close()
  }

  /** A good network again: no delay, new connections accepted, and what a black hole held back is forwarded. */
  async resume(): Promise<void> {
    this.#weather.blackHole = false
    this.#weather.delayMs = 0
    for (const { flows } of this.#connections) for (const flow of flows) flow.flush()
    if (!this.#server.listening) await this.listen(this.#port)
  }

  async close(): Promise<void> {
    this.cut()
    if (this.#server.listening) this.#server.close()
  }

  /** @internal */
  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
    this.#port = (this.#server.address() as AddressInfo).port
  }

  #accept(client: Socket): void {
    const upstream = connect({ ...this.#target, allowHalfOpen: true, noDelay: true })
    const flows = [new ChaosFlow(client, upstream, this.#weather), new ChaosFlow(upstream, client, this.#weather)]
    const connection = { client, upstream, flows }
    this.#connections.add(connection)
    for (const socket of [client, upstream]) {
      // 'close' follows and tells the other side.
      socket.on('error', () => {})
      socket.on('close', () => {
        // Until both sides are closed, a black hole may hold back what one has to say to the other.
        if (client.destroyed && upstream.destroyed) this.#connections.delete(connection)
      })
    }
  }
}

/** Starts a proxy to `target`, a `host:port` or a URL, on a free port of 127.0.0.1. */
export async function startChaosProxy({ target }: { target: string }): Promise<ChaosProxy> {
  const proxy = new ChaosProxy(target)
  await proxy.listen(await freePort())
  return proxy
}

function address(target: string): { host: string; port: number } {
  const { hostname, port } = new URL(target.includes('://') ? target : `tcp://${target}`)
  if (!port) throw new Error(`The proxy's target needs a port: ${hostname}`)
  return { host: hostname, port: Number(port) }
}
