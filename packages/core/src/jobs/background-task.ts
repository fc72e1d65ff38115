import { randomUUID } from 'node:crypto'
import { COMPLETED } from '../scope/cleanup-stack.ts'
import { outsideEveryScope, runInContext } from '../scope/current.ts'
import type { JobRuntime } from '../scope/job.ts'
import type { Scope } from '../scope/scope.ts'

/** Runs `fn` in a scope of its own, outside of the caller's; also while the runtime starts or closes. */
export function backgroundTask<Result>(
  runtime: JobRuntime,
  name: string,
  timeoutMs: number,
  fn: (scope: Scope) => Promise<Result>,
): Promise<Result> {
  return outsideEveryScope(async () => {
    const scope = runtime.open({ id: randomUUID(), kind: 'task', name, timeoutMs })
    try {
      const result = await runInContext(scope, () => fn(scope))
      await scope.end(COMPLETED)
      return result
    } catch (error) {
      await scope.end({ tag: scope.cancelReason === undefined ? 'failed' : 'aborted', error })
      throw error
    }
  })
}
