import type { FastifyInstance } from 'fastify'
import { RegistrationError } from './registration-error.ts'

/** The names of the hooks that every route with scopes has: the first from the plugin, the second from its onRoute. */
export interface HookNames {
  readonly opens: string
  readonly seen: string
}

/**
 * Refuses to start when there are routes that get scopes but were declared before the plugin was there: their config
 * was not checked and their handlers are not followed.
 */
export function refuseEarlierRoutes(app: FastifyInstance, hooks: HookNames): void {
  if (!/\((?:[A-Z-]+(?:, )?)+\)/.test(app.printRoutes({ commonPrefix: false }))) return // no routes yet
  app.addHook('onReady', function refuseEarlierRoutes(done) {
    const early = routesOf(app.printRoutes({ commonPrefix: false, includeMeta: ['onRequest', 'onError'] }))
    const faulty = early.filter(({ meta }) => count(meta, hooks.opens) > 0 && count(meta, hooks.seen) === 0)
    const twice = early.filter(({ meta }) => count(meta, hooks.opens) > 1)
    done(tooEarly(faulty) ?? tooOften(twice))
  })
}

interface PrintedRoute {
  readonly route: string
  meta: string
}

// Each route is a line that ends in its methods, followed by lines of what is known of it: `• (onRequest) ["name()"]`.
function routesOf(printed: string): PrintedRoute[] {
  const routes: PrintedRoute[] = []
  const path: { depth: number; segment: string }[] = []
  for (const line of printed.split('\n')) {
    const text = line.replace(/^[\s│├└─]*/, '')
    if (text.startsWith('• ')) {
      const last = routes.at(-1)
      if (last !== undefined) last.meta += text
      continue
    }
    if (text === '') continue
    const depth = line.length - text.length
    while ((path.at(-1)?.depth ?? -1) >= depth) path.pop()
    const [, segment = text, methods] = /^(.*?)(?: \(([A-Z, -]+)\).*)?$/.exec(text) ?? []
    path.push({ depth, segment })
    if (methods !== undefined) {
      routes.push({
        route: `${methods} ${path
          .map((each) => each.segment)
          .join('')
          .replaceAll('//', '/')}`,
        meta: '',
      })
    }
  }
  return routes
}

const count = (meta: string, hook: string): number => meta.split(`${hook}()`).length - 1

function tooEarly(routes: readonly PrintedRoute[]): Error | undefined {
  if (routes.length === 0) return undefined
  return new RegistrationError(
    `Declared before @reqscope/fastify-plugin was registered: ${routes.map(({ route }) => route).join('; ')}. ` +
      'Write `await app.register(reqscope, …)` before the routes (with the await, or the routes in plugins of their own).',
  )
}

function tooOften(routes: readonly PrintedRoute[]): Error | undefined {
  if (routes.length === 0) return undefined
  return new RegistrationError(
    `@reqscope/fastify-plugin is registered twice for ${routes.map(({ route }) => route).join('; ')}. ` +
      'Register it once, on the outermost instance whose routes need scopes.',
  )
}
