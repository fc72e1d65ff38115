import { createInterface } from 'node:readline/promises'

/** Asks on the terminal; anything but a yes is a no. Standard output stays free for results. */
export async function confirm(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim())
  } finally {
    terminal.close()
  }
}
