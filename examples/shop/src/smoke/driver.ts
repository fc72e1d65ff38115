import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../random.ts'
import { type Answer, Client, type HangUp } from './client.ts'
import { type Errand, Errands } from './errand.ts'
import type { Plan, Traffic, Trouble } from './traffic.ts'
import { TrafficCount } from './traffic-count.ts'

/** Sends mixed traffic over all connections at once until the time is over, and waits for the last answers. */
export async function drive(plan: Plan): Promise<Traffic> {
  const client = new Client(plan.url, plan.connections)
  const count = new TrafficCount()
  const until = Date.now() + plan.seconds * 1_000
  const customers = Array.from({ length: plan.connections }, (_, index) => new Customer(plan, index, client, count))
  await Promise.all(customers.map((customer) => customer.shop(until)))
  client.close()
  return count.result(customers.flatMap((customer) => customer.acknowledgedOrders))
}

/** One connection's worth of traffic: one errand after the other. */
class Customer {
  readonly #plan: Plan
  readonly #client: Client
  readonly #count: TrafficCount
  readonly #random: Random
  readonly #errands: Errands
  #requests = 0
  #aborted = 0

  constructor(plan: Plan, index: number, client: Client, count: TrafficCount) {
    this.#plan = plan
    this.#client = client
    this.#count = count
    this.#random = new Random(plan.seed + 2 * index)
    this.#errands = new Errands(new Random(plan.seed + 2 * index + 1), plan, `customer${index}`)
  }

  get acknowledgedOrders(): readonly number[] {
    return this.#errands.acknowledgedOrders
  }

  async shop(until: number): Promise<void> {
    while (Date.now() < until) await this.#run(this.#errands.next())
  }

  async #run(errand: Errand): Promise<void> {
    const startedAt = Date.now()
    const clock = performance.now()
    const ending = await this.#client.send(errand, this.#hangUp(errand))
    const tookMs = performance.now() - clock
    this.#requests += 1
    const trouble = (facts: Omit<Trouble, 'route' | 'startedAt' | 'endedAt'>): void =>
      this.#count.trouble({ route: errand.route, startedAt, endedAt: Date.now(), ...facts })
    switch (ending.tag) {
      case 'aborted':
        this.#aborted += 1
        this.#count.aborted(errand.route)
        return
      case 'complete': {
        this.#count.complete(errand.route, ending.answer.status, tookMs)
        if (ending.answer.status >= 500) return trouble(serverError(ending.answer))
        const wrong = errand.check(ending.answer)
        return wrong === undefined
          ? undefined
          : trouble({ kind: 'wrong answer', status: ending.answer.status, what: wrong })
      }
      case 'cut off':
        this.#count.broken(errand.route)
        return trouble({ kind: 'cut off', status: ending.status, what: 'the answer ended in the middle' })
      case 'no answer':
        this.#count.broken(errand.route)
        trouble({ kind: 'no answer', what: String(ending.error) })
        // The app may be gone.
        return sleep(100)
    }
  }

  /**
   * Some answers are there before the client hangs up, so it tries more often until its share is reached. The moment is
   * anywhere in the time that such requests take.
   */
  #hangUp({ route, body }: Errand): HangUp | undefined {
    const [dice, moment, upload] = [this.#random.next(), this.#random.next(), this.#random.next()]
    const behind = this.#aborted < this.#requests * this.#plan.abortedShare
    if (dice > (behind ? 2 : 0.5) * this.#plan.abortedShare) return undefined
    return { afterMs: moment * this.#count.typicalMs(route), inUpload: body !== undefined && upload < 0.1 }
  }
}

function serverError({
  status,
  contentType,
  body,
}: Answer): Pick<Trouble, 'kind' | 'status' | 'contentType' | 'code' | 'what'> {
  const facts = { kind: 'server error', status, contentType, what: body.slice(0, 500) } as const
  try {
    return { ...facts, code: String((JSON.parse(body) as { code?: unknown }).code) }
  } catch {
    return facts
  }
}
