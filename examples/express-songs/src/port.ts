import { createServer } from 'node:net'

/** The port of 127.0.0.1 if nobody listens on it, else 0, which is any free one. */
export function preferredPort(port: number): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(0))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(port)))
  })
}
