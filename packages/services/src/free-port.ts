import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

// Below every system's range for outgoing connections: one of those can never take the port of a server that restarts.
const FIRST = 15_000
const LAST = 32_000

/** A port of 127.0.0.1 that was free a moment ago. Somebody else may take it first: whoever binds it must try again. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = randomInt(FIRST, LAST)
    if (await isFree(port)) return port
  }
  throw new Error(`Found no free port between ${FIRST} and ${LAST} on 127.0.0.1.`)
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
