import { Agent, type IncomingMessage, request } from 'node:http'

export interface Call {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body?: object
}

/** When the client hangs up. */
export interface HangUp {
  /** Counted from the moment when the request is out. */
  readonly afterMs: number
  /** Send half of the body only. */
  readonly inUpload: boolean
}

export interface Answer {
  readonly status: number
  readonly contentType: string
  readonly body: string
}

export type Ending =
  | { readonly tag: 'complete'; readonly answer: Answer }
  | { readonly tag: 'aborted' }
  | { readonly tag: 'cut off'; readonly status: number }
  | { readonly tag: 'no answer'; readonly error: Error }

/** The shop answers or gives up long before. */
const SILENCE_MS = 30_000

/** Clients that keep their connections open, as browsers and proxies do, and hang up in the middle when told to. */
export class Client {
  readonly #url: string
  readonly #agent: Agent

  constructor(url: string, connections: number) {
    this.#url = url
    this.#agent = new Agent({ keepAlive: true, maxSockets: connections })
  }

  /** Never rejects. */
  send({ method, path, body }: Call, hangUp?: HangUp): Promise<Ending> {
    return new Promise((resolve) => {
      const payload = body === undefined ? '' : JSON.stringify(body)
      const headers =
        body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }
      const call = request(`${this.#url}${path}`, { method, agent: this.#agent, headers })
      let timer: NodeJS.Timeout | undefined
      let hungUp = false
      const end = (ending: Ending): void => {
        clearTimeout(timer)
        resolve(hungUp ? { tag: 'aborted' } : ending)
      }
      const hangUpLater = (): void => {
        timer = setTimeout(() => {
          hungUp = true
          call.destroy()
        }, hangUp?.afterMs)
      }

      call.setTimeout(SILENCE_MS, () => call.destroy(new Error(`nothing came for ${SILENCE_MS} ms`)))
      call.on('error', (error) => end({ tag: 'no answer', error }))
      call.once('response', (response) => void read(response).then(end))
      if (hangUp?.inUpload) {
        call.write(payload.slice(0, payload.length / 2), hangUpLater)
      } else {
        if (hangUp !== undefined) call.once('finish', hangUpLater)
        call.end(payload)
      }
    })
  }

  close(): void {
    this.#agent.destroy()
  }
}

function read(response: IncomingMessage): Promise<Ending> {
  return new Promise((resolve) => {
    const status = response.statusCode ?? 0
    const contentType = response.headers['content-type'] ?? ''
    let body = ''
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => (body += chunk))
    response.once('end', () => resolve({ tag: 'complete', answer: { status, contentType, body } }))
    // Cut off in the middle it is an error for Node; what matters comes with 'close'.
    response.on('error', () => {})
    response.once('close', () => resolve({ tag: 'cut off', status }))
  })
}
