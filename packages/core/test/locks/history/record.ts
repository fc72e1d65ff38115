/**
 * What the processes of a run note down, one record a line. `at` is the machine's monotonic clock in ms, the same in every
 * process.
 */
export type Record =
  | { readonly tag: 'asked'; readonly at: number; readonly hold: string; readonly key: string }
  /** Its function began; `validUntil` is what its own clock said. */
  | {
      readonly tag: 'granted'
      readonly at: number
      readonly hold: string
      readonly key: string
      readonly fence: number
      readonly validUntil: number
    }
  /** It found itself to be valid, with the lease renewed perhaps. */
  | { readonly tag: 'valid'; readonly at: number; readonly hold: string; readonly validUntil: number }
  /** It was told by its signal that the lock was lost. */
  | { readonly tag: 'told'; readonly at: number; readonly hold: string }
  /** Its function ended: from here on it does not count itself as the holder. */
  | { readonly tag: 'done'; readonly at: number; readonly hold: string; readonly lost: boolean }
  /** Nothing was had, for a reason that was told. */
  | { readonly tag: 'refused'; readonly at: number; readonly hold: string; readonly code: string }
  /** A write with the fence; `version` counts the writes that succeeded for the key, in the order of the database. */
  | {
      readonly tag: 'wrote'
      readonly hold: string
      readonly key: string
      readonly fence: number
      readonly version: number
    }
  | { readonly tag: 'stale'; readonly hold: string; readonly key: string; readonly fence: number }

export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
