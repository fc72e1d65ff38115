import { once } from 'node:events'
import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** A client that speaks HTTP/1.1 to one port, each request on a connection of its own. */
export class Client {
  readonly port: number

  constructor(port: number) {
    this.port = port
  }

  async get(path: string): Promise<Answer> {
    return answered(this.begin('GET', path))
  }

  async post(path: string, body: unknown = {}): Promise<Answer> {
    return answered(this.begin('POST', path, body))
  }

  /** A request that the test goes on with: it may be destroyed at any time. */
  begin(method: string, path: string, body?: unknown): ClientRequest {
    const outgoing = request({ host: '127.0.0.1', port: this.port, method, path, agent: false })
    outgoing.on('error', () => {}) // a destroyed request says so
    if (body === undefined) outgoing.end()
    else outgoing.setHeader('content-type', 'application/json').end(JSON.stringify(body))
    return outgoing
  }

  /** A POST whose body is announced and never sent to its end. */
  beginUpload(path: string): ClientRequest {
    const outgoing = request({ host: '127.0.0.1', port: this.port, method: 'POST', path, agent: false })
    outgoing.on('error', () => {})
    outgoing.setHeader('content-type', 'application/json').setHeader('content-length', '1000000')
    outgoing.write(`{"part":"${'x'.repeat(10_000)}`)
    return outgoing
  }

  /** The response's beginning: its head has arrived and its body is being read. */
  async reading(outgoing: ClientRequest): Promise<IncomingMessage> {
    const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
    incoming.on('error', () => {})
    incoming.resume()
    await once(incoming, 'data')
    return incoming
  }

  /** A bare connection, for what a client library would not do. */
  async socket(): Promise<Socket> {
    const socket = connect(this.port, '127.0.0.1')
    socket.on('error', () => {})
    await once(socket, 'connect')
    return socket
  }
}

export async function answered(outgoing: ClientRequest): Promise<Answer> {
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  return { status: incoming.statusCode ?? 0, headers: incoming.headers, body: await text(incoming) }
}

/** Whether the answer broke off instead of ending. */
export async function brokeOff(outgoing: ClientRequest): Promise<boolean> {
  return answered(outgoing).then(
    () => false,
    () => true,
  )
}
