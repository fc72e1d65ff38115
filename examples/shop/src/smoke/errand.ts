import type { Random } from '../random.ts'
import type { Answer, Call } from './client.ts'
import type { Plan } from './traffic.ts'

/** One thing a customer does, and what the answer to it has to look like. */
export interface Errand extends Call {
  readonly route: string
  /** Says what is wrong with an answer, server errors aside; undefined when nothing is. */
  check(answer: Answer): string | undefined
}

const WORDS = ['amber', 'brass lamp', 'desk', 'kitchen', 'mugs', 'oak -desk', 'velvet or linen', 'nothing of that kind']
/** Many orders want these few products: they run out, and their rows are fought over. */
const BESTSELLERS = 20

/** A stream of errands as one customer after the other does them. Its choices depend on its random numbers only. */
export class Errands {
  readonly #random: Random
  readonly #plan: Plan
  readonly #name: string
  readonly #signedUp: string[] = []
  readonly acknowledgedOrders: number[] = []
  #count = 0

  constructor(random: Random, plan: Plan, name: string) {
    this.#random = random
    this.#plan = plan
    this.#name = name
  }

  next(): Errand {
    const dice = this.#random.integer(1, 100)
    if (dice <= 25) return this.#lookAtProduct()
    if (dice <= 45) return this.#search()
    if (dice <= 70) return this.#order()
    if (dice <= 79) return this.#askForQuote()
    if (dice <= 85) return this.#reserve()
    if (dice <= 87) return this.#lookAtMarket()
    if (dice <= 95) return this.#signUp()
    if (dice <= 97) return this.#readReport()
    return this.#askForHealth()
  }

  #lookAtProduct(): Errand {
    const id = this.#random.integer(1, this.#plan.products)
    return {
      route: 'GET /products/:id',
      method: 'GET',
      path: `/products/${id}`,
      check: expecting(
        200,
        (product) => product.id === id && product.stock.quantity >= 0 && Array.isArray(product.reviews),
      ),
    }
  }

  #search(): Errand {
    const page = this.#random.integer(1, 5)
    const search = this.#random.chance(0.7) ? `&search=${encodeURIComponent(this.#random.pick(WORDS))}` : ''
    return {
      route: 'GET /products',
      method: 'GET',
      path: `/products?page=${page}${search}`,
      check: expecting(200, ({ total, items }) => items.length === Math.max(0, Math.min(20, total - (page - 1) * 20))),
    }
  }

  #order(): Errand {
    const lines = this.#lines()
    const accepted = expecting(201, (order) => {
      this.acknowledgedOrders.push(order.id)
      const total = order.lines.reduce(
        (sum: number, line: typeof order) => sum + line.quantity * line.unitPriceCents,
        0,
      )
      return Number.isInteger(order.id) && order.totalCents === total
    })
    const refused = expecting(409, ({ code }) => code === 'SHOP_OUT_OF_STOCK')
    return {
      route: 'POST /orders',
      method: 'POST',
      path: '/orders',
      body: { customerId: this.#random.integer(1, this.#plan.customers), lines },
      check: (answer) => (answer.status === 409 ? refused(answer) : accepted(answer)),
    }
  }

  #askForQuote(): Errand {
    return {
      route: 'POST /quotes',
      method: 'POST',
      path: '/quotes',
      body: { country: this.#random.pick(['AT', 'CH', 'DE', 'FR']), lines: this.#lines() },
      check: expecting(200, (quote) => quote.totalCents === quote.netCents + quote.taxCents && quote.lines.length > 0),
    }
  }

  /** Many want the same few, so some are told that they came too late, and some that there is nothing left. */
  #reserve(): Errand {
    const productId = this.#random.integer(1, BESTSELLERS)
    const accepted = expecting(201, (reserved) => reserved.productId === productId && reserved.left >= 0)
    const refused = expecting(409, ({ code }) => ['SHOP_OUT_OF_STOCK', 'RSC_OPTIMISTIC_CONFLICT'].includes(code))
    return {
      route: 'POST /reservations',
      method: 'POST',
      path: '/reservations',
      body: { productId, quantity: 1 },
      check: (answer) => (answer.status === 409 ? refused(answer) : accepted(answer)),
    }
  }

  #lookAtMarket(): Errand {
    return {
      route: 'GET /market',
      method: 'GET',
      path: '/market',
      check: expecting(200, ({ available }) => typeof available === 'boolean'),
    }
  }

  #signUp(): Errand {
    const again = this.#signedUp.length > 0 && this.#random.chance(0.3)
    this.#count += 1
    const email = again ? this.#random.pick(this.#signedUp) : `${this.#name}.${this.#count}@example.org`
    const accepted = expecting(201, (customer) => {
      this.#signedUp.push(email)
      return customer.email === email && customer.voucher.cents > 0
    })
    return {
      route: 'POST /signup',
      method: 'POST',
      path: '/signup',
      body: { name: 'Smoke Test', email: again ? email.toUpperCase() : email },
      check: again ? expecting(409, ({ code }) => code === 'SHOP_EMAIL_TAKEN') : accepted,
    }
  }

  #readReport(): Errand {
    return {
      route: 'GET /reports/orders.csv',
      method: 'GET',
      path: '/reports/orders.csv',
      check: ({ status, body }) => {
        if (status !== 200) return `status ${status}`
        const lines = body.split('\r\n')
        if (lines.pop() !== '') return 'it does not end with a line break'
        if (lines.length <= this.#plan.reportLines) return `it has ${lines.length} lines only`
        return lines.every((line) => line.split(',').length === 6) ? undefined : 'some lines are broken'
      },
    }
  }

  #askForHealth(): Errand {
    return {
      route: 'GET /health',
      method: 'GET',
      path: '/health',
      check: expecting(200, ({ status }) => status !== 'down'),
    }
  }

  #lines() {
    return Array.from({ length: this.#random.integer(1, 4) }, () => ({
      productId: this.#random.integer(1, this.#random.chance(0.1) ? BESTSELLERS : this.#plan.products),
      quantity: this.#random.integer(1, 3),
    }))
  }
}

// biome-ignore lint/suspicious/noExplicitAny: JSON from outside; what is missing in it throws, and is caught
function expecting(status: number, isSound: (body: any) => boolean): (answer: Answer) => string | undefined {
  return (answer) => {
    if (answer.status !== status) return `status ${answer.status} instead of ${status}: ${answer.body.slice(0, 200)}`
    try {
      if (isSound(JSON.parse(answer.body))) return undefined
    } catch {}
    return `not what it should be: ${answer.body.slice(0, 200)}`
  }
}
