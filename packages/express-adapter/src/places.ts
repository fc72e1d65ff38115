import { RegistrationError } from '@reqscope/core'
import type { Request } from 'express'
import { isNamed, type Stacked, stackOf } from './order.ts'
import { givenAs } from './routes.ts'

/** What is needed of an application that is used by another one. */
interface Mounted {
  path(): string
}

/**
 * Where a middleware stands in the application that a request is in: the same in every process that runs the application, and
 * nothing that a client may write in one way or another, as it may the path of a request. The routes' own paths tell most
 * places apart; those that they do not are counted.
 *
 * @throws RegistrationError where it can't be found, because a function of the application's own calls it.
 */
export function placeOf(middleware: object, request: Request): string {
  const seen = new Map<string, number>()
  for (const { name, given } of placesIn(stackOf(request.app))) {
    if (!isNamed(given, 'rateLimit()')) continue
    const count = (seen.get(name) ?? 0) + 1
    seen.set(name, count)
    if (given !== middleware) continue
    const path = (request.app as unknown as Mounted).path()
    return `${path === '' ? '' : `${path} `}${name}${count === 1 ? '' : `#${count}`}`
  }
  throw new RegistrationError(
    `rateLimit() was reached by ${request.method} ${request.baseUrl}${request.path}, but it is not among what the application ` +
      'uses itself, so there is no name for what it counts. Give app.use or a route what rateLimit() returned, or give it a group.',
  )
}

function* placesIn(stack: NonNullable<Stacked['stack']>): Generator<{ readonly name: string; readonly given: object }> {
  for (const { handle, route } of stack) {
    if (route === undefined) {
      yield { name: 'use', given: handle }
      yield* placesIn(handle.stack ?? [])
      continue
    }
    const methods = Object.keys(route.methods).filter((method) => method !== 'head')
    const name = `${methods.map((method) => method.toUpperCase()).join(',')} ${String(route.path)}`
    for (const layer of route.stack ?? []) yield { name, given: givenAs(layer.handle) }
  }
}
