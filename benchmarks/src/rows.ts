/** One candidate of a row: a program, and what of it is loaded. */
export interface Candidate {
  readonly name: string
  readonly program: string
  readonly path: string
}

/** A row of the budget: ours against what it is compared with, under the same load. */
export interface Row {
  readonly name: string
  readonly ours: Candidate
  readonly baseline: Candidate
  /** How many ask at once. */
  readonly connections: number
  /** The candidates do it themselves as fast as they can, without HTTP around. `path` says what. */
  readonly inside?: true
  readonly atLeast: number
  readonly aim: number
}

const reqscope = (path: string): Candidate => ({ name: 'reqscope', program: 'candidates/reqscope.js', path })
const drizzle = (name: string, path: string): Candidate => ({
  name,
  program: 'candidates/drizzle-shared-pool.js',
  path,
})

const redisOp = (name: string, path: string): Candidate => ({ name, program: 'candidates/redis-operations.js', path })

/** Throughput rows; the ratio is ours over the baseline's. */
export const rows: readonly Row[] = [
  {
    name: 'no-op route with the plugin',
    ours: { name: 'reqscope', program: 'candidates/noop-reqscope.js', path: '/' },
    baseline: { name: 'bare Fastify', program: 'candidates/noop-bare.js', path: '/' },
    connections: 50,
    atLeast: 0.9,
    aim: 0.96,
  },
  {
    name: 'two drizzle selects in a request',
    ours: reqscope('/selects'),
    baseline: drizzle('drizzle on a shared pool', '/selects'),
    connections: 50,
    atLeast: 1.25,
    aim: 1.4,
  },
  {
    name: 'a transaction with two selects',
    ours: reqscope('/transaction'),
    baseline: drizzle('db.transaction', '/transaction'),
    connections: 50,
    atLeast: 1.35,
    aim: 1.5,
  },
  {
    name: '200 clients; query, 100 ms of another service, query; pool of 10',
    ours: reqscope('/slow-api'),
    baseline: drizzle('one connection held per request', '/slow-api'),
    connections: 200,
    atLeast: 10,
    aim: 15,
  },
  {
    name: 'scope.redis.get, 64 at once',
    ours: redisOp('reqscope', 'scope get'),
    baseline: redisOp('bare ioredis, autopipelining', 'autopipelined get'),
    connections: 64,
    inside: true,
    atLeast: 0.95,
    aim: 1.3,
  },
  {
    name: 'optimistic get and set, 64 at once',
    ours: redisOp('reqscope', 'optimistic'),
    baseline: redisOp('a connection duplicated for each call', 'duplicate'),
    connections: 64,
    inside: true,
    atLeast: 1.5,
    aim: 5,
  },
  {
    name: "optimistic get and set, 64 at once, against node-redis' pool",
    ours: redisOp('reqscope', 'optimistic'),
    baseline: redisOp('node-redis, createClientPool', 'node-redis pool'),
    connections: 64,
    inside: true,
    atLeast: 1,
    aim: 1.2,
  },
]

/** Bytes of heap per open idle scope. */
export const memory = { name: 'memory per open idle scope', atMost: 2_048, aim: 1_024 }
