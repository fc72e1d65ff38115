import { expect, it, onTestFinished } from 'vitest'
import { startRedisSentinels } from '../src/index.ts'
import { askRedis } from '../src/redis-inquiry.ts'

it('starts sentinels that know a master and its replica', async () => {
  const sentinels = await startRedisSentinels()
  onTestFinished(() => sentinels.stop())
  expect(sentinels.addresses).toHaveLength(3)
  for (const { port } of sentinels.addresses) {
    expect(await askRedis(port, 'INFO sentinel')).toMatch(/name=main,status=ok,address=\S+,slaves=1,sentinels=3/)
  }
  await sentinels.stop()
  expect(sentinels.servers.map(({ pid }) => pid)).toEqual([undefined, undefined])
})
