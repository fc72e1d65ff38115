import { currentScope } from '@reqscope/core'
import { Locked, RateLimited, Transactional } from '@reqscope/core/decorators'

type Probe<Result> = () => Promise<Result>

class Sessions {
  readonly prefix: string
  constructor(prefix: string) {
    this.prefix = prefix
  }

  @Locked({
    key(this: Sessions, id: string) {
      return `${this.prefix}:${id}`
    },
    waitMs: 0,
  })
  async append(id: string, probe: Probe<string>): Promise<string> {
    return `${this.prefix} ${id} ${await probe()}`
  }

  @RateLimited({
    key(this: Sessions, id: string, _often: number) {
      return `${this.prefix}:${id}`
    },
    limit: 3,
    windowMs: 60_000,
    cost: (_id: string, often: number) => often,
  })
  async limited(id: string, often: number): Promise<string> {
    return `${this.prefix} ${id} ${often}`
  }

  @Locked({ key: ['both', 'of them'], waitMs: 0 })
  async several(probe: Probe<string>): Promise<string> {
    return probe()
  }

  @Locked({ key: (id: string) => id })
  @Transactional()
  async lockedOutside(_id: string, probe: Probe<string>): Promise<string> {
    return probe()
  }

  @Transactional({ isolationLevel: 'serializable', retries: 2 })
  @Locked({ key: (id: string) => id })
  async lockedInside(_id: string, probe: Probe<string>): Promise<string> {
    return probe()
  }

  @Locked({ key: (id: string) => `static:${id}`, waitMs: 0 })
  static async of(id: string, probe: Probe<string>): Promise<string> {
    // biome-ignore lint/complexity/noThisInStatic: that it is kept is what is tested
    return `${this.name} ${id} ${await probe()}`
  }
}

export class ChatSessions extends Sessions {
  override async append(id: string, probe: Probe<string>): Promise<string> {
    return `chat ${await super.append(id, probe)}`
  }

  @Locked({ key: (id: string) => `private:${id}`, waitMs: 0 })
  async #hidden(id: string, probe: Probe<string>): Promise<string> {
    return `hidden ${id} ${await probe()}`
  }

  hidden(id: string, probe: Probe<string>): Promise<string> {
    return this.#hidden(id, probe)
  }

  /** What does not compile. */
  static async wrong(): Promise<void> {
    class Wrong {
      // @ts-expect-error the method takes a number where the key takes a string
      @Locked({ key: (id: string) => id })
      async number(id: number): Promise<number> {
        return id
      }

      // @ts-expect-error the method takes a number where the key takes a string
      @RateLimited({ key: (id: string) => id, limit: 1, windowMs: 1_000 })
      async often(id: number): Promise<number> {
        return id
      }

      // @ts-expect-error a lock takes time: the method has to return a promise
      @Locked({ key: 'k' })
      direct(): number {
        return 1
      }
    }
    void new Wrong()
    void currentScope
  }
}
