import { expect, it } from 'vitest'
import { Gate } from '../gate.ts'
import { answered } from './client.ts'
import type { HttpDriver } from './driver.ts'
import { type ContractDatabase, Stage, until } from './stage.ts'

/** What an orchestrator asks. */
export function describeHealth(driver: HttpDriver, database: () => ContractDatabase): void {
  it('says that it lives and is ready, without a scope, and in a HEAD, too', async () => {
    const stage = await Stage.open(driver, database(), [], { health: true })
    const live = await stage.client.get('/health/live')
    expect([live.status, live.body]).toEqual([200, '{"status":"up"}'])
    expect(live.headers).toMatchObject({
      'content-type': expect.stringMatching(/^application\/json/),
      'cache-control': 'no-store',
    })
    const ready = await stage.client.get('/health/ready')
    expect([ready.status, JSON.parse(ready.body)]).toEqual([
      200,
      { status: 'up', state: 'open', resources: { db: 'up' }, crossed: [] },
    ])
    const head = await answered(stage.client.begin('HEAD', '/health/ready'))
    expect([head.status, head.body]).toEqual([200, ''])
    expect((await stage.client.get('/health')).status).toBe(404)
    expect((await stage.client.post('/health/live')).status).toBe(404)
    expect(stage.endings.map(({ scope }) => scope.name)).toEqual(['GET (no route)', 'POST (no route)'])
  })

  it('answers while everything else is shed, and while no connection is to be had', async () => {
    const gate = new Gate()
    const stage = await Stage.open(
      driver,
      database(),
      [
        {
          ...{ method: 'GET', path: '/', transaction: true, concurrency: { max: 1 } },
          async handle({ scope }) {
            await scope.db.$client`select 1`
            await gate.passed
            return {}
          },
        },
      ],
      { health: true, postgres: { max: 1 } },
    )
    const first = stage.client.get('/')
    await until(() => stage.scopes.snapshot().leases.length === 1)
    expect((await stage.client.get('/')).status).toBe(503)
    for (let count = 0; count < 5; count++) expect((await stage.client.get('/health/ready')).status).toBe(200)
    gate.open()
    await first
    await stage.expectNothingLeft()
  })
}
