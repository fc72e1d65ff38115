import { createServer } from 'node:http'
import type { BoundDatabase } from '@reqscope/core/postgres'
import type { Express, Request } from 'express'
import type { ContractScopes } from '../../core/test/http-contract/driver.ts'
import type { schema } from '../../core/test/http-contract/schema.ts'
import { type ContractDatabase, Stage, type StageOptions } from '../../core/test/http-contract/stage.ts'
import { onShutdown } from '../src/index.ts'
import { type Framework, listening } from './driver.ts'

export { type ContractDatabase, contractDatabase } from '../../core/test/http-contract/stage.ts'

/** The stage of the contract, with an application of the test's own on it. */
export function appStage(
  framework: Framework,
  database: ContractDatabase,
  build: (app: Express, scopes: ContractScopes) => void,
  options: StageOptions = {},
): Promise<Stage> {
  const driver = {
    name: 'an application of the test',
    handlerTimeouts: false,
    http2: false,
    limits: false,
    inject: false,
    async start({ scopes }: { scopes: ContractScopes }) {
      const app = framework()
      // What Express answers errors with names them, and prints them otherwise.
      app.set('env', 'test')
      build(app, scopes)
      const server = createServer(app)
      const close = onShutdown(server, { closeTimeoutMs: 2_000, scopes })
      return { port: await listening(server), close }
    },
  }
  return Stage.open(driver, database, [], options)
}

/** The request's database; tests register no runtime, so its type is told here. */
export function db(request: Request): BoundDatabase<typeof schema> {
  return (request.scope as unknown as { db: BoundDatabase<typeof schema> }).db
}
