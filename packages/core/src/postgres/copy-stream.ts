import { finished, Readable, Writable } from 'node:stream'
import type { PendingQuery, Row } from 'postgres'
import type { Occupied } from './session.ts'

export function isStream(value: unknown): value is Readable | Writable {
  return value instanceof Readable || value instanceof Writable
}

/**
 * Calls `fn` when the client makes the stream of a query, in that very moment: it may fail before anybody who waits for
 * it can listen. And once all rows are written the client has forgotten it, and would tell nobody that they were refused.
 */
export function whenStreaming(query: PendingQuery<Row[]>, fn: (stream: Readable | Writable) => void): void {
  const settled = query as unknown as { resolve(value: unknown): void; reject(error: Error): void }
  const { resolve } = settled
  settled.resolve = (value) => {
    if (isStream(value)) {
      settled.reject = (error) => void value.destroy(error)
      fn(value)
    }
    resolve(value)
  }
}

/** Frees the connection once the stream is over, and ends the stream, with an error of ours, when the connection is lost. */
export function freeAfter(stream: Readable | Writable, { lease, isShared, failed, free }: Occupied): void {
  const { connection } = lease
  const destroy = stream.destroy.bind(stream) as (error?: Error) => never
  stream.destroy = (error?: Error) => destroy(error && (lease.failure(error) as Error))
  connection.occupant = stream
  let isOver = false
  const over = (error?: Error | null) => {
    if (isOver) return
    isOver = true
    connection.occupant = undefined
    if (error) failed(error)
    // The client stops reading for good from a connection whose COPY … TO was given up half-way, other than by the server.
    const readable = !error || !(stream instanceof Readable) || 'routine' in error
    // What follows in a transaction queues behind the last few bytes; somebody else gets the connection when those are through.
    if (isShared) return void free(readable && !connection.isGone)
    const answers = async () => {
      await lease.whenReady()
      return readable && connection.answers()
    }
    void answers().then(free)
  }
  // Before anybody else hears of it: the next statement may follow at once.
  stream.once('end', () => over()).once('finish', () => over())
  finished(stream, over)
}
