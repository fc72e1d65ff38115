import { startPostgres } from '@reqscope/services'
import { afterAll, expect, it } from 'vitest'
import { appOn, failureOf } from './fixture.ts'
import { forwarderTo } from './forwarder.ts'

const server = await startPostgres({ tls: 'required' })
afterAll(() => server.stop())

// The certificate is for localhost and 127.0.0.1.
it('is refused where the server is named by an address, not held against localhost', async () => {
  const url = await forwarderTo(server.url, { host: '127.0.0.2' })
  const error = await failureOf(appOn(url, { ssl: { ca: server.certificate ?? '' } }).start())
  expect(error).toMatchObject({ code: 'RSC_CONNECTION_LOST', reason: 'tls' })
  expect((error as Error).cause).toMatchObject({ code: 'ERR_TLS_CERT_ALTNAME_INVALID' })
})

it('is accepted where it names the address', async () => {
  const url = await forwarderTo(server.url, { host: '127.0.0.1' })
  await appOn(url, { ssl: { ca: server.certificate ?? '' } }).start()
})
