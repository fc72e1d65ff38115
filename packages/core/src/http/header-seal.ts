const METHODS = ['setHeader', 'setHeaders', 'appendHeader', 'removeHeader'] as const
type Sealed = { [Method in (typeof METHODS)[number]]?: unknown }

/** What node throws where a head that was sent is to be changed. */
export function headersSent(): Error {
  return Object.assign(new Error('Cannot set headers after they are sent to the client'), {
    code: 'ERR_HTTP_HEADERS_SENT',
  })
}

/**
 * Keeps the headers of a reply that was given and is not sent yet as they are: a second answer, a common mistake, throws as it
 * does elsewhere, and does not put its length or its type into the head of the first.
 */
export class HeaderSeal {
  readonly #response: Sealed
  /** What had been put over the response's own. */
  readonly #own: Sealed = {}

  constructor(response: object) {
    this.#response = response
    for (const method of METHODS) {
      if (Object.hasOwn(response, method)) this.#own[method] = this.#response[method]
      this.#response[method] = refuse
    }
  }

  break(): void {
    for (const method of METHODS) delete this.#response[method]
    Object.assign(this.#response, this.#own)
  }
}

function refuse(): never {
  throw headersSent()
}
