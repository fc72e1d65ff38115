import type { RateLimitState } from '../errors.ts'

const seconds = (ms: number): number => Math.ceil(ms / 1_000)

/** `RateLimit-Policy`: which limits there are. IETF draft-ietf-httpapi-ratelimit-headers-10. */
export function policyHeader(policies: readonly Pick<RateLimitState, 'name' | 'limit' | 'windowMs'>[]): string {
  return policies
    .map(({ name, limit, windowMs }) => `${quoted(name)};q=${limit};w=${Math.max(1, seconds(windowMs))}`)
    .join(', ')
}

/** `RateLimit`: what is left of them. The same draft. */
export function limitHeader(states: readonly RateLimitState[]): string {
  let header = ''
  for (const { name, remaining, resetMs } of states) {
    header += `${header === '' ? '' : ', '}${quoted(name)};r=${remaining};t=${seconds(resetMs)}`
  }
  return header
}

/** The limit that the next request is likeliest to be refused by, as the `X-RateLimit-*` headers of old had it. */
export function legacyHeaders(states: readonly RateLimitState[]): Record<string, string> {
  const [first, ...others] = states
  if (first === undefined) return {}
  const tightest = others.reduce((least, each) => (each.remaining < least.remaining ? each : least), first)
  return {
    'x-ratelimit-limit': String(tightest.limit),
    'x-ratelimit-remaining': String(tightest.remaining),
    'x-ratelimit-reset': String(seconds(tightest.resetMs)),
  }
}

// A string of structured fields (RFC 9651); names hold nothing else, they are checked.
function quoted(name: string): string {
  return `"${name.includes('"') || name.includes('\\') ? name.replace(/["\\]/g, '\\$&') : name}"`
}
