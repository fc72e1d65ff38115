import type { LockGrant, LockRefusal, LockRequest, LockStore } from '../../src/locks/index.ts'

interface Held {
  readonly token: string
  untilMs: number
}

/** A store as a user might bring one: exclusive locks of single keys, in memory, for the runtimes of one process. */
export class MemoryStore implements LockStore {
  readonly name = 'memory'
  readonly supports = { shared: false, severalKeys: false }
  readonly #held = new Map<string, Held>()
  readonly #queues = new Map<string, { readonly tell: (free: boolean) => void }[]>()
  #count = 0

  async acquire(request: LockRequest): Promise<LockGrant | LockRefusal> {
    const key = request.keys[0] as string
    if (this.#isHeld(key)) {
      if (request.waitMs === 0 || !(await this.#turn(key, request))) return { tag: 'held', holder: undefined }
    }
    const token = String(++this.#count)
    const since = { monotonicMs: performance.now(), wallMs: Date.now() }
    this.#held.set(key, { token, untilMs: since.monotonicMs + request.ttlMs })
    return { tag: 'granted', keys: request.keys, token, fence: this.#count, since, leaseMs: request.ttlMs }
  }

  async renew({ keys, token }: LockGrant, leaseMs: number): Promise<boolean> {
    const held = this.#held.get(keys[0] as string)
    if (held?.token !== token) return false
    held.untilMs = performance.now() + leaseMs
    return true
  }

  async release({ keys, token }: LockGrant): Promise<void> {
    const key = keys[0] as string
    if (this.#held.get(key)?.token !== token) return
    const next = this.#queues.get(key)?.shift()
    if (next === undefined) this.#held.delete(key)
    else next.tell(true)
  }

  #isHeld(key: string): boolean {
    const held = this.#held.get(key)
    return held !== undefined && held.untilMs > performance.now()
  }

  #turn(key: string, { signal, waitMs }: LockRequest): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const queue = this.#queues.get(key) ?? []
      this.#queues.set(key, queue)
      const leave = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        if (queue.includes(waiter)) queue.splice(queue.indexOf(waiter), 1)
      }
      const waiter = {
        tell: (free: boolean) => {
          leave()
          resolve(free)
        },
      }
      const abort = () => {
        leave()
        reject(signal?.reason)
      }
      const timer = setTimeout(() => waiter.tell(false), waitMs)
      signal?.addEventListener('abort', abort)
      if (signal?.aborted) return abort()
      queue.push(waiter)
    })
  }
}
