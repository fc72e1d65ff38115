/**
 * An error without its stack: who is refused at the door was stopped by a limit and not by a line of code, and a flood of
 * refusals must cost next to nothing.
 */
export function stackless<Made extends Error>(make: () => Made): Made {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return make()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}
