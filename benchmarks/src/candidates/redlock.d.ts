// Its types are not reachable through its exports.
declare module 'redlock' {
  export default class Redlock {
    constructor(clients: unknown[], settings: { retryCount: number; retryDelay: number; retryJitter: number })
    using(keys: string[], ttlMs: number, settings: object, fn: () => Promise<void>): Promise<void>
  }
}
