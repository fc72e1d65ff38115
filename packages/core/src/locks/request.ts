import type { Scope } from '../scope/scope.ts'
import type { LockConfig } from './options.ts'
import type { LockRequest } from './store.ts'

/** What a store is asked for, and the end of its waiting: the scope's cancellation, or the signal the user gave. */
export class Request implements LockRequest {
  readonly keys: readonly string[]
  readonly scope: Scope | undefined
  onCancel: { cancelled(): void } | undefined
  cancelReason: unknown
  isCancelled = false
  readonly #config: LockConfig
  #controller: AbortController | undefined

  constructor(keys: readonly string[], config: LockConfig, scope: Scope | undefined) {
    this.keys = keys
    this.#config = config
    this.scope = scope
  }

  get ttlMs(): number {
    return this.#config.ttlMs
  }

  get waitMs(): number {
    return this.#config.waitMs
  }

  get mode(): 'exclusive' | 'shared' {
    return this.#config.mode
  }

  get limit(): number | undefined {
    return this.#config.limit
  }

  get holder(): Scope | undefined {
    return this.scope
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.isCancelled) this.#controller.abort(this.cancelReason)
    }
    return this.#controller.signal
  }

  /** Heeds the user's signal; `over` has to follow. */
  begin(): void {
    const { signal } = this.#config
    if (signal === undefined) return
    if (signal.aborted) this.cancel(signal.reason)
    else signal.addEventListener('abort', this)
  }

  over(): void {
    this.#config.signal?.removeEventListener('abort', this)
  }

  /** @internal The user's signal has fired. */
  handleEvent(): void {
    this.cancel(this.#config.signal?.reason)
  }

  cancel(reason: unknown): void {
    if (this.isCancelled) return
    this.isCancelled = true
    this.cancelReason = reason
    this.#controller?.abort(reason)
    this.onCancel?.cancelled()
  }
}
