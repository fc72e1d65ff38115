import type { Target } from './options.ts'
import { openSocket } from './socket.ts'

/** What a backend is known by, as the server told when the connection started. */
export interface Backend {
  readonly pid: number
  readonly secret: number
}

const CANCEL_REQUEST_CODE = 80877102

/**
 * Asks the server to cancel what a backend runs, and resolves when the server has closed the cancel connection: by then
 * the signal is out, so nothing that is sent later can be hit. It names a backend, not a statement: whose statement runs
 * there, and that no other one follows before this has resolved, is for the caller to know.
 *
 * @see https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
 */
export async function requestCancel(target: Target, backend: Backend, timeoutMs: number): Promise<void> {
  const message = Buffer.alloc(16)
  message.writeInt32BE(16, 0)
  message.writeInt32BE(CANCEL_REQUEST_CODE, 4)
  message.writeUInt32BE(backend.pid, 8)
  message.writeUInt32BE(backend.secret, 12)
  const { socket } = await openSocket(target, timeoutMs)
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the server did not take the cancel request within ${timeoutMs} ms`))
    }, timeoutMs)
    socket.once('close', () => {
      clearTimeout(timer)
      resolve()
    })
    socket.on('error', () => {}) // a reset after the request was taken is the server's way to close it
    socket.resume()
    socket.write(message)
  })
}
