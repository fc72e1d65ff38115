import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { onTestFinished } from 'vitest'
import type { ReqscopeEvents } from '../src/index.ts'

/** The events of one kind that are published while the test runs. */
export function heard<Name extends keyof ReqscopeEvents>(name: Name): ReqscopeEvents[Name][] {
  const events: ReqscopeEvents[Name][] = []
  const listen = (event: unknown) => void events.push(event as ReqscopeEvents[Name])
  subscribe(name, listen)
  onTestFinished(() => void unsubscribe(name, listen))
  return events
}
