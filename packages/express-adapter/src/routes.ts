import type { Next } from '@reqscope/core/http'
import type { Request, Response } from 'express'
import { lifeOf, type RequestLife, scopeOf } from './request-life.ts'

type Handle = (request: Request, response: Response, next: Next) => unknown

/** What is needed of Express' layers and routes, in 4 and 5 alike. */
interface Layer {
  handle: Handle & { [followed]?: Handle }
  /** In 5 only, where it waits for promises and passes on what they reject with. */
  readonly handleRequest?: unknown
}
interface Route {
  readonly path: unknown
  readonly stack: Layer[]
  [followed]?: number
}

const followed = Symbol('reqscope.followed')

/**
 * Makes the requests of an application tell their scope and their route. Express puts the route it has found at `req.route`, just
 * before it calls the handlers: the only moment at which an adapter hears of it.
 *
 * @param prototype of the application's requests; Express has one for each application, meant for such members.
 */
export function extendRequests(prototype: object): void {
  if (Object.hasOwn(prototype, 'scope')) return
  Object.defineProperties(prototype, {
    scope: {
      configurable: true,
      enumerable: false,
      get(this: Request) {
        return scopeOf(this)
      },
    },
    route: {
      configurable: true,
      enumerable: true,
      get(this: Request) {
        return lifeOf(this)?.route
      },
      set(this: Request, found: Route) {
        const life = lifeOf(this)
        // A request that reqscope() has not seen has its route as Express gives it.
        if (life === undefined) Object.defineProperty(this, 'route', { value: found, ...PLAIN })
        else if (life.route !== found) noteRoute(this, life, found)
      },
    },
  })
}

const PLAIN = { configurable: true, enumerable: true, writable: true }

function noteRoute(request: Request, life: RequestLife, found: Route | undefined): void {
  life.route = found
  if (found === undefined || !Array.isArray(found.stack)) return
  life.routed(`${request.method} ${request.baseUrl}${pathOf(found.path, request.baseUrl)}`)
  if (found[followed] !== found.stack.length) follow(found)
}

/** Has every handler of a route called in its request's scope, and followed until it settles. Express counts parameters. */
function follow(found: Route): void {
  for (const layer of found.stack) {
    const handle = layer.handle
    if (handle.length > 3 || handle[followed]) continue
    const framework = { forwardsRejections: layer.handleRequest !== undefined }
    const handleInScope: Layer['handle'] = (request, response, next) => {
      const life = lifeOf(request)
      return life === undefined
        ? handle(request, response, next)
        : life.handle(handle, request, response, next, framework)
    }
    handleInScope[followed] = handle
    layer.handle = handleInScope
  }
  found[followed] = found.stack.length
}

/** What the application has given, whether it is followed or not. */
export function givenAs(handle: object): object {
  return (handle as Layer['handle'])[followed] ?? handle
}

function pathOf(path: unknown, mountedAt: string): string {
  if (path === '/') return mountedAt === '' ? '/' : ''
  return Array.isArray(path) ? path.map((each) => pathOf(each, mountedAt)).join('|') : String(path)
}
