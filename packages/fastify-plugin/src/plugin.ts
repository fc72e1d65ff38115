import {
  createScopes,
  InvalidOptionError,
  NoActiveScopeError,
  RegistrationError,
  type Resources,
  type Scopes,
} from '@reqscope/core'
import {
  type ClosableServer,
  ConnectionCloser,
  HEALTH_HEADERS,
  type HealthAnswer,
  HealthEndpoints,
  OptionReader,
  onAbortOf,
  RouteGates,
} from '@reqscope/core/http'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fastifyPlugin from 'fastify-plugin'
import { Admission } from './admission.ts'
import { commitBeforeHead, enterOnResponse, leaveOnResponse, trackedHandler, transactionalHandler } from './handler.ts'
import { redisPart } from './redis-part.ts'
import { lifeOf, RequestLife, requestLife } from './request-life.ts'
import { policyOf, rateLimitsOf, routePolicy, withPolicy } from './route-config.ts'
import { refuseEarlierRoutes } from './route-order.ts'
import { answerTypedErrors, settleBeforeErrorHandlers } from './typed-errors.ts'
import type { ReqscopeOptions } from './types.ts'

const register: FastifyPluginAsync<ReqscopeOptions> = async function reqscope(app, options) {
  if (app.hasDecorator('scopes')) {
    throw new RegistrationError(
      'app.scopes is there already: @reqscope/fastify-plugin was registered on this instance or one around it. ' +
        'Register it once, on the outermost instance whose routes need scopes.',
    )
  }
  const read = new OptionReader('reqscope', options).onlyKnown([
    'scopes',
    'postgres',
    'redis',
    'closeTimeoutMs',
    'settleTimeoutMs',
    'rateLimit',
    'adaptive',
    'health',
  ])
  const closeTimeoutMs = read.milliseconds('closeTimeoutMs', 10_000)
  const { scopes, started } = await runtimeOf(app, options)
  scopes.adoptLogger(app.log)
  const gates = new RouteGates(scopes, options.adaptive)
  const logsLikeApp = scopes.logger === (app.log as unknown)

  app.decorate('scopes', scopes as unknown as FastifyInstance['scopes'])
  app.decorateRequest(requestLife as unknown as string, null)
  app.decorateRequest('scope', { getter: requestScope as () => FastifyRequest['scope'] })
  refuseEarlierRoutes(app, { opens: openRequestScope.name, seen: settleBeforeErrorHandlers.name })
  const errorHandler = answerTypedErrors(app)
  const admission = new Admission(
    scopes,
    options.rateLimit === undefined ? undefined : rateLimitsOf(options.rateLimit, 'reqscope.rateLimit', 'app'),
    errorHandler,
  )

  app.addHook('onRoute', function scopeRoute(route) {
    const policy = routePolicy(route, scopes, gates)
    route.config = withPolicy(route.config, policy)
    route.onError = [settleBeforeErrorHandlers, ...listOf(route.onError)]
    if (policy.optedOut) return
    route.onResponse = [...listOf(route.onResponse), leaveOnResponse] as NonNullable<RouteOptions['onResponse']>
    const beforeHandler = admission.beforeHandler(policy)
    if (beforeHandler !== undefined) route.preHandler = [...listOf(route.preHandler), beforeHandler]
    if (policy.transaction === undefined) {
      route.handler = trackedHandler(route.handler)
    } else {
      route.handler = transactionalHandler(route.handler, policy.transaction)
      route.onSend = [...listOf(route.onSend), commitBeforeHead] as NonNullable<RouteOptions['onSend']>
    }
  })

  app.addHook('onRequest', openRequestScope)
  function openRequestScope(request: FastifyRequest, reply: FastifyReply, done: () => void): void {
    const policy = policyOf(request)
    if (policy.optedOut) {
      done()
      return
    }
    const { method } = request
    const scope = scopes.open({
      id: String(request.id),
      kind: 'request',
      name: policy.name ?? `${method} ${policy.url}`,
      timeoutMs: policy.timeoutMs,
      onAbort: policy.onAbort ?? onAbortOf(method),
      logger: logsLikeApp ? request.log : undefined,
    })
    const life = new RequestLife(scope, request, reply, scopes.settleTimeoutMs)
    if (policy.timeoutMs !== undefined) life.answerAfterDeadline()
    admission.enter(policy, life, request, done)
  }

  app.addHook('onResponse', enterOnResponse)

  const connections = new ConnectionCloser(app.server as unknown as ClosableServer)
  app.addHook('preClose', function stopTakingWork(done) {
    // Not waited for here: other plugins' preClose hooks close what scopes may be waiting for, websockets for one.
    void scopes.close({ timeoutMs: closeTimeoutMs })
    connections.start(closeTimeoutMs)
    done()
  })
  app.addHook('onClose', async function closeScopes() {
    await scopes.close({ timeoutMs: closeTimeoutMs })
    connections.stop()
  })

  if (options.health !== undefined && options.health !== false) {
    answerHealth(app, new HealthEndpoints(scopes, options.health === true ? {} : options.health, 'reqscope.health'))
  }

  await scopes.start()
  await started?.()
}

function answerHealth(app: FastifyInstance, endpoints: HealthEndpoints): void {
  const send = (reply: FastifyReply, { statusCode, body }: HealthAnswer) =>
    reply.code(statusCode).headers(HEALTH_HEADERS).send(body)
  // No scope, so no limit either: under overload and in a shutdown it is these that have to answer.
  const route = { config: { scope: false as const }, logLevel: 'warn' as const }
  app.get(`${endpoints.path}/live`, route, (_request, reply) => send(reply, endpoints.live()))
  app.get(`${endpoints.path}/ready`, route, async (_request, reply) => send(reply, await endpoints.ready()))
}

function requestScope(this: FastifyRequest): unknown {
  const life = lifeOf(this)
  if (life !== undefined) return life.scope
  throw new NoActiveScopeError({
    needed: 'request.scope',
    remedy: 'Its route has opted out (config: { scope: false }), or the plugin is not registered for it.',
  })
}

/** @returns the runtime, and what is to be done once it has started. */
async function runtimeOf(
  app: FastifyInstance,
  options: ReqscopeOptions,
): Promise<{ scopes: Scopes; started?: () => Promise<void> }> {
  if (options.scopes !== undefined) {
    for (const name of ['postgres', 'redis', 'settleTimeoutMs'] as const) {
      if (options[name] === undefined) continue
      throw new InvalidOptionError(
        `reqscope.${name}`,
        options[name],
        'left out where scopes is given: the runtime has it',
      )
    }
    if (typeof (options.scopes as Partial<Scopes> | null)?.open !== 'function') {
      throw new InvalidOptionError('reqscope.scopes', options.scopes, 'what createScopes returned')
    }
    return { scopes: options.scopes }
  }
  if (options.postgres === undefined && options.redis === undefined) {
    throw new InvalidOptionError('reqscope.scopes', undefined, 'given, or postgres and redis in its stead')
  }
  const resources: Record<string, Resources[string]> = {}
  if (options.postgres !== undefined) {
    // Loaded only here: with a runtime of its own a program need not have the libraries behind it.
    const { postgres } = await import('@reqscope/core/postgres')
    resources.db = postgres(options.postgres)
  }
  const redis = options.redis === undefined ? undefined : await redisPart(app, options.redis)
  if (redis !== undefined) resources.redis = redis.resource
  const { settleTimeoutMs } = options
  const scopes = createScopes({
    resources,
    ...(settleTimeoutMs === undefined ? {} : { settleTimeoutMs }),
  }) as unknown as Scopes
  return { scopes, ...(redis !== undefined && { started: redis.started }) }
}

function listOf<Hook>(hooks: Hook | Hook[] | undefined): Hook[] {
  return hooks === undefined ? [] : Array.isArray(hooks) ? hooks : [hooks]
}

/**
 * Gives every request a scope that ends with it.
 *
 * Register it before the routes, once: `await app.register(reqscope, { scopes })`.
 */
export const reqscope = fastifyPlugin(register, { name: '@reqscope/fastify-plugin', fastify: '5.x' })
