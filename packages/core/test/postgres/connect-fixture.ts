import { inspect } from 'node:util'
import { expect } from 'vitest'
import { ConnectionLostError, type ConnectionLostReason } from '../../src/index.ts'
import type { PostgresOptions } from '../../src/postgres/index.ts'
import { appOn, failureOf, type schema } from './fixture.ts'

export const SECRET = 'hunter2-s3cr3t'

export type Options = Partial<PostgresOptions<typeof schema>>

/** The URL with other parts, such as the user's name. */
export function urlOf(url: string, parts: Partial<URL>): string {
  return Object.assign(new URL(url), parts).href
}

/** Everything that a log could show of an error. */
export function shown(error: unknown): string {
  const all: string[] = []
  for (let each = error; each !== undefined && each !== null; each = (each as Error).cause) {
    const own = each as Error
    all.push(
      String(own),
      own.message,
      own.stack ?? '',
      JSON.stringify(own),
      inspect(own, { depth: 10, showHidden: true }),
    )
  }
  return all.join('\n')
}

/** What start says, and what a statement says that needs a connection later; they must be the same. */
export async function expectFailure(url: string, options: Options, reason: ConnectionLostReason, message: RegExp) {
  const app = appOn(url, { connectTimeoutMs: 500, ...options })
  const atStart = await failureOf(app.start())
  const scope = app.open({ id: 'r-1', kind: 'request', name: 'GET /accounts' })
  const later = await failureOf(scope.db.query.accounts.findMany())
  await scope.end({ tag: 'completed' })
  for (const error of [atStart, later]) {
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error).toMatchObject({
      code: 'RSC_CONNECTION_LOST',
      statusCode: 503,
      resource: 'db',
      reason,
      outcome: undefined,
    })
    expect((error as Error).message).toMatch(message)
    expect(shown(error)).not.toContain(SECRET)
  }
  expect(app.logs.map((line) => inspect(line, { depth: 10 })).join()).not.toContain(SECRET)
  expect(JSON.stringify(await app.health())).not.toContain(SECRET)
}
