import { RegistrationError } from '@reqscope/core'
import type { FastifyInstance } from 'fastify'

/** The names of the hooks that every route with scopes has: the first from the plugin, the second from its onRoute. */
export interface HookNames {
  readonly opens: string
  readonly seen: string
}

/**
 * Refuses to start when there are routes that get scopes but were declared before the plugin was there: their config
 * was not checked and their handlers are not followed.
 *
 * Fastify tells of them only in what it prints for people, so that is not trusted: what can't be read in it, or a route
 * declared since that is not found in it, refuses the start too.
 */
export function refuseEarlierRoutes(app: FastifyInstance, hooks: HookNames): void {
  if (routesOf(app.printRoutes({ commonPrefix: false })).length === 0) return
  let declaredSince = false
  app.addHook('onRoute', function noteLaterRoute() {
    declaredSince = true
  })
  app.addHook('onReady', function refuseEarlierRoutes(done) {
    const printed = app.printRoutes({ commonPrefix: false, includeMeta: ['onRequest', 'onError'] })
    done(refusal(printed, hooks, declaredSince))
  })
}

function refusal(printed: string, hooks: HookNames, declaredSince: boolean): Error | undefined {
  let routes: PrintedRoute[]
  try {
    routes = routesOf(printed)
  } catch (error) {
    return error as Error
  }
  if (declaredSince && !routes.some(({ meta }) => count(meta, hooks.opens) > 0 && count(meta, hooks.seen) > 0)) {
    return notUnderstood('no route of the plugin is in them')
  }
  const early = routes.filter(({ meta }) => count(meta, hooks.opens) > 0 && count(meta, hooks.seen) === 0)
  const twice = routes.filter(({ meta }) => count(meta, hooks.opens) > 1)
  return tooEarly(early) ?? tooOften(twice)
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
      if (last === undefined) throw notUnderstood(line)
      last.meta += text
      continue
    }
    if (text === '' || text === '(empty tree)') continue
    const depth = line.length - text.length
    while ((path.at(-1)?.depth ?? -1) >= depth) path.pop()
    const [, segment, methods] = /^(.*?) \(([A-Z][A-Z0-9_, -]*)\)/.exec(text) ?? []
    if (segment === undefined) throw notUnderstood(line)
    path.push({ depth, segment })
    const url = path.map((each) => each.segment).join('')
    routes.push({ route: `${methods} ${url.replaceAll('//', '/')}`, meta: '' })
  }
  return routes
}

const count = (meta: string, hook: string): number => meta.split(`${hook}()`).length - 1

function notUnderstood(what: string): RegistrationError {
  return new RegistrationError(
    '@reqscope/fastify-plugin can not read the routes that this Fastify prints, so it can not tell whether some were ' +
      `declared before it: ${what}. Register it before all routes, and report the version of Fastify.`,
  )
}

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
