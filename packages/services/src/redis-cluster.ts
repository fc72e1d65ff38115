import { eventually } from './deadline.ts'
import { freePort } from './free-port.ts'
import { type RedisServer, startRedis } from './redis.ts'
import { askRedis, tellRedis } from './redis-inquiry.ts'

const SLOTS = 16_384

export interface RedisClusterOptions {
  /** How many there are, without replicas. Default 3, the least that Redis' own tools make. */
  masters?: number
  /** Told in a line what happens. */
  log?: (line: string) => void
}

export interface RedisCluster {
  /** In the order of their slots, of which each has an equal share. */
  readonly masters: readonly RedisServer[]
  /** As ioredis wants them. */
  readonly nodes: readonly { host: string; port: number }[]
  /** Gives an empty slot to another master. */
  moveSlot(slot: number, to: number): Promise<void>
  stop(): Promise<void>
}

/** A Redis Cluster of local processes that end with this one. */
export async function startRedisCluster({
  masters = 3,
  log = () => {},
}: RedisClusterOptions = {}): Promise<RedisCluster> {
  const servers = await Promise.all(Array.from({ length: masters }, startMaster))
  try {
    await join(servers)
  } catch (cause) {
    await Promise.all(servers.map((server) => server.stop()))
    throw cause
  }
  const nodes = servers.map((server) => ({ host: '127.0.0.1', port: portOf(server) }))
  log(`Redis Cluster: ready on ${nodes.map(({ port }) => port).join(', ')}`)
  return {
    masters: servers,
    nodes,
    moveSlot: (slot, to) => moveSlot(servers, slot, to),
    stop: async () => void (await Promise.all(servers.map((server) => server.stop()))),
  }
}

async function startMaster(): Promise<RedisServer> {
  const busPort = await freePort()
  const settings = ['--cluster-enabled', 'yes', '--cluster-port', String(busPort), '--cluster-node-timeout', '2000']
  return startRedis({ own: true, settings: [...settings, '--cluster-require-full-coverage', 'no'] })
}

async function join(servers: readonly RedisServer[]): Promise<void> {
  const [first] = servers as [RedisServer]
  const [, busPort = ''] = (await tellMyself(first)).split('@')
  for (const [index, server] of servers.entries()) {
    await tellRedis(portOf(server), `CLUSTER SET-CONFIG-EPOCH ${index + 1}`)
    await tellRedis(portOf(server), `CLUSTER ADDSLOTSRANGE ${share(index, servers)} ${share(index + 1, servers) - 1}`)
    if (server !== first)
      await tellRedis(portOf(server), `CLUSTER MEET 127.0.0.1 ${portOf(first)} ${busPort.split(/[, ]/)[0]}`)
  }
  await eventually(() => Promise.all(servers.map((server) => checkKnowsAll(server, servers.length))), {
    forMs: 30_000,
    everyMs: 50,
  })
}

const share = (index: number, servers: readonly unknown[]) => Math.round((SLOTS * index) / servers.length)

/** Its own line of CLUSTER NODES, without its id: `127.0.0.1:port@busPort myself,master …` */
async function tellMyself(server: RedisServer): Promise<string> {
  const line = (await askRedis(portOf(server), 'CLUSTER NODES')).split('\n').find((each) => each.includes('myself'))
  return line?.slice(line.indexOf(' ') + 1) ?? ''
}

async function checkKnowsAll(server: RedisServer, count: number): Promise<void> {
  const info = await askRedis(portOf(server), 'CLUSTER INFO')
  const isReady = [`cluster_known_nodes:${count}`, 'cluster_state:ok', `cluster_slots_ok:${SLOTS}`]
  const missing = isReady.find((fact) => !info.includes(fact))
  if (missing !== undefined) throw new Error(`The cluster is not ready: no ${missing} on ${server.url}.`)
}

async function moveSlot(servers: readonly RedisServer[], slot: number, to: number): Promise<void> {
  const target = servers[to] as RedisServer
  const targetId = await askRedis(portOf(target), 'CLUSTER MYID')
  // Whoever has the slot is told last: until then it serves what it has.
  const owner = servers.findIndex((_, index) => slot >= share(index, servers) && slot < share(index + 1, servers))
  const source = servers[owner] as RedisServer
  await tellRedis(portOf(target), `CLUSTER SETSLOT ${slot} IMPORTING ${await askRedis(portOf(source), 'CLUSTER MYID')}`)
  await tellRedis(portOf(source), `CLUSTER SETSLOT ${slot} MIGRATING ${targetId}`)
  for (const server of [target, source]) await tellRedis(portOf(server), `CLUSTER SETSLOT ${slot} NODE ${targetId}`)
}

function portOf(server: RedisServer): number {
  return Number(new URL(server.url).port)
}
