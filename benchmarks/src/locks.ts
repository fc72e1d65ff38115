import type { LockAnswer, LockQuestion } from './candidates/locks.ts'
import { Child } from './child.ts'
import type { Effort } from './measure.ts'
import { median } from './statistics.ts'

/** What locks are measured by: ours against the best of the peers in the same round. */
interface LockRow {
  readonly name: string
  readonly question: LockQuestion
  readonly pipelined: boolean
  readonly figures: readonly {
    readonly of: keyof LockAnswer
    readonly unit: string
    /** Whether ours over the best peer's has to be at least so much, or at most. */
    readonly atLeast?: number
    readonly atMost?: number
  }[]
}

const pairs = { task: 'pairs', ms: 2_000, holdMs: 0 } as const

export const lockRows: readonly LockRow[] = [
  {
    name: 'lock + release, 64 at once, as they come',
    question: { ...pairs, concurrency: 64 },
    pipelined: false,
    figures: [{ of: 'perSecond', unit: 'pairs/s', atLeast: 1.05 }],
  },
  {
    name: 'lock + release, 64 at once, peers pipelined',
    question: { ...pairs, concurrency: 64 },
    pipelined: true,
    figures: [{ of: 'perSecond', unit: 'pairs/s', atLeast: 0.85 }],
  },
  {
    name: 'lock + release, one at a time',
    question: { ...pairs, concurrency: 1 },
    pipelined: false,
    figures: [{ of: 'perSecond', unit: 'pairs/s', atLeast: 0.95 }],
  },
  {
    name: 'hand-over of a contended lock: 16 on one key, 5 ms each',
    question: { task: 'hand-over', concurrency: 16, ms: 4_000, holdMs: 5 },
    pipelined: false,
    figures: [
      { of: 'medianMs', unit: 'ms median', atMost: 1 },
      { of: 'p99Ms', unit: 'ms p99', atMost: 0.2 },
      { of: 'commandsEach', unit: 'commands each' },
    ],
  },
]

const PEERS = ['redis-semaphore', 'redlock', 'redlock-universal'] as const

export interface LockResult {
  readonly name: string
  readonly figures: readonly {
    readonly unit: string
    readonly ours: number
    readonly peers: Readonly<Record<string, number>>
    /** The median over the rounds of ours over the best peer's. */
    readonly ratio: number
    readonly budget: string
    readonly holds: boolean
  }[]
}

/** Each library in a process of its own, in turn, and in the other direction in every other round. */
export async function measureLocks(row: LockRow, redisUrl: string, effort: Effort): Promise<LockResult> {
  const libraries = ['reqscope', ...PEERS]
  const answers = new Map<string, LockAnswer[]>(libraries.map((library) => [library, []]))
  const children = new Map(
    libraries.map((library) => {
      // Ours sends what comes in one turn together in every row: that is how the redis resource comes.
      const pipelined = row.pipelined || library === 'reqscope' ? '1' : '0'
      const env = { REDIS_URL: redisUrl, LIBRARY: library, PIPELINED: pipelined }
      return [library, new Child('candidates/locks.js', { env })]
    }),
  )
  try {
    for (const child of children.values()) await child.answer()
    for (const child of children.values()) await child.ask({ ...row.question, ms: row.question.ms / 2 })
    for (let round = 0; round < effort.rounds; round++) {
      for (const library of round % 2 === 0 ? libraries : libraries.toReversed()) {
        const answer = await (children.get(library) as Child).ask<LockAnswer>(row.question)
        answers.get(library)?.push(answer)
      }
    }
  } finally {
    await Promise.all([...children.values()].map((child) => child.stop()))
  }
  const figures = row.figures.map(({ of, unit, atLeast, atMost }) => {
    const inRound = (library: string, round: number) => answers.get(library)?.[round]?.[of] ?? Number.NaN
    const best = atLeast === undefined ? Math.min : Math.max
    const rounds = Array.from({ length: effort.rounds }, (_, round) => round)
    const ratio = median(
      rounds.map((round) => inRound('reqscope', round) / best(...PEERS.map((peer) => inRound(peer, round)))),
    )
    const over = (library: string) => median(rounds.map((round) => inRound(library, round)))
    return {
      unit,
      ours: over('reqscope'),
      peers: Object.fromEntries(PEERS.map((peer) => [peer, over(peer)])),
      ratio,
      budget: atLeast !== undefined ? `≥ ${atLeast}` : atMost !== undefined ? `≤ ${atMost}` : '–',
      holds: (atLeast === undefined || ratio >= atLeast) && (atMost === undefined || ratio <= atMost),
    }
  })
  return { name: row.name, figures }
}

export const crowd = { name: 'bytes per waiter, 10,000 on 100 keys', atMost: 2_048 }

export async function measureCrowd(redisUrl: string): Promise<number> {
  const child = new Child('candidates/locks.js', {
    env: { REDIS_URL: redisUrl, LIBRARY: 'reqscope', PIPELINED: '1' },
    execArgv: ['--expose-gc'],
  })
  try {
    await child.answer()
    const question: LockQuestion = { task: 'waiters', concurrency: 10_000, ms: 0, holdMs: 0 }
    return (await child.ask<LockAnswer>(question)).bytesPerWaiter
  } finally {
    await child.stop()
  }
}
