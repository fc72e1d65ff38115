// Compiled by `npm run types`, never run: what a job's payload may be, and what does not compile. Above each refusal stands
// what its message says, which payload-types.test.ts checks.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { type } from 'arktype'
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import * as v from 'valibot'
import { z } from 'zod'
import type { Scope } from '../../src/index.ts'
import { defineJob } from '../../src/jobs/index.ts'
import type { Database } from './fixture.ts'

declare const scope: Scope & { readonly db: Database }
declare const brand: unique symbol
type OrderId = string & { readonly [brand]: 'OrderId' }
declare const orderId: OrderId

// What compiles.

interface Address {
  readonly street: string
  readonly lines?: string[]
}
interface Tree {
  readonly value: number
  readonly children: readonly Tree[]
}
interface Order {
  id: OrderId
  to: Address
  note?: string | null
  state: { kind: 'open' } | { kind: 'paid'; cents: number }
  pair: [string, number?]
  tags: readonly string[]
  prices: Record<string, number>
  tree: Tree
}
const accepted = defineJob<Order>()({ name: 'accepted', run: ({ data }) => void data.state.kind })
const order: Order = {
  id: orderId,
  to: { street: 'x' },
  state: { kind: 'paid', cents: 1 },
  pair: ['a'],
  tags: [],
  prices: {},
  tree: { value: 1, children: [] },
}
void scope.enqueue(accepted, order)
void scope.enqueue(accepted, { ...order, note: null, state: { kind: 'open' } })
void scope.enqueueAll(accepted, [order, order])

const whens = {
  zod: defineJob({
    name: 'zod',
    data: z.object({ when: z.string().transform((text) => new Date(text)), size: z.number().default(1) }),
    run: ({ data }) => [data.when satisfies Date, data.size satisfies number],
  }),
  valibot: defineJob({
    name: 'valibot',
    data: v.object({
      when: v.pipe(
        v.string(),
        v.transform((text) => new Date(text)),
      ),
    }),
    run: ({ data }) => void (data.when satisfies Date),
  }),
  arktype: defineJob({
    name: 'arktype',
    data: type({ when: 'string.date.parse' }),
    run: ({ data }) => void (data.when satisfies Date),
  }),
}
void scope.enqueue(whens.zod, { when: '2020-01-01' })
void scope.enqueue(whens.valibot, { when: '2020-01-01' })
void scope.enqueue(whens.arktype, { when: '2020-01-01' })
// @ts-expect-error 'string'
void scope.enqueue(whens.zod, { when: 5 })
// @ts-expect-error missing the following properties
void scope.enqueue(accepted, { tags: [] })

// Fifty levels.
type Nest<T, Levels extends number, Count extends unknown[] = []> = Count['length'] extends Levels
  ? T
  : { readonly inner: Nest<T, Levels, [...Count, unknown]>; readonly id: string }
defineJob<Nest<{ id: string }, 50>>()({ name: 'deep', run: () => {} })

// What does not.

// @ts-expect-error A scope does not outlive its request
defineJob<{ session: Scope }>()
// @ts-expect-error A database handle or transaction belongs to its scope
defineJob<{ session: { db: Database } }>()
// @ts-expect-error A database handle or transaction belongs to its scope
defineJob<{ tx: Parameters<Parameters<Database['transaction']>[0]>[0] }>()
// @ts-expect-error A postgres.js client stays in its process
defineJob<{ sql: Sql }>()
// @ts-expect-error A Redis client stays in its process
defineJob<{ redis: Redis }>()
// @ts-expect-error A request or response ends before the job runs
defineJob<{ request: IncomingMessage }>()
// @ts-expect-error A request or response ends before the job runs
defineJob<{ response: ServerResponse }>()
// @ts-expect-error JSON drops functions
defineJob<{ items: { done: () => void }[] }>()
// @ts-expect-error JSON has no symbols
defineJob<{ s: symbol }>()
// @ts-expect-error JSON has no bigint
defineJob<{ n: bigint }>()
// @ts-expect-error JSON turns a Map into {}
defineJob<{ seen: Map<string, number> }>()
// @ts-expect-error JSON turns a Set into {}
defineJob<{ seen: Set<string> }>()
// @ts-expect-error JSON turns a Date into a string
defineJob<{ when: Date }>()
// @ts-expect-error JSON turns a Date into a string
defineJob<{ either: string | { when?: Date } }>()
// @ts-expect-error A promise is not its value
defineJob<{ later: Promise<string> }>()
// @ts-expect-error JSON turns undefined in a list into null
defineJob<{ list: (string | undefined)[] }>()
// @ts-expect-error JSON has no bytes
defineJob<{ bytes: Uint8Array }>()
// @ts-expect-error JSON drops symbol keys
defineJob<{ inner: { readonly [brand]: string } }>()
declare class Money {
  readonly cents: number
  plus(other: Money): Money
}
// @ts-expect-error JSON drops functions
defineJob<{ total: Money }>()

// A schema whose input is not JSON.
defineJob({
  name: 'date',
  // @ts-expect-error JSON turns a Date into a string
  data: z.object({ when: z.date() }),
  run: () => {},
})

// Where the type is open, what is given is looked at, at the property.
const open = defineJob({ name: 'open', data: z.object({ session: z.unknown() }), run: () => {} })
void scope.enqueue(open, { session: { user: 'u' } })
// @ts-expect-error A database handle or transaction belongs to its scope
void scope.enqueue(open, { session: { db: scope.db } })
const payload = { ...order, db: scope.db }
// @ts-expect-error A database handle or transaction belongs to its scope
void scope.enqueue(accepted, payload)
