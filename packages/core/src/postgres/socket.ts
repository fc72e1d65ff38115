import net from 'node:net'
import tls from 'node:tls'
import type { Endpoint, Target } from './options.ts'

/** The server was reached and has no TLS, where TLS is asked for. */
export class TlsRefusedError extends Error {}
/** Nobody answered in time. */
export class SocketTimeoutError extends Error {}

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/**
 * Opens a socket to the first endpoint that takes it, with TLS where the target asks for it, ready for the startup
 * message or a cancel request. Tells which server it is, for who has to reach the same one again.
 */
export async function openSocket(target: Target, timeoutMs: number): Promise<{ socket: net.Socket; server: Target }> {
  if (target.path !== undefined) {
    return { socket: await within(net.connect({ path: target.path }), timeoutMs, 'connect'), server: target }
  }
  const deadline = performance.now() + timeoutMs
  let untried = target.endpoints.length
  let failure: unknown
  for (const endpoint of target.endpoints) {
    // Each has its share of the time: one that does not answer must leave some for the others.
    const until = performance.now() + (deadline - performance.now()) / untried--
    try {
      return await openEndpoint(target, endpoint, () => Math.max(1, until - performance.now()))
    } catch (error) {
      failure = error
    }
  }
  throw failure
}

async function openEndpoint(
  target: Target,
  endpoint: Endpoint,
  leftMs: () => number,
): Promise<{ socket: net.Socket; server: Target }> {
  const { host, port, address } = endpoint
  const socket = await within(net.connect({ host: address ?? host, port }), leftMs(), 'connect')
  socket.setNoDelay(true)
  // A name may stand for several servers.
  const server: Target = { ...target, ssl: target.ssl, endpoints: [{ ...endpoint, address: socket.remoteAddress }] }
  return { socket: target.ssl === false ? socket : await secured(socket, host, target.ssl, leftMs), server }
}

async function secured(
  socket: net.Socket,
  host: string,
  ssl: Exclude<Target['ssl'], false>,
  leftMs: () => number,
): Promise<net.Socket> {
  const answer = await firstByte(socket, leftMs())
  if (answer !== 'S') {
    if (ssl === 'prefer') return socket.resume()
    socket.destroy()
    throw new TlsRefusedError('the server has no TLS')
  }
  const verifies = ssl === true || ssl === 'verify-full'
  const secure = tls.connect({
    socket,
    host, // whose certificate it must be; a name is sent as well, so that the server can choose one
    ...(net.isIP(host) === 0 && { servername: host }),
    ...(typeof ssl === 'object' ? ssl : { rejectUnauthorized: verifies }),
  })
  return within(secure, leftMs(), 'secureConnect')
}

function firstByte(socket: net.Socket, timeoutMs: number): Promise<string> {
  const answer = within(socket, timeoutMs, 'data', (data: Buffer) => {
    socket.pause()
    // More than the one byte could only come from somebody in between, ahead of the encryption.
    return data.length === 1 ? String.fromCharCode(data[0] ?? 0) : ''
  })
  socket.write(SSL_REQUEST)
  return answer
}

/** Waits for one event of a socket; when that does not come in time, or the socket fails, it is destroyed. */
function within<Socket extends net.Socket, Result = Socket>(
  socket: Socket,
  timeoutMs: number,
  event: 'connect' | 'secureConnect' | 'data',
  read: (data: Buffer) => Result = () => socket as unknown as Result,
): Promise<Result> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => fail(new SocketTimeoutError(`no ${event} within ${timeoutMs} ms`)), timeoutMs)
    const stopListening = () => {
      clearTimeout(timer)
      socket.off(event, ready).off('error', fail).off('close', closed)
      // What comes after says nothing new, but an error that nobody listens for would end the process.
      socket.on('error', () => {})
    }
    const fail = (error: Error) => {
      stopListening()
      socket.destroy()
      reject(error)
    }
    const closed = () => fail(new Error('the server closed the connection'))
    const ready = (data: Buffer) => {
      stopListening()
      resolve(read(data))
    }
    socket.once(event, ready).once('error', fail).once('close', closed)
  })
}
