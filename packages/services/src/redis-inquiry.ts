import { connect } from 'node:net'

/** Sends one command whose reply is a bulk string, over a connection of its own. */
export function askRedis(port: number, command: string): Promise<string> {
  return exchange(port, command, bulkString)
}

/** Sends one command whose reply is a line, and rejects with what Redis refuses it for. */
export async function tellRedis(port: number, command: string): Promise<string> {
  const reply = await exchange(port, command, (text) => /^[+:-](.*)\r\n/.exec(text)?.[0].trimEnd())
  if (reply.startsWith('-')) throw new Error(`Redis refused ${command}: ${reply.slice(1)}`)
  return reply.slice(1)
}

function exchange(port: number, command: string, read: (reply: string) => string | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' })
    let reply = ''
    socket.setEncoding('utf8').setTimeout(5_000)
    socket.on('connect', () => socket.write(`${command}\r\n`))
    socket.on('data', (chunk: string) => {
      reply += chunk
      const body = read(reply)
      if (body === undefined) return
      socket.destroy()
      resolve(body)
    })
    socket.on('timeout', () => socket.destroy(new Error('Redis does not answer.')))
    socket.on('error', reject)
    socket.on('close', () => reject(new Error(`Redis answered ${JSON.stringify(reply)}`)))
  })
}

function bulkString(reply: string): string | undefined {
  const header = /^\$(\d+)\r\n/.exec(reply)
  if (!header) return undefined
  const start = header[0].length
  const length = Number(header[1])
  return reply.length >= start + length + 2 ? reply.slice(start, start + length) : undefined
}
