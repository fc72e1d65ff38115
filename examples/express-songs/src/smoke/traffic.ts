import { Agent, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../random.ts'

const HANG_UP_WITHIN_MS = 40
const ABORTED_SHARE = 0.2
const SILENCE_MS = 30_000

/** An answer, or the lack of one, that a client does not expect. */
export interface Trouble {
  readonly call: string
  readonly what: string
  /** The `code` of a typed error. */
  readonly code: string | undefined
  readonly status: number | undefined
  /** In milliseconds since the epoch. */
  readonly at: number
}

/** Twelve tabs at once, and more: all of them ask for the songs of plans, look at some, and make plans; some hang up. */
export class Traffic {
  requests = 0
  aborted = 0
  readonly troubles: Trouble[] = []
  /** Plans that were confirmed with 201. */
  readonly confirmed: number[] = []
  readonly #url: string
  readonly #agent: Agent

  constructor(url: string, connections: number) {
    this.#url = url
    this.#agent = new Agent({ keepAlive: true, maxSockets: connections })
  }

  /** Runs one tab until then. */
  async tab(seed: number, until: number): Promise<void> {
    const random = new Random(seed)
    while (Date.now() < until) {
      const dice = random.next()
      if (dice < 0.6) await this.#ask(random, 'GET', `/plans/${random.integer(1, 40)}/songs`)
      else if (dice < 0.8) await this.#ask(random, 'GET', `/songs/${random.integer(1, 500)}`)
      else if (dice < 0.9) await this.#ask(random, 'GET', `/songs?search=${random.pick(['harbour', 'Ember', 'no. 4'])}`)
      else await this.#plan(random)
    }
  }

  close(): void {
    this.#agent.destroy()
  }

  async #plan(random: Random): Promise<void> {
    const isUnknown = random.chance(0.2)
    const songs = [random.integer(1, 500), isUnknown ? 1_000_000 : random.integer(1, 500)]
    const answer = await this.#ask(random, 'POST', '/plans', { name: 'Smoke', songs }, isUnknown ? 422 : 201)
    if (answer?.status === 201) this.confirmed.push((JSON.parse(answer.body) as { id: number }).id)
  }

  async #ask(
    random: Random,
    method: string,
    path: string,
    body?: object,
    expected = 200,
  ): Promise<{ status: number; body: string } | undefined> {
    const hangUpAfterMs = random.chance(ABORTED_SHARE) ? random.next() * HANG_UP_WITHIN_MS : undefined
    const call = `${method} ${path}`
    this.requests++
    const outgoing = request(`${this.#url}${path}`, { method, agent: this.#agent, timeout: SILENCE_MS })
    outgoing.once('timeout', () => outgoing.destroy(new Error(`nothing came for ${SILENCE_MS} ms`)))
    let hungUp = false
    const timer =
      hangUpAfterMs === undefined
        ? undefined
        : setTimeout(() => {
            hungUp = true
            outgoing.destroy()
          }, hangUpAfterMs)
    try {
      const answered = new Promise<{ status: number; body: string }>((resolve, reject) => {
        outgoing.once('error', reject)
        outgoing.once('response', (incoming) =>
          text(incoming).then((read) => resolve({ status: incoming.statusCode ?? 0, body: read }), reject),
        )
      })
      if (body === undefined) outgoing.end()
      else outgoing.setHeader('content-type', 'application/json').end(JSON.stringify(body))
      const answer = await answered
      if (answer.status !== expected) this.#trouble(call, answer.body, answer.status)
      return answer
    } catch (error) {
      if (hungUp) {
        this.aborted++
        return undefined
      }
      this.#trouble(call, String(error))
      await sleep(100) // the song book may be gone
      return undefined
    } finally {
      clearTimeout(timer)
    }
  }

  #trouble(call: string, what: string, status?: number): void {
    this.troubles.push({ call, what: what.slice(0, 300), status, code: codeIn(what), at: Date.now() })
  }
}

function codeIn(body: string): string | undefined {
  try {
    return (JSON.parse(body) as { code?: string }).code
  } catch {
    return undefined
  }
}
