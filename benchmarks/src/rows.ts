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
  /** The status all answers have. Default 200. */
  readonly status?: number
}

const limited = (path: string): Candidate => ({ name: 'reqscope', program: 'candidates/limited-reqscope.js', path })
const peer = (path: string): Candidate => ({
  name: '@fastify/rate-limit',
  program: 'candidates/limited-fastify.js',
  path,
})
const flexible = (path: string): Candidate => ({
  name: 'rate-limiter-flexible',
  program: 'candidates/limited-flexible.js',
  path,
})
const reqscope = (path: string): Candidate => ({ name: 'reqscope', program: 'candidates/reqscope.js', path })
const jobs = (name: string, path: string): Candidate => ({ name, program: 'candidates/jobs-reqscope.js', path })
const bareJobs = (name: string, path: string): Candidate => ({ name, program: 'candidates/jobs-bullmq.js', path })
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
    name: 'no-op route, the current request known anywhere',
    ours: { name: 'reqscope', program: 'candidates/noop-reqscope.js', path: '/' },
    baseline: { name: '@fastify/request-context', program: 'candidates/noop-request-context.js', path: '/' },
    connections: 50,
    atLeast: 1,
    aim: 1,
  },
  {
    name: 'no-op route with the Express adapter',
    ours: { name: 'reqscope', program: 'candidates/noop-express-reqscope.js', path: '/' },
    baseline: { name: 'bare Express', program: 'candidates/noop-express-bare.js', path: '/' },
    connections: 50,
    atLeast: 0.92,
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
    name: 'rate-limited route, Redis, allowed',
    ours: limited('/allowed'),
    baseline: peer('/allowed'),
    connections: 50,
    atLeast: 1,
    aim: 1.15,
  },
  {
    name: 'rate-limited route, Redis, refused',
    ours: limited('/refused'),
    baseline: peer('/refused'),
    connections: 50,
    atLeast: 1.7,
    aim: 2,
    status: 429,
  },
  {
    name: 'rate-limited route, Redis, allowed, against rate-limiter-flexible',
    ours: limited('/allowed'),
    baseline: flexible('/allowed'),
    connections: 50,
    atLeast: 0.9,
    aim: 1,
  },
  {
    name: 'rate-limited route, Redis, refused, against rate-limiter-flexible',
    ours: limited('/refused'),
    baseline: flexible('/refused'),
    connections: 50,
    atLeast: 0.9,
    aim: 1,
    status: 429,
  },
  {
    name: 'rate-limited route, three windows against one',
    ours: { ...limited('/three'), name: 'three windows' },
    baseline: { ...limited('/allowed'), name: 'one window' },
    connections: 50,
    atLeast: 0.8,
    aim: 0.9,
  },
  {
    name: 'no-op route, concurrency and adaptive',
    ours: { name: 'with both', program: 'candidates/noop-gated.js', path: '/' },
    baseline: { name: 'with neither', program: 'candidates/noop-reqscope.js', path: '/' },
    connections: 50,
    atLeast: 0.96,
    aim: 0.98,
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
  {
    name: '64 enqueues without a transaction',
    ours: jobs('scope.enqueue', '/enqueue'),
    baseline: bareJobs('queue.add', '/enqueue'),
    connections: 4,
    atLeast: 0.95,
    aim: 1,
  },
  {
    name: 'an enqueue in a transaction, until the job is in its queue',
    ours: jobs('Postgres transport: insert, commit', '/in-transaction'),
    baseline: jobs('outbox: insert, commit, relay, queue.add', '/outbox'),
    connections: 32,
    atLeast: 1.5,
    aim: 1.5,
  },
  {
    name: '64 empty jobs at once, each in a scope',
    ours: jobs('scopes.work', '/run'),
    baseline: bareJobs('a bare BullMQ worker', '/run'),
    connections: 1,
    atLeast: 0.95,
    aim: 1,
  },
]

/** Bytes of heap per open idle scope. */
export const memory = { name: 'memory per open idle scope', atMost: 2_048, aim: 1_024 }
