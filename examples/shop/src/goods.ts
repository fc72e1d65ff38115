import type { Random } from './random.ts'

const ADJECTIVES = [
  'Amber',
  'Brass',
  'Copper',
  'Folding',
  'Linen',
  'Nordic',
  'Oak',
  'Quiet',
  'Rustic',
  'Slate',
  'Velvet',
  'Walnut',
]
const THINGS = [
  'Armchair',
  'Basket',
  'Blanket',
  'Bookshelf',
  'Bowl',
  'Candle',
  'Clock',
  'Desk',
  'Kettle',
  'Lamp',
  'Mirror',
  'Mug',
  'Rug',
  'Stool',
  'Teapot',
  'Vase',
]
const ROOMS = ['bathroom', 'bedroom', 'garden', 'hallway', 'kitchen', 'living room', 'study']
const FIRST_NAMES = [
  'Ada',
  'Alan',
  'Barbara',
  'Dennis',
  'Edsger',
  'Frances',
  'Grace',
  'Ken',
  'Leslie',
  'Margaret',
  'Niklaus',
  'Radia',
]
const LAST_NAMES = [
  'Allen',
  'Borg',
  'Dijkstra',
  'Hamilton',
  'Hopper',
  'Lamport',
  'Liskov',
  'Perlman',
  'Ritchie',
  'Thompson',
  'Turing',
  'Wirth',
]
const OPINIONS: readonly (readonly [stars: number, text: string])[] = [
  [1, 'Broke on the first day.'],
  [2, 'Smaller than it looks in the picture.'],
  [3, 'Does what it should, no more.'],
  [4, 'Well made, though the delivery took a week.'],
  [5, 'Bought a second one, "just in case".'],
]

/** Invents the shop's goods, customers and opinions: the same ones for the same random numbers. */
export class Invention {
  readonly #random: Random

  constructor(random: Random) {
    this.#random = random
  }

  product(number: number) {
    const [adjective, thing, room] = [
      this.#random.pick(ADJECTIVES),
      this.#random.pick(THINGS),
      this.#random.pick(ROOMS),
    ]
    return {
      sku: `${thing.slice(0, 3).toUpperCase()}-${String(number).padStart(5, '0')}`,
      name: `${adjective} ${thing}`,
      description: `A ${adjective.toLowerCase()} ${thing.toLowerCase()} for the ${room}, model ${number}.`,
      priceCents: this.#random.integer(5, 500) * 100 - 1,
    }
  }

  customer(number: number) {
    const name = `${this.#random.pick(FIRST_NAMES)} ${this.#random.pick(LAST_NAMES)}`
    return { name, email: `${name.toLowerCase().replace(' ', '.')}.${number}@example.com`, createdAt: this.moment() }
  }

  opinion() {
    const [stars, text] = this.#random.pick(OPINIONS)
    return { stars, text, createdAt: this.moment() }
  }

  /** Some time in 2025. */
  moment(): Date {
    return new Date(Date.UTC(2025, 0, 1) + this.#random.integer(0, 365 * 24 * 60 - 1) * 60_000)
  }
}
