export { type PostgresOptions, type PostgresServer, startPostgres } from './postgres.ts'
export type { Tls } from './postgres-cluster.ts'
export { connect, createDatabase, type Database } from './postgres-database.ts'
export { type RedisOptions, type RedisServer, startRedis } from './redis.ts'
