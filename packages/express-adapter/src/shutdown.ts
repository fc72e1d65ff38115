import type { Server } from 'node:http'
import { InvalidOptionError, type Scopes } from '@reqscope/core'
import { ConnectionCloser, OptionReader } from '@reqscope/core/http'
import { orderMistake, scopesIn } from './order.ts'

export interface ShutdownOptions {
  /** The runtime to close. Default: that of the application which the server serves. */
  // biome-ignore lint/suspicious/noExplicitAny: a runtime with whatever resources
  readonly scopes?: Scopes<any>
  /** How long draining and closing may take, in milliseconds. Default 10,000. */
  readonly closeTimeoutMs?: number
}

/**
 * Prepares a server for being closed, and returns what closes it: no more work is taken, idle connections are closed, open scopes may
 * finish, and then the resources are closed. No signal handlers are installed; give it to whoever has them:
 * `closeWithGrace(onShutdown(app.listen(3000)))`. Call it before there are connections.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 * @throws RegistrationError when the application can be seen to use our middleware in the wrong order.
 */
export function onShutdown(server: Server, options: ShutdownOptions = {}): () => Promise<void> {
  const read = new OptionReader('onShutdown', options).onlyKnown(['scopes', 'closeTimeoutMs'])
  const closeTimeoutMs = read.milliseconds('closeTimeoutMs', 10_000)
  const apps = server.listeners('request')
  for (const app of apps) {
    const mistake = orderMistake(app)
    if (mistake !== undefined) throw mistake
  }
  const scopes = (options.scopes as Scopes | undefined) ?? apps.map(scopesIn).find((found) => found !== undefined)
  if (scopes === undefined || typeof scopes.close !== 'function') {
    throw new InvalidOptionError(
      'onShutdown.scopes',
      scopes,
      'given where the server does not serve an application that uses reqscope()',
    )
  }
  const connections = new ConnectionCloser(server)
  let closed: Promise<void> | undefined
  return function shutDown() {
    closed ??= close(server, scopes, connections, closeTimeoutMs)
    return closed
  }
}

async function close(server: Server, scopes: Scopes, connections: ConnectionCloser, timeoutMs: number): Promise<void> {
  const unbound = new Promise<void>((resolve) => void server.close(() => resolve())) // fails when it never listened: as well
  connections.start(timeoutMs)
  await Promise.all([scopes.close({ timeoutMs }), unbound])
  connections.stop()
}
