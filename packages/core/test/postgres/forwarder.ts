import { once } from 'node:events'
import net from 'node:net'
import { onTestFinished } from 'vitest'

/** Forwards connections to the server of a URL, from an address of its own; those that `accepts` refuses are left without any answer. */
export async function forwarderTo(
  url: string,
  { host = '127.0.0.1', accepts = () => true }: { host?: string; accepts?: (count: number) => boolean } = {},
): Promise<string> {
  const target = new URL(url)
  const sockets: net.Socket[] = []
  let count = 0
  const server = net.createServer((socket) => {
    sockets.push(socket.on('error', () => {}))
    if (!accepts(++count)) return
    const upstream = net.connect(Number(target.port), target.hostname).on('error', () => {})
    sockets.push(upstream)
    socket.pipe(upstream).pipe(socket)
  })
  server.listen(0, host)
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as net.AddressInfo
  return Object.assign(new URL(url), { hostname: host, port: String(port) }).href
}
