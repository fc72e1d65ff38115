/** A promise that is settled from outside: what a test waits at, and opens when it has seen what it came for. */
export class Gate<Value = void> {
  readonly passed: Promise<Value>
  open!: (value: Value) => void
  fail!: (error: unknown) => void

  constructor() {
    this.passed = new Promise((resolve, reject) => {
      this.open = resolve
      this.fail = reject
    })
    this.passed.catch(() => {})
  }
}

/** What `work` rejects with. */
export async function failureOf(work: PromiseLike<unknown>): Promise<unknown> {
  try {
    await work
  } catch (error) {
    return error
  }
  throw new Error('expected a rejection, and there was none')
}
