import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

/** One connection as it passes by, and what can be done to it. */
export interface PassingConnection {
  holdAnswers(): void
  letAnswersThrough(): void
  /** Resets it on the client's side only; the server finishes what it was told. */
  cut(): void
}

/**
 * A relay to the database that shows the test what clients send, statement by statement, before it passes it on: for
 * faults at one exact place of the protocol.
 */
export async function wireTo(
  database: { url: string },
  onSent: (text: string, connection: PassingConnection) => void,
): Promise<{ url: string }> {
  const url = new URL(database.url)
  const target = { host: url.hostname, port: Number(url.port) }
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(target)
    for (const socket of [client, upstream]) sockets.add(socket.on('error', () => {}))
    const connection: PassingConnection = {
      holdAnswers: () => void upstream.pause(),
      letAnswersThrough: () => void upstream.resume(),
      cut: () => void client.resetAndDestroy(),
    }
    client.on('data', (chunk) => {
      onSent(chunk.toString('latin1'), connection)
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => client.write(chunk))
    upstream.on('close', () => client.destroy())
    client.on('close', () => upstream.end())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)
  return { url: url.href }
}
