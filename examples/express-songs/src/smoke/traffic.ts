import { Agent, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../random.ts'

const HANG_UP_WITHIN_MS = 40
const ABORTED_SHARE = 0.2
const SILENCE_MS = 30_000

interface Visitor {
  readonly random: Random
  readonly address: string
}

interface Answer {
  readonly status: number
  readonly body: string
  readonly retryAfter: string | undefined
}

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

/** After so many requests a tab is somebody else's: nobody is limited who behaves. */
const REQUESTS_OF_A_VISITOR = 40
const GREEDY_EVERY_MS = 10

/**
 * Twelve tabs at once, and more: all of them ask for the songs of plans, look at some, and make plans; some hang up. And a greedy
 * client, who asks for nothing but the songs of plans.
 */
export class Traffic {
  /** What the greedy client was refused with 429, and what was let through to it. */
  limited = 0
  greedyPasses = 0
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
    for (let count = 0; Date.now() < until; count++) {
      const visitor = { random, address: `10.${seed}.${Math.floor(count / REQUESTS_OF_A_VISITOR) % 256}.1` }
      const dice = random.next()
      if (dice < 0.6) await this.#ask(visitor, 'GET', `/plans/${random.integer(1, 40)}/songs`)
      else if (dice < 0.8) await this.#ask(visitor, 'GET', `/songs/${random.integer(1, 500)}`)
      else if (dice < 0.9)
        await this.#ask(visitor, 'GET', `/songs?search=${random.pick(['harbour', 'Ember', 'no. 4'])}`)
      else await this.#plan(visitor)
    }
  }

  /** Runs the greedy client until then, which does not even wait for its answers. */
  async greedy(until: number): Promise<void> {
    const visitor = { random: new Random(0), address: '192.0.2.1' }
    const pending = new Set<Promise<void>>()
    while (Date.now() < until) {
      const asked = this.#askGreedily(visitor).finally(() => pending.delete(asked))
      pending.add(asked)
      await sleep(GREEDY_EVERY_MS)
    }
    await Promise.all(pending)
  }

  async #askGreedily(visitor: Visitor): Promise<void> {
    const answer = await this.#ask(visitor, 'GET', '/plans/1/songs', undefined, [200, 429])
    if (answer?.status === 200) this.greedyPasses++
    if (answer?.status !== 429) return
    this.limited++
    if (codeIn(answer.body) === 'RSC_RATE_LIMIT_EXCEEDED' && Number(answer.retryAfter) >= 1) return
    this.#trouble('GET /plans/1/songs', `refused without saying why or when to try again: ${answer.body}`, 429)
  }

  close(): void {
    this.#agent.destroy()
  }

  async #plan(visitor: Visitor): Promise<void> {
    const { random } = visitor
    const isUnknown = random.chance(0.2)
    const songs = [random.integer(1, 500), isUnknown ? 1_000_000 : random.integer(1, 500)]
    const answer = await this.#ask(visitor, 'POST', '/plans', { name: 'Smoke', songs }, [isUnknown ? 422 : 201])
    if (answer?.status === 201) this.confirmed.push((JSON.parse(answer.body) as { id: number }).id)
  }

  async #ask(
    { random, address }: Visitor,
    method: string,
    path: string,
    body?: object,
    expected: readonly number[] = [200],
  ): Promise<Answer | undefined> {
    const hangUpAfterMs = random.chance(ABORTED_SHARE) ? random.next() * HANG_UP_WITHIN_MS : undefined
    const call = `${method} ${path}`
    this.requests++
    const outgoing = request(`${this.#url}${path}`, {
      method,
      agent: this.#agent,
      timeout: SILENCE_MS,
      headers: { 'x-forwarded-for': address },
    })
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
      const answered = new Promise<Answer>((resolve, reject) => {
        outgoing.once('error', reject)
        outgoing.once('response', (incoming) =>
          text(incoming).then((read) => {
            const { statusCode = 0, headers } = incoming
            resolve({ status: statusCode, body: read, retryAfter: headers['retry-after'] })
          }, reject),
        )
      })
      if (body === undefined) outgoing.end()
      else outgoing.setHeader('content-type', 'application/json').end(JSON.stringify(body))
      const answer = await answered
      if (!expected.includes(answer.status)) this.#trouble(call, answer.body, answer.status)
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
