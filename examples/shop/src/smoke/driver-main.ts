// The load driver, as a process of its own: it must not share an event loop with what it measures.
import { drive } from './driver.ts'
import type { Plan } from './traffic.ts'

process.once('disconnect', () => process.exit())
process.once('message', async (plan: Plan) => {
  const traffic = await drive(plan)
  process.send?.(traffic, () => process.exit())
})
