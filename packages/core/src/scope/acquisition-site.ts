import { fileURLToPath } from 'node:url'

const FRAMES = 12
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
    const frames = this.stack.split('\n').slice(1).map((line) => line.trim().replace(/^at /, ''))
    return frames.find(isUsers) ?? frames[0] ?? 'an unknown place'
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
