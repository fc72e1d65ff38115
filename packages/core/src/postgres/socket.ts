import net from 'node:net'
import tls from 'node:tls'
import type { Target } from './options.ts'

/** The server was reached and has no TLS, where TLS is asked for. */
export class TlsRefusedError extends Error {}
/** Nobody answered in time. */
export class SocketTimeoutError extends Error {}

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/**
 * Opens a socket to the first endpoint that takes it, with TLS where the target asks for it, ready for the startup
 * message or a cancel request.
 */
export async function openSocket(target: Target, timeoutMs: number): Promise<net.Socket> {
  if (target.path !== undefined) return within(net.connect({ path: target.path }), timeoutMs, 'connect')
  let failure: unknown
  for (const { host, port } of target.endpoints) {
    try {
      const socket = await within(net.connect({ host, port }), timeoutMs, 'connect')
      socket.setNoDelay(true)
      return target.ssl === false ? socket : await secured(socket, host, target.ssl, timeoutMs)
    } catch (error) {
      failure = error
    }
  }
  throw failure
}

async function secured(
  socket: net.Socket,
  host: string,
  ssl: Exclude<Target['ssl'], false>,
  timeoutMs: number,
): Promise<net.Socket> {
  const answer = await firstByte(socket, timeoutMs)
  if (answer !== 'S') {
    if (ssl === 'prefer') return socket
    socket.destroy()
    throw new TlsRefusedError('the server has no TLS')
  }
  const verifies = ssl === true || ssl === 'verify-full'
  const secure = tls.connect({
    socket,
    ...(net.isIP(host) === 0 && { servername: host }),
    ...(typeof ssl === 'object' ? ssl : { rejectUnauthorized: verifies }),
  })
  return within(secure, timeoutMs, 'secureConnect')
}

function firstByte(socket: net.Socket, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle(() => reject(new SocketTimeoutError('no answer to the TLS request'))), timeoutMs)
    const settle = (how: () => void) => {
      clearTimeout(timer)
      socket.removeAllListeners('data').removeAllListeners('error').removeAllListeners('close')
      how()
    }
    // Exactly one byte is read: whatever came with it would belong to TLS.
    socket.once('data', (data) => settle(() => (socket.pause(), resolve(String.fromCharCode(data[0] ?? 0)))))
    socket.once('error', (error) => settle(() => reject(error)))
    socket.once('close', () => settle(() => reject(new Error('the server closed the connection'))))
    socket.write(SSL_REQUEST)
  })
}

function within<Socket extends net.Socket>(socket: Socket, timeoutMs: number, ready: 'connect' | 'secureConnect'): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => fail(new SocketTimeoutError(`no ${ready} within ${timeoutMs} ms`)), timeoutMs)
    const fail = (error: Error) => {
      clearTimeout(timer)
      socket.on('error', () => {}) // what comes after the first failure says nothing new
      socket.destroy()
      reject(error)
    }
    socket.once('error', fail)
    socket.once('close', () => fail(new Error('the server closed the connection')))
    socket.once(ready, () => {
      clearTimeout(timer)
      socket.removeAllListeners('error').removeAllListeners('close')
      resolve(socket)
    })
  })
}
