import type { LockResult } from './locks.ts'
import type { Effort, RowResult } from './measure.ts'

/** Everything one run has measured. */
export interface Results {
  readonly machine: {
    readonly node: string
    readonly cpu: string | undefined
    readonly cores: number
    readonly memoryGiB: number
  }
  readonly versions: Readonly<Record<string, string>>
  readonly effort: Effort
  readonly rows: readonly RowResult[]
  readonly locks: readonly LockResult[]
  readonly sizes: readonly {
    readonly name: string
    readonly bytes: number
    readonly atMost: number
    readonly aim?: number
  }[]
}

/** `RESULTS.md`, as it is committed. */
export function resultsPage({ machine, versions, effort, rows, locks, sizes }: Results): string {
  return `# Results

Written by \`npm run bench -- --write\`; what is measured, and what each candidate is, is in \`src/rows.ts\`, \`src/locks.ts\` and
\`src/candidates\`. Figures of other machines differ, ratios less.

${effort.rounds} rounds of ${effort.seconds} s for each candidate, in turn (A B, B A, …), after ${effort.warmUpSeconds} s of warm-up; the medians,
and in brackets the smallest and the largest ratio of two measurements that followed each other. Servers, candidate and load generator
share the machine: ${machine.cores} cores (${machine.cpu ?? 'unknown'}), ${machine.memoryGiB} GiB, Node ${machine.node}.

| what | ours | theirs | ratio | budget | |
| --- | --- | --- | --- | --- | --- |
${rows.map(throughputRow).join('\n')}

Ours and theirs are requests or operations in a second. CPU of the candidate's own process, in µs for each, and the 99th percentile:

| what | ours, µs | theirs, µs | ours, p99 ms | theirs, p99 ms | theirs |
| --- | --- | --- | --- | --- | --- |
${rows.map(costRow).join('\n')}

## Locks

| what | unit | ours | peers | ratio to the best | budget | |
| --- | --- | --- | --- | --- | --- | --- |
${locks.flatMap(lockRows).join('\n')}

## Memory

| what | bytes | at most | |
| --- | --- | --- | --- |
${sizes.map(({ name, bytes, atMost }) => `| ${name} | ${Math.round(bytes).toLocaleString('en')} | ${atMost.toLocaleString('en')} | ${verdict(bytes <= atMost)} |`).join('\n')}

## Versions

${Object.entries(versions)
  .map(([library, version]) => `${library} ${version}`)
  .join(', ')}
`
}

function throughputRow({ name, ours, baseline, ratio, ratioSpread: [least, most], atLeast, aim, holds }: RowResult) {
  const perSecond = (each: RowResult['ours']) => Math.round(each.requestsPerSecond).toLocaleString('en')
  const result = holds && ratio >= aim ? 'aim reached' : verdict(holds)
  return `| ${name} | ${perSecond(ours)} | ${perSecond(baseline)} (${baseline.name}) | ${ratio.toFixed(2)} (${least.toFixed(2)}–${most.toFixed(2)}) | ${atLeast} | ${result} |`
}

function costRow({ name, ours, baseline }: RowResult) {
  return `| ${name} | ${ours.cpuMicrosPerRequest.toFixed(1)} | ${baseline.cpuMicrosPerRequest.toFixed(1)} | ${ours.p99Ms} | ${baseline.p99Ms} | ${baseline.name} |`
}

function lockRows({ name, figures }: LockResult): string[] {
  return figures.map(({ unit, ours, peers, ratio, budget, holds }) => {
    const others = Object.entries(peers).map(([peer, value]) => `${peer} ${shown(value)}`)
    return `| ${name} | ${unit} | ${shown(ours)} | ${others.join(', ')} | ${ratio.toFixed(2)} | ${budget} | ${verdict(holds)} |`
  })
}

function shown(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(2)
}

const verdict = (holds: boolean) => (holds ? 'holds' : '**missed**')
