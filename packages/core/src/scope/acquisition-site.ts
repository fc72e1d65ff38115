import { fileURLToPath } from 'node:url'

// What makes a capture dear is the number of frames; the user's first one is rarely further away.
const FRAMES = 6
const SAMPLE_EVERY = 128
const MAX_NAMES = 1_000
const ownFolder = fileURLToPath(new URL('..', import.meta.url))

/** A place in the user's code. The stack is captured when it is made and put into words only when somebody asks. */
export class AcquisitionSite {
  declare stack: string

  /** @param below frames above and including this function are left out. */
  constructor(below: (...args: never[]) => unknown) {
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = FRAMES
    Error.captureStackTrace(this, below)
    Error.stackTraceLimit = limit
  }

  /** The user's first frame, `function (file:line:column)`, or the first frame at all where none is the user's. */
  toString(): string {
    const frames = this.stack
      .split('\n')
      .slice(1)
      .map((line) => line.trim().replace(/^at /, ''))
    return frames.find(isUsers) ?? frames[0] ?? 'an unknown place'
  }
}

/** How often sites are captured: at every acquisition, at some, or never. */
export type SiteCapture = 'always' | 'sampled' | 'never'

/**
 * Captures sites. Sampled, it captures the first of every name and one of 128 after that; the others are given the
 * newest of their name, which for a route is nearly always the same line.
 */
export class SiteRecorder {
  readonly #capture: SiteCapture
  readonly #samples = new Map<string, { site: AcquisitionSite; age: number }>()

  constructor(capture: SiteCapture) {
    this.#capture = capture
  }

  /** @param name what is sampled together: the route. */
  record(name: string, below: (...args: never[]) => unknown): AcquisitionSite | undefined {
    if (this.#capture === 'always') return new AcquisitionSite(below)
    if (this.#capture === 'never') return undefined
    const sample = this.#samples.get(name)
    if (sample !== undefined && ++sample.age < SAMPLE_EVERY) return sample.site
    const site = new AcquisitionSite(below)
    if (sample !== undefined || this.#samples.size < MAX_NAMES) this.#samples.set(name, { site, age: 0 })
    return site
  }
}

function isUsers(frame: string): boolean {
  const path = frame.replace(/file:\/\//, '')
  return (
    !path.includes('node:') &&
    !path.includes('/node_modules/') &&
    !path.includes(ownFolder) &&
    !/[/\\](@reqscope|packages)[/\\](core|fastify-plugin|express-adapter)[/\\](src|dist)[/\\]/.test(path)
  )
}
