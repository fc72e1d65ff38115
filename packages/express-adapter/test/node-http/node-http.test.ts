import { readFile } from 'node:fs/promises'
import { ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import { currentScope } from '@reqscope/core'
import { expect, it } from 'vitest'
import {
  type ContractRoute,
  describeHttpContract,
  type Exchange,
  type HttpDriver,
} from '../../../core/test/http-contract/index.ts'
import { listening } from '../driver.ts'
import { closing, type Route, serve } from './server.ts'

/** The adapter of docs/adapters.md, for the contract that every HTTP adapter keeps. */
const nodeHttpDriver: HttpDriver = {
  name: 'plain node:http',
  handlerTimeouts: false,
  http2: false,
  limits: false,
  inject: false,
  async start({ scopes, routes, connectionTimeoutMs, closeTimeoutMs }) {
    const table = routes.map((route) => [`${route.method} ${route.path}`, routeOf(route)] as const)
    const server = serve(scopes as never, Object.fromEntries(table))
    if (connectionTimeoutMs !== undefined) server.setTimeout(connectionTimeoutMs)
    const close = closing(server, scopes as never, closeTimeoutMs)
    return { port: await listening(server), close }
  },
}

function routeOf({ transaction = false, timeoutMs, handle }: ContractRoute): Route {
  return {
    transaction,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    handle(request, response) {
      const scope = currentScope() as unknown as Exchange['scope']
      let isTaken = false
      let tell = () => {}
      const replied = new Promise<void>((resolve) => (tell = resolve))
      const send = (value: unknown) => {
        response.setHeader('content-type', 'application/json').end(JSON.stringify(value))
        tell()
      }
      const { writeHead, write, end } = ServerResponse.prototype
      const raw = { writeHead: writeHead.bind(response), write: write.bind(response), end: end.bind(response) }
      const exchange = (body: unknown): Exchange => ({
        scope,
        body,
        raw: raw as Exchange['raw'],
        status: (code) => void (response.statusCode = code),
        send,
        stream: (source) =>
          new Promise((resolve, reject) => {
            source.on('error', (error) => (response.headersSent ? response.destroy() : reject(error)))
            response.on('close', () => {
              source.destroy()
              resolve(response)
            })
            source.pipe(response)
          }),
        takeOver() {
          isTaken = true
          return raw as Exchange['raw']
        },
      })
      const answer = (value: unknown) => {
        if (isTaken || response.headersSent || value === response) return
        if (value === undefined) response.end()
        else send(value)
      }
      const run = (body: unknown) => {
        const result = handle(exchange(body))
        if (result instanceof Object && 'then' in result) return Promise.resolve(result).then(answer)
        if (result !== undefined) return answer(result)
        // It replies from a callback. Where the body was waited for, so is that.
        return body === undefined || isTaken || response.headersSent ? undefined : replied
      }
      return request.headers['content-type'] === 'application/json' ? json(request).then(run) : run(undefined)
    },
  }
}

describeHttpContract(nodeHttpDriver)

it('is the example of docs/adapters.md, in less than 60 lines', async () => {
  const source = await readFile(new URL('./server.ts', import.meta.url), 'utf8')
  expect(await readFile(new URL('../../../../docs/adapters.md', import.meta.url), 'utf8')).toContain(
    `\`\`\`ts\n// server.ts\n${source}\`\`\``,
  )
  expect(source.split('\n').length).toBeLessThan(60)
})
