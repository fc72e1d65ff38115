import type { Http2Session } from 'node:http2'
import type { Socket } from 'node:net'

const CHECK_EVERY_MS = 100

/** What is needed of the server; HTTP/1 servers have connections, HTTP/2 servers have sessions. */
export interface ClosableServer {
  on(event: 'connection', listener: (socket: Socket) => void): unknown
  on(event: 'session', listener: (session: Http2Session) => void): unknown
  closeIdleConnections?(): void
  closeAllConnections?(): void
}

/** Closes the connections of a server that is being closed: idle ones soon, the others when the time is up. */
export class ConnectionCloser {
  readonly #server: ClosableServer
  readonly #sockets = new Set<Socket>()
  readonly #sessions = new Set<Http2Session>()
  #closing: NodeJS.Timeout[] = []

  constructor(server: ClosableServer) {
    this.#server = server
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    this.#server.on('session', (session) => {
      this.#sessions.add(session)
      session.once('close', () => this.#sessions.delete(session))
    })
  }

  /** A server that is closed still waits for keep-alive connections, for more than a minute, so they are closed as they get idle. */
  start(timeoutMs: number): void {
    const closeIdle = () => {
      this.#server.closeIdleConnections?.()
      // One that was opened ahead of need is not idle to Node: it waits for a first request.
      for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
      for (const session of this.#sessions) if (!session.closed) session.close()
    }
    const closeAll = () => {
      this.#server.closeAllConnections?.()
      // An upgraded one is no connection to Node any more, but still keeps the server from closing.
      for (const socket of this.#sockets) socket.destroy()
      for (const session of this.#sessions) session.destroy()
    }
    closeIdle()
    this.#closing = [setInterval(closeIdle, CHECK_EVERY_MS), setTimeout(closeAll, timeoutMs)]
    for (const timer of this.#closing) timer.unref()
  }

  stop(): void {
    for (const timer of this.#closing) clearTimeout(timer)
  }
}
