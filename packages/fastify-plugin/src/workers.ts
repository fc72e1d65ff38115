import { type Enqueueable, InvalidOptionError, type Scopes, type WorkOptions } from '@reqscope/core'
import { OptionReader } from '@reqscope/core/http'
import type { FastifyPluginAsync } from 'fastify'
import fastifyPlugin from 'fastify-plugin'

export interface ReqscopeWorkersOptions extends WorkOptions {
  /** What `defineJob` returned. */
  readonly jobs: readonly Enqueueable<never>[]
}

const register: FastifyPluginAsync<ReqscopeWorkersOptions> = async function reqscopeWorkers(app, options) {
  const { jobs, concurrency } = options
  new OptionReader('reqscopeWorkers', options).onlyKnown(['jobs', 'concurrency'])
  if (!Array.isArray(jobs))
    throw new InvalidOptionError('reqscopeWorkers.jobs', jobs, 'a list of what defineJob returned')
  const scopes = app.scopes as unknown as Scopes
  // Not before everything is registered: a job may need what a later plugin sets up. They are closed with the runtime.
  app.addHook('onReady', async function startWorkers() {
    await scopes.work(jobs, concurrency === undefined ? {} : { concurrency })
  })
}

/**
 * Runs jobs in the application's process: `await app.register(reqscopeWorkers, { jobs: [sendReceipt] })`, after `reqscope`.
 * They start when the application is ready, and are closed with it.
 */
export const reqscopeWorkers = fastifyPlugin(register, {
  name: '@reqscope/fastify-plugin/workers',
  fastify: '5.x',
  dependencies: ['@reqscope/fastify-plugin'],
})
