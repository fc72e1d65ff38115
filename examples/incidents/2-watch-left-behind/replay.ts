import { Redis } from 'ioredis'
import { ask } from '../src/http.ts'
import type { Incident, Point } from '../src/incident.ts'

const ROUNDS = 100
const STOCK = 1_000

/** Somebody asks for what is sold out; it is delivered; somebody else, who wants another thing, pays for it. */
export const watchLeftBehind: Incident = {
  number: 2,
  title: 'WATCH left behind on a reused connection',
  folder: new URL('.', import.meta.url),
  axes: { x: 'reservations of a product that is there', y: 'answers 5xx' },

  async replay([app], { redisUrl }) {
    if (app === undefined) throw new Error('there is no application')
    const redis = new Redis(redisUrl)
    await redis.mset({ 'stock:socks': 0, 'stock:hats': STOCK })
    const curve: Point[] = [[0, 0]]
    const reserve = (product: string) => ask(`${app.url}/products/${product}/reservations`, { method: 'POST' })
    let reserved = 0
    let failed = 0
    for (let round = 1; round <= ROUNDS; round++) {
      await reserve('socks')
      await ask(`${app.url}/products/socks`, { method: 'PUT', body: { stock: 0 } })
      const { status } = await reserve('hats')
      if (status === 201) reserved++
      if (status >= 500) failed++
      curve.push([round, failed])
    }
    const left = Number(await redis.get('stock:hats'))
    await redis.del('stock:socks', 'stock:hats')
    redis.disconnect()
    return {
      figures: [
        { what: 'reservations of a product that is there', value: ROUNDS },
        { what: 'answered with 201', value: reserved },
        { what: 'answered with 5xx', value: failed },
        { what: 'answers that Redis knows nothing of', value: Math.abs(STOCK - left - reserved) },
      ],
      curve,
    }
  },

  claims: (before, after) => [
    {
      claim: 'before, reservations failed because somebody else had looked at another product',
      holds: before('answered with 5xx') >= 30,
    },
    {
      claim: 'after, every one of them succeeded, and Redis has counted them all',
      holds:
        after('answered with 201') === after('reservations of a product that is there') &&
        after('answers that Redis knows nothing of') === 0,
    },
  ],
}
