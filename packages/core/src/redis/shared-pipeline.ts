import type { Command, Redis } from 'ioredis'
import { sharedSlot } from './key-slot.ts'
import { allowsShared, type Pipeline, scopedPipeline } from './scoped-pipeline.ts'
import type { RedisSession } from './session.ts'

type Replies = [error: Error | null, reply: unknown][]

/** A pipeline or a MULTI of a scope, on the connection that all scopes share. */
export function sharedPipeline(session: RedisSession, kind: 'pipeline' | 'multi', commands: unknown): Pipeline {
  const { shared, isCluster } = session.connections
  session.assertUsable()
  const keys: string[] = []
  const asked = {
    scope: session.scope,
    resource: session.resource,
    async execute(run: () => Promise<unknown>) {
      session.assertUsable()
      const { armed } = session
      if (armed !== undefined) await armed
      let sent = false
      try {
        const replies = await shared.sending(() => {
          sent = true
          return run()
        })
        return kind === 'multi' ? replies : typedFailures(session, replies as Replies)
      } catch (error) {
        throw kind === 'multi' && sent ? shared.failure(error, 'unknown') : error
      }
    },
    ...(isCluster && {
      check(command: Command) {
        // A MULTI is of one slot, a pipeline each command by itself.
        if (kind === 'pipeline') keys.length = 0
        keys.push(...(command.getKeys() as string[]))
        sharedSlot(`${session.resource}.${kind}.keys`, keys, '')
      },
    }),
  }
  const list = Array.isArray(commands) ? commands : undefined
  return scopedPipeline(shared.client as Redis, kind, asked, list, allowsShared)
}

function typedFailures(session: RedisSession, replies: Replies): Replies {
  for (const each of replies) {
    if (each[0] !== null) each[0] = session.connections.shared.failure(each[0]) as Error
  }
  return replies
}
