import { afterEach, expect, it, vi } from 'vitest'
import { stderrLogger } from '../../src/scope/logger.ts'

afterEach(() => void vi.restoreAllMocks())

function written(facts: object) {
  let line = ''
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    line += text
    return true
  })
  stderrLogger({ scopeId: 'r-1' }).error(facts, 'it failed')
  vi.restoreAllMocks()
  expect(line.endsWith('\n')).toBe(true)
  return JSON.parse(line)
}

it('prints an error with its cause and the errors it joins', () => {
  const err = new AggregateError([new Error('one'), new Error('two')], 'both', { cause: new Error('the root') })
  expect(written({ err })).toMatchObject({
    level: 'error',
    scopeId: 'r-1',
    message: 'it failed',
    err: { message: 'both', cause: { message: 'the root' }, errors: [{ message: 'one' }, { message: 'two' }] },
  })
})

it('prints what JSON can not hold: circles, bigints, and what throws when it is read', () => {
  const circle: Record<string, unknown> = { rows: 3n, at: new Date(0) }
  circle.self = circle
  const err = new Error('its own cause')
  err.cause = err
  const broken = {
    get value() {
      throw new Error('unreadable')
    },
  }
  expect(written({ circle, err, broken })).toMatchObject({
    circle: { rows: '3', at: '1970-01-01T00:00:00.000Z', self: '[circular]' },
    err: { message: 'its own cause', cause: '[circular]' },
    broken: '[unreadable]',
  })
})
