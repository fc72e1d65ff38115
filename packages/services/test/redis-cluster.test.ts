import { expect, it, onTestFinished } from 'vitest'
import { startRedisCluster } from '../src/index.ts'
import { askRedis } from '../src/redis-inquiry.ts'

it('starts three masters that know each other and share all slots', async () => {
  const cluster = await startRedisCluster()
  onTestFinished(() => cluster.stop())
  expect(cluster.nodes).toHaveLength(3)
  for (const { port } of cluster.nodes) {
    const facts = await askRedis(port, 'CLUSTER INFO')
    expect(facts).toMatch(/cluster_state:ok[\s\S]*cluster_slots_ok:16384[\s\S]*cluster_size:3/)
  }
  await cluster.stop()
  expect(cluster.masters.map(({ pid }) => pid)).toEqual([undefined, undefined, undefined])
})
