import autocannon from 'autocannon'

/** What the parent asks for. */
export interface LoadRequest {
  readonly url: string
  readonly connections: number
  readonly seconds: number
  /** What every answer has to have: anything else counts as failed. */
  readonly status: number
}

/** What came of it. */
export interface LoadResult {
  readonly requestsPerSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly total: number
  readonly failed: number
}

// The load comes from a process of its own, so that it does not share the candidate's event loop.
process.on('message', (message) => {
  const { url, connections, seconds, status } = message as LoadRequest
  void autocannon({ url, connections, duration: seconds, timeout: 30 }).then((result) => {
    const stats = result.statusCodeStats as Partial<Record<number, { count: number }>> | undefined
    const answered = stats?.[status]?.count ?? 0
    const answer: LoadResult = {
      requestsPerSecond: result.requests.total / result.duration,
      p50Ms: result.latency.p50,
      p99Ms: result.latency.p99,
      total: result.requests.total,
      failed: result.requests.total - answered + result.errors + result.timeouts,
    }
    process.send?.(answer)
  })
})
process.on('disconnect', () => process.exit())
