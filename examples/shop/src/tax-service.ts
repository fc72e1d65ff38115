import { setTimeout as sleep } from 'node:timers/promises'

const PERCENT: Readonly<Record<string, number>> = { AT: 20, CH: 8, DE: 19, FR: 20 }

/** Stands for an API of somebody else that takes its time. Resolves to the rate in percent. */
export async function taxPercentOf(country: string, { signal }: { signal: AbortSignal }): Promise<number> {
  await sleep(100, undefined, { signal })
  return PERCENT[country] ?? 0
}
