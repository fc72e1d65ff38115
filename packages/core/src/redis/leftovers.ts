import type { Command } from 'ioredis'
import { connectionEffectOf } from './connection-commands.ts'

/** What its holder has left on a connection, as far as the commands show that were sent on it. */
export class Leftovers {
  /** The database the connection is to have. */
  readonly #home: number
  #database: number
  #watching = false
  #inMulti = false
  #spoiltBy: string | undefined

  constructor(home: number) {
    this.#home = this.#database = home
  }

  get areNone(): boolean {
    return this.canBeUndone && !this.#watching && this.#database === this.#home
  }

  get canBeUndone(): boolean {
    return this.spoiltBy === undefined
  }

  /** Why what was left can't be undone. */
  get spoiltBy(): string | undefined {
    return this.#spoiltBy ?? (this.#inMulti ? 'a MULTI was left open on it' : undefined)
  }

  /** Notes what a command that is about to be sent leaves. */
  note(name: string, command: Command): void {
    const effect = connectionEffectOf(name, command.args)
    switch (effect) {
      case undefined:
      case 'blocking':
        return
      case 'transaction':
        this.#noteTransaction(name, command)
        return
      case 'select':
        this.#database = Number(command.args[0])
        command.promise.catch(() => this.#spoil('SELECT failed on it'))
        return
      default:
        this.#spoil(`${name.toUpperCase()} changed it`)
    }
  }

  #noteTransaction(name: string, command: Command): void {
    // A refusal says that the server is not where we think it is. Not one of a transaction that was spoilt by its
    // commands: that one is over.
    command.promise.catch((error: unknown) => {
      if (!String((error as Error).message).startsWith('EXECABORT')) this.#spoil(`${name.toUpperCase()} failed on it`)
    })
    if (name === 'watch') this.#watching = true
    else if (name === 'multi') this.#inMulti = true
    else if (name === 'unwatch') this.#watching &&= this.#inMulti
    // Outside of a MULTI, EXEC and DISCARD are errors, and what is watched stays watched.
    else if (this.#inMulti) this.#inMulti = this.#watching = false
  }

  /** Notes MULTI to EXEC in one piece, which leaves nothing, not even what was watched before; unless it fails. */
  noteExecution(executed: Promise<unknown>): void {
    this.#watching = false
    executed.catch(() => this.#spoil('EXEC failed on it'))
  }

  #spoil(reason: string): void {
    this.#spoiltBy ??= reason
  }

  /** Un-watches, and selects the database it had. */
  undo(client: { unwatch(): Promise<unknown>; select(database: number): Promise<unknown> }): Promise<unknown>[] {
    const undoing: Promise<unknown>[] = []
    if (this.#watching) undoing.push(client.unwatch())
    if (this.#database !== this.#home) undoing.push(client.select(this.#home))
    return undoing
  }
}
