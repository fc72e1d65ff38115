import { randomUUID } from 'node:crypto'
import { InvalidOptionError, RegistrationError, type Scopes } from '@reqscope/core'
import { type Next, OptionReader, onAbortOf, RouteGates, runInContext } from '@reqscope/core/http'
import type { Request, RequestHandler, Response } from 'express'
import { orderMistake, scopesOfMiddleware } from './order.ts'
import { lifeOf, RequestLife, requireLife } from './request-life.ts'
import { extendRequests } from './routes.ts'
import type { AnyRequestHandler, ReqscopeOptions, ScopeOptions } from './types.ts'

/**
 * Gives every request that comes by a scope that ends with it: `app.use(reqscope({ scopes }))`, before whatever needs it.
 *
 * Used once more, behind a middleware that calls back from somewhere else, it makes the scope current again.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function reqscope(options: ReqscopeOptions): RequestHandler {
  const read = new OptionReader('reqscope', options).onlyKnown(['scopes', 'timeoutMs', 'onAbort'])
  if (typeof (options.scopes as Partial<Scopes> | null)?.open !== 'function') {
    throw new InvalidOptionError('reqscope.scopes', options.scopes, 'what createScopes returned')
  }
  const scopes = options.scopes as unknown as Scopes
  const { timeoutMs, onAbort } = readScopeOptions(read, options)
  const gates = new RouteGates(scopes, false)
  const checked = new WeakSet<object>()
  let isStarted = false

  function openRequestScope(request: Request, response: Response, next: Next): void {
    const around = lifeOf(request)
    if (around !== undefined) {
      if (around.scopes !== scopes) throw twoRuntimes(request)
      around.within(next)
      return
    }
    if (!checked.has(request.app)) {
      const mistake = orderMistake(request.app)
      if (mistake !== undefined) throw mistake
      checked.add(request.app)
      extendRequests((request.app as unknown as { readonly request: object }).request)
    }
    if (scopes.state !== 'open') response.setHeader('connection', 'close')
    const { method } = request
    const life = new RequestLife(response, scopes, gates, {
      id: idOf(request),
      kind: 'request',
      name: `${method} (no route)`,
      timeoutMs,
      onAbort: onAbort ?? onAbortOf(method),
    })
    if (timeoutMs !== undefined) life.answerAfterDeadline(next)
    if (hasBody(request)) request.emit = emitInScope
    runInContext(life.scope, next)
  }

  // Whoever did not await scopes.start() has the first requests wait for it, or be told what is wrong.
  const middleware = function reqscope(request: Request, response: Response, next: Next): void {
    if (isStarted || scopes.state !== 'open') {
      openRequestScope(request, response, next)
      return
    }
    scopes
      .start()
      .then(() => {
        isStarted = true
        openRequestScope(request, response, next)
      })
      .catch(next)
  } as RequestHandler
  return scopesOfMiddleware(middleware, scopes)
}

/**
 * What a route says of its scope, before its handlers: `app.get('/report', scopeOptions({ timeoutMs: 2_000 }), handler)`.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function scopeOptions(options: ScopeOptions): AnyRequestHandler {
  const read = new OptionReader('scopeOptions', options).onlyKnown(['timeoutMs', 'onAbort'])
  const { timeoutMs, onAbort } = readScopeOptions(read, options)
  const scopeOptions: RequestHandler = function scopeOptions(request, _response, next) {
    const life = requireLife(request, 'scopeOptions()')
    life.restrict({ timeoutMs, onAbort })
    if (timeoutMs !== undefined) life.answerAfterDeadline(next)
    next()
  }
  return scopeOptions as AnyRequestHandler
}

function readScopeOptions(read: OptionReader<ScopeOptions>, { timeoutMs }: ScopeOptions) {
  return {
    timeoutMs: timeoutMs === undefined ? undefined : read.milliseconds('timeoutMs', 0, { min: 1 }),
    onAbort: read.oneOf<'cancel' | 'finish', undefined>('onAbort', undefined, ['cancel', 'finish']),
  }
}

/** The id that something before has given the request, pino-http for one. */
function idOf(request: Request): string {
  const { id } = request as { id?: unknown }
  return (typeof id === 'string' && id !== '') || typeof id === 'number' ? String(id) : randomUUID()
}

function hasBody({ headers }: Request): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
}

// What reads a body is called by the connection, which belongs to no request.
function emitInScope(this: Request, ...args: unknown[]): boolean {
  const { emit } = Object.getPrototypeOf(this) as { emit(...args: unknown[]): boolean }
  const life = lifeOf(this)
  return life === undefined ? emit.apply(this, args) : life.within(() => emit.apply(this, args))
}

function twoRuntimes(request: Request): RegistrationError {
  return new RegistrationError(
    `${request.method} ${request.originalUrl.split('?', 1)[0]} has come by reqscope() with two runtimes. ` +
      'A request has one scope, so give it the scopes of one; handles of both belong into the resources of one createScopes.',
  )
}
