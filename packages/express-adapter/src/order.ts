import { RegistrationError, type Scopes } from '@reqscope/core'

const role = Symbol('reqscope.role')
type Role =
  | { readonly tag: 'scope'; readonly scopes: Scopes }
  | { readonly tag: 'errors' }
  | { readonly tag: 'health' }
  | { readonly tag: 'needs scope'; readonly what: string }
type Marked = { [role]?: Role }

/** What is needed of an application or a router, in Express 4 and 5 alike. */
export interface Stacked {
  readonly router?: Stacked
  readonly _router?: Stacked
  readonly stack?: readonly { readonly handle: Marked & Stacked; readonly route?: StackedRoute }[]
}
interface StackedRoute extends Stacked {
  readonly path: unknown
  readonly methods: Readonly<Record<string, boolean>>
}

export const scopesOfMiddleware = <Middleware extends object>(middleware: Middleware, scopes: Scopes): Middleware =>
  Object.assign(middleware, { [role]: { tag: 'scope', scopes } satisfies Role })

export const answersErrors = <Middleware extends object>(middleware: Middleware): Middleware =>
  Object.assign(middleware, { [role]: { tag: 'errors' } satisfies Role })

export const tellsHealth = <Middleware extends object>(middleware: Middleware): Middleware =>
  Object.assign(middleware, { [role]: { tag: 'health' } satisfies Role })

/** @param what it is called in an error: `transactional()`. */
export const needsScope = <Middleware extends object>(middleware: Middleware, what: string): Middleware =>
  Object.assign(middleware, { [role]: { tag: 'needs scope', what } satisfies Role })

export function isNamed(middleware: object, what: string): boolean {
  const found = (middleware as Marked)[role]
  return found?.tag === 'needs scope' && found.what === what
}

/** The runtime of an application that uses `reqscope()` itself. */
export function scopesIn(app: unknown): Scopes | undefined {
  for (const { handle } of stackOf(app)) if (handle[role]?.tag === 'scope') return handle[role].scopes
  return undefined
}

/** What can be seen to stand in the wrong place among what an application uses. */
export function orderMistake(app: unknown): RegistrationError | undefined {
  const stack = stackOf(app)
  const roles = stack.map(({ handle }) => handle[role])
  const scope = roles.findIndex((each) => each?.tag === 'scope')
  const early = roles.slice(0, Math.max(0, scope)).find((each) => each?.tag === 'needs scope')
  if (early?.tag === 'needs scope') {
    return new RegistrationError(
      `app.use(${early.what}) comes before app.use(reqscope({ scopes })), so there is no scope for it yet. Put it after.`,
    )
  }
  if (scope !== -1 && roles.slice(scope).some((each) => each?.tag === 'health')) return healthTooLate()
  const errors = roles.findLastIndex((each) => each?.tag === 'errors')
  const late =
    errors === -1
      ? []
      : stack.slice(errors + 1).flatMap(({ handle, route }) => (route === undefined ? routesIn(handle) : [route.path]))
  if (late.length === 0) return undefined
  return new RegistrationError(
    `app.use(reqscopeErrors()) comes before ${late.map(String).join(', ')}, so it does not see their errors. ` +
      'Put it after all routes and routers.',
  )
}

/** Where it has a scope it is refused with everything else. */
export function healthTooLate(): RegistrationError {
  return new RegistrationError(
    'app.use(health()) comes after app.use(reqscope({ scopes })), so it would be limited, and refused in a shutdown, like ' +
      'everything else. Put it before.',
  )
}

function routesIn(handle: Stacked): unknown[] {
  return (handle.stack ?? []).flatMap((layer) =>
    layer.route === undefined ? routesIn(layer.handle) : [layer.route.path],
  )
}

// `app.router` throws in Express 4, where the router is at another place and made with the first route.
export function stackOf(app: unknown): NonNullable<Stacked['stack']> {
  if (typeof app !== 'function') return []
  const { _router } = app as Stacked
  if (_router !== undefined) return _router.stack ?? []
  try {
    return (app as Stacked).router?.stack ?? []
  } catch {
    return []
  }
}
