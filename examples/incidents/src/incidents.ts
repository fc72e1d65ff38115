import { clientsNeverClosed } from '../1-clients-never-closed/replay.ts'
import { watchLeftBehind } from '../2-watch-left-behind/replay.ts'
import { poolExhaustion } from '../3-pool-exhaustion/replay.ts'
import { lockOfOneInstance } from '../4-lock-of-one-instance/replay.ts'
import { sessionInABackgroundTask } from '../5-session-in-a-background-task/replay.ts'
import type { Incident } from './incident.ts'

export interface Extent {
  /** How long the third is overloaded. */
  readonly seconds: number
  /** How many messages the fourth sends. */
  readonly messages: number
}

export const incidents = ({ seconds, messages }: Extent): readonly Incident[] => [
  clientsNeverClosed,
  watchLeftBehind,
  poolExhaustion(seconds),
  lockOfOneInstance(messages),
  sessionInABackgroundTask,
]
