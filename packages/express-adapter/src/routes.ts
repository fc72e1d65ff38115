import type { Next } from '@reqscope/core/http'
import type { Request, Response } from 'express'
import { lifeOf, scopeOf } from './request-life.ts'

type Handle = (request: Request, response: Response, next: Next) => unknown

/** What is needed of Express' layers and routes, in 4 and 5 alike. */
interface Layer {
  handle: Handle & { [followed]?: true }
}
interface Route {
  readonly path: unknown
  readonly stack: Layer[]
  [followed]?: number
}

const followed = Symbol('reqscope.followed')
const route = Symbol('reqscope.route')
type RoutedRequest = Request & { [route]?: Route }

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
      get(this: RoutedRequest) {
        return this[route]
      },
      set(this: RoutedRequest, found: Route) {
        if (this[route] === found) return
        this[route] = found
        noteRoute(this, found)
      },
    },
  })
}

function noteRoute(request: Request, found: Route | undefined): void {
  const life = lifeOf(request)
  if (life === undefined || found === undefined || !Array.isArray(found.stack)) return
  life.routed(`${request.method} ${request.baseUrl}${pathOf(found.path, request.baseUrl)}`)
  if (found[followed] !== found.stack.length) follow(found)
}

/** Has every handler of a route called in its request's scope, and followed until it settles. Express counts parameters. */
function follow(found: Route): void {
  for (const layer of found.stack) {
    const handle = layer.handle
    if (handle.length > 3 || handle[followed]) continue
    const handleInScope: Layer['handle'] = (request, response, next) => {
      const life = lifeOf(request)
      return life === undefined ? handle(request, response, next) : life.handle(handle, request, response, next)
    }
    handleInScope[followed] = true
    layer.handle = handleInScope
  }
  found[followed] = found.stack.length
}

function pathOf(path: unknown, mountedAt: string): string {
  if (path === '/') return mountedAt === '' ? '/' : ''
  return Array.isArray(path) ? path.map((each) => pathOf(each, mountedAt)).join('|') : String(path)
}
