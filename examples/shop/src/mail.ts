import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface Mail {
  /** Names its file: a mail that is sent again replaces itself. */
  readonly key: string
  readonly to: string
  readonly subject: string
  readonly text: string
}

/** Sends mails into a folder, where a mail program can open them. */
export class Mailer {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async open(): Promise<void> {
    await mkdir(this.#folder, { recursive: true })
  }

  async send({ key, to, subject, text }: Mail): Promise<void> {
    const lines = [
      'From: The shop <shop@example.com>',
      `To: ${oneLine(to)}`,
      `Subject: ${oneLine(subject)}`,
      `Message-ID: <${key}@shop.example.com>`,
      'Content-Type: text/plain; charset=utf-8',
      '',
      text,
    ]
    // Renamed into place: nobody sees half a mail, whenever the process dies.
    const draft = join(this.#folder, `.${key}.${process.pid}.draft`)
    await writeFile(draft, lines.join('\r\n'))
    await rename(draft, join(this.#folder, `${key}.eml`))
  }
}

/** A header ends with its line: a name must not bring headers of its own. */
function oneLine(text: string): string {
  return text.replaceAll(/[\r\n]+/g, ' ')
}
