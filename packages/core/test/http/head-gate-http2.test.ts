import { once } from 'node:events'
import { connect, createServer, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { beforeAll, describe, expect, it } from 'vitest'
import { ConnectionCloser, DirectResponse, readCommitRules } from '../../src/http/index.ts'
import type { ContractScope, ContractScopes } from '../http-contract/driver.ts'
import { notes } from '../http-contract/schema.ts'
import { type ContractDatabase, contractDatabase, Stage } from '../http-contract/stage.ts'

type Handler = (scope: ContractScope, response: Http2ServerResponse) => unknown

describe('a response over HTTP/2 that its handler writes', () => {
  let database: ContractDatabase
  beforeAll(async () => {
    database = await contractDatabase()
  })

  async function ask(handler: Handler) {
    const stage = await Stage.open({ ...DRIVER, start: ({ scopes }) => serve(scopes, handler) }, database, [])
    const session = connect(`http://127.0.0.1:${stage.app.port}`)
    const stream = session.request({ ':method': 'POST', ':path': '/' })
    stream.end()
    const [headers] = (await once(stream, 'response')) as [Record<string, unknown>]
    const kept = await stage.notes()
    const body = await text(stream)
    session.close()
    await stage.expectNothingLeft()
    return { status: headers[':status'], body, kept }
  }

  it.each<[string, (response: Http2ServerResponse) => unknown]>([
    ['end', (response) => response.end('kept')],
    ['writeHead', (response) => response.writeHead(200).end('kept')],
    ['write', (response) => [response.write('ke'), response.write('pt'), response.end()]],
    ['pipe', (response) => Readable.from(['ke', 'pt']).pipe(response)],
  ])('is committed before the head that %s writes, or becomes an error', async (_how, reply) => {
    const write = (scope: ContractScope) => scope.db.insert(notes).values({ text: 'kept' })
    const good = await ask(async (scope, response) => {
      await write(scope)
      reply(response)
    })
    expect(good).toEqual({ status: 200, body: 'kept', kept: ['kept'] })
    const refused = await ask(async (scope, response) => {
      await write(scope)
      await scope.db.$client`insert into late values (1, 'same'), (2, 'same')`
      reply(response)
    })
    expect(refused).toEqual({ status: 500, body: 'refused', kept: [] })
  })
})

const DRIVER = { name: 'node:http2', handlerTimeouts: false, http2: true, limits: false, inject: false }

async function serve(scopes: ContractScopes, handler: Handler) {
  const server = createServer((request: Http2ServerRequest, response: Http2ServerResponse) => {
    const scope = scopes.open({ id: 'one', kind: 'request', name: 'POST /' })
    const life = new DirectResponse(scope, response, scopes.settleTimeoutMs)
    const handle = (_request: unknown, given: Http2ServerResponse) => handler(scope, given)
    life.handleInTransaction(readCommitRules({}, 'transaction'), handle, request, response, () =>
      response.end('refused'),
    )
  })
  const connections = new ConnectionCloser(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = async () => {
    connections.start(1_000)
    await Promise.all([scopes.close(), new Promise((resolve) => server.close(resolve))])
    connections.stop()
  }
  return { port: (server.address() as { port: number }).port, close }
}
