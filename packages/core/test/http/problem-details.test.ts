import { describe, expect, it } from 'vitest'
import { problemDetails } from '../../src/http/index.ts'
import {
  ConnectionLostError,
  DeadlineExceededError,
  OverloadedError,
  PoolExhaustedError,
  ScopeAbortedError,
  ScopeLeakError,
} from '../../src/index.ts'

const scope = { id: 'req-1', kind: 'request', name: 'GET /orders' }

describe('problem details', () => {
  it('says when to try again, in whole seconds and at least one', () => {
    const exhausted = (retryAfterMs: number) =>
      new PoolExhaustedError({
        resource: 'db',
        max: 10,
        waiting: 3,
        waitedMs: 5_000,
        opening: 0,
        heldByScope: 0,
        reason: 'timeout',
        retryAfterMs,
      })
    expect(problemDetails(exhausted(1)).headers).toEqual({
      'content-type': 'application/problem+json',
      'retry-after': '1',
    })
    expect(problemDetails(exhausted(2_001)).headers['retry-after']).toBe('3')
    expect(problemDetails(exhausted(1)).body).toMatchObject({
      type: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
      status: 503,
      code: 'RSC_POOL_EXHAUSTED',
    })
  })

  it('tells a client nothing of what happened inside', () => {
    const leak = new ScopeLeakError({
      scope,
      usedFrom: { ...scope, id: 'req-2' },
      resource: 'db',
      takenAt: 'handler (/srv/app/orders.ts:7:3)',
    })
    expect(problemDetails(leak)).toEqual({
      statusCode: 500,
      headers: { 'content-type': 'application/problem+json' },
      body: { type: 'about:blank', title: 'Internal Server Error', status: 500, code: 'RSC_SCOPE_LEAK' },
    })
    const lost = new ConnectionLostError({
      resource: 'db',
      reason: 'unreachable',
      message: 'connect ECONNREFUSED 10.0.0.7',
    })
    expect(JSON.stringify(problemDetails(lost).body)).not.toContain('10.0.0.7')
    const late = new DeadlineExceededError({ scope, timeoutMs: 100 })
    expect(problemDetails(late)).toMatchObject({ statusCode: 504, body: { title: 'Gateway Timeout' } })
  })

  it('does not invite to repeat what may have been done', () => {
    const lost = new ConnectionLostError({
      resource: 'db',
      reason: 'lost',
      message: 'lost in COMMIT',
      outcome: 'unknown',
    })
    const { headers, body } = problemDetails(lost)
    expect(headers['retry-after']).toBeUndefined()
    expect(body).toMatchObject({ status: 503, outcome: 'unknown' })
    expect(body.detail).toContain('Check before repeating')
  })

  it('has a title for every status', () => {
    expect(problemDetails(new ScopeAbortedError({ scope, reason: 'client' })).body.title).toBe('Client Closed Request')
    expect(problemDetails(new OverloadedError({ reason: 'shutdown', what: 'GET /' })).body.title).toBe(
      'Temporary Reduced Capacity',
    )
  })
})
