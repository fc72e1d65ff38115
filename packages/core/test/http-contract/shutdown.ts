import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { expect, it } from 'vitest'
import { Gate } from '../gate.ts'
import { answered } from './client.ts'
import type { ContractRoute, Exchange, HttpDriver } from './driver.ts'
import { notes } from './schema.ts'
import { type ContractDatabase, fired, Stage, type StageOptions } from './stage.ts'

const write = (exchange: Exchange, note: string) => exchange.scope.db.insert(notes).values({ text: note })

/** The application is closed while there is work. */
export function describeShutdown(driver: HttpDriver, database: () => ContractDatabase): void {
  const open = (routes: readonly ContractRoute[], options?: StageOptions) =>
    Stage.open(driver, database(), routes, options)
  const post = (handle: ContractRoute['handle'], transaction = false): ContractRoute => ({
    method: 'POST',
    path: '/',
    transaction,
    handle,
  })

  it.each([false, true])('lets a request finish that has begun (transaction: %s)', async (transaction) => {
    const [begun, finish] = [new Gate(), new Gate()]
    const stage = await open([
      post(async (exchange) => {
        await write(exchange, 'begun before')
        begun.open()
        await finish.passed
        return { done: true }
      }, transaction),
    ])
    const request = stage.client.begin('POST', '/', {})
    await begun.passed
    const closed = stage.app.close()
    finish.open()
    expect(await answered(request)).toMatchObject({ status: 200, body: '{"done":true}' })
    await closed
    expect(await stage.notes()).toEqual(['begun before'])
    expect(stage.scopes.snapshot()).toMatchObject({ state: 'closed', openScopes: { total: 0 }, leases: [] })
    await stage.expectNoBackends()
  })

  it.each([false, true])('signals and then ends what does not finish (transaction: %s)', async (transaction) => {
    const [begun, signalled] = [new Gate(), new Gate<unknown>()]
    const stage = await open(
      [
        post(async (exchange) => {
          await write(exchange, 'not finished')
          begun.open()
          signalled.open(await fired(exchange.scope.signal))
          await new Promise(() => {})
        }, transaction),
      ],
      { closeTimeoutMs: 500 },
    )
    stage.client.begin('POST', '/', {})
    await begun.passed
    await stage.app.close()
    expect(await signalled.passed).toMatchObject({ reason: 'shutdown' })
    expect(stage.scopes.snapshot()).toMatchObject({ state: 'closed', openScopes: { total: 0 }, leases: [] })
    expect(await stage.notes()).toEqual(transaction ? [] : ['not finished'])
    await stage.expectNoBackends()
  })

  it('closes in less than 5 s with connections that are kept alive, used or not', async () => {
    const [begun, finish] = [new Gate(), new Gate()]
    const stage = await open([
      post(async () => {
        begun.open()
        await finish.passed
        return {}
      }),
    ])
    const request = 'POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n'
    const [unused, used, busy] = [await stage.client.socket(), await stage.client.socket(), await stage.client.socket()]
    busy.write(request)
    await begun.passed
    used.write('GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n')
    await once(used, 'data')
    const startedAt = performance.now()
    const closed = stage.app.close()
    finish.open()
    expect(String((await once(busy, 'data'))[0])).toContain('200 OK')
    await closed
    expect(performance.now() - startedAt).toBeLessThan(5_000)
    for (const socket of [unused, used, busy]) socket.destroy()
  })

  if (driver.http2) {
    it('closes in less than 5 s with open HTTP/2 sessions', async () => {
      const stage = await open([post(async (exchange) => void (await write(exchange, 'over HTTP/2')))], { http2: true })
      const session = connectHttp2(`http://127.0.0.1:${stage.app.port}`)
      const stream = session.request({ ':method': 'POST', ':path': '/' })
      stream.end()
      stream.resume()
      await once(stream, 'end')
      const startedAt = performance.now()
      await stage.app.close()
      expect(performance.now() - startedAt).toBeLessThan(5_000)
    })
  }
}
