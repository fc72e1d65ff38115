import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { databaseUrl } from './answer.ts'

const SCOPES = 100_000

const gc = globalThis.gc
if (gc === undefined) throw new Error('run with --expose-gc')
const scopes = createScopes({ resources: { db: postgres({ url: databaseUrl }) } })
const ids = Array.from({ length: SCOPES }, (_, index) => `req-${index.toString(36)}`)
const held: unknown[] = new Array(SCOPES)
gc()
const before = process.memoryUsage().heapUsed
for (let index = 0; index < SCOPES; index++) {
  held[index] = scopes.open({ id: ids[index] ?? '', kind: 'request', name: 'GET /', onAbort: 'cancel' })
}
gc()
process.send?.({ bytesPerScope: (process.memoryUsage().heapUsed - before) / held.length })
process.disconnect?.()
