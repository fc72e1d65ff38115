import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** A folder that one process at a time may use; a file in it says which. */
export class DataFolder {
  readonly path: string
  readonly #lockFile: string

  /** @throws Error naming the process that uses the folder already. */
  constructor(path: string) {
    this.path = path
    this.#lockFile = join(path, 'in-use-by')
    mkdirSync(path, { recursive: true })
    this.#lock()
  }

  release(): void {
    rmSync(this.#lockFile, { force: true })
  }

  #lock(): void {
    // Written first and linked then, so that nobody ever reads half a file.
    const draft = `${this.#lockFile}.${process.pid}`
    writeFileSync(draft, `${process.pid}\n`)
    try {
      linkSync(draft, this.#lockFile)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const holder = Number(readFileSync(this.#lockFile, 'utf8'))
      if (isRunning(holder)) {
        throw new Error(
          `The shop of this folder is open already, in process ${holder}. Stop that one first, or start a second shop ` +
            `with a folder of its own: npm start -- --data FOLDER. (Is process ${holder} something else? Delete ${this.#lockFile}.)`,
        )
      }
      // Left behind by a shop that was killed.
      rmSync(this.#lockFile, { force: true })
      this.#lock()
    } finally {
      rmSync(draft, { force: true })
    }
  }
}

function isRunning(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
