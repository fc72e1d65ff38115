import { createHash } from 'node:crypto'

/** The commands a script needs of a client; ioredis has them, and so does a cluster. */
export interface ScriptClient {
  evalsha(sha: string, numberOfKeys: number, ...rest: (string | number)[]): Promise<unknown>
  eval(source: string, numberOfKeys: number, ...rest: (string | number)[]): Promise<unknown>
}

/** A Lua script. It is sent by its hash, and in full only to a server that has not seen it yet. */
export class Script {
  readonly source: string
  readonly sha: string

  constructor(source: string) {
    this.source = source
    this.sha = createHash('sha1').update(source).digest('hex')
  }

  async run(client: ScriptClient, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await client.evalsha(this.sha, keys.length, ...keys, ...args)
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      return client.eval(this.source, keys.length, ...keys, ...args)
    }
  }
}
