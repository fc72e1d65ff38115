import { outsideEveryScope } from './scope/current.ts'
import type { ResourceHealth } from './scope/resource.ts'

/** How the runtime and each of its resources are. */
export interface Health {
  /** `down` when a resource is down or the runtime is closing, `degraded` when one says so of itself. */
  readonly status: 'up' | 'degraded' | 'down'
  readonly state: 'open' | 'closing' | 'closed'
  readonly resources: Readonly<Record<string, ResourceHealth>>
  /** Where the runtime has jobs: its transport, and the size and age of the outbox. */
  readonly jobs?: ResourceHealth
}

/** What can be asked how it is. */
interface Asked {
  readonly name: string
  readonly resource: { health(): ResourceHealth | Promise<ResourceHealth> }
}

export async function healthOf(
  slots: readonly Asked[],
  parts: readonly Asked[],
  state: Health['state'],
  timeoutMs: number,
): Promise<Health> {
  const all = await Promise.all(
    [...slots, ...parts].map(async ({ name, resource }) => [name, await askedOf(resource, timeoutMs)] as const),
  )
  const statuses = all.map(([, health]) => health.status)
  const status =
    state !== 'open' || statuses.includes('down') ? 'down' : statuses.includes('degraded') ? 'degraded' : 'up'
  const ofResources = all.slice(0, slots.length)
  return { status, state, resources: Object.fromEntries(ofResources), ...Object.fromEntries(all.slice(slots.length)) }
}

async function askedOf(resource: Asked['resource'], timeoutMs: number): Promise<ResourceHealth> {
  let timer: NodeJS.Timeout | undefined
  const silence = new Promise<ResourceHealth>((resolve) => {
    const error = `it did not say how it is within ${timeoutMs} ms`
    timer = outsideEveryScope(() => setTimeout(resolve, timeoutMs, { status: 'down', error }))
  })
  try {
    return await Promise.race([resource.health(), silence])
  } catch (error) {
    return { status: 'down', error: error instanceof Error ? error.message : String(error) }
  } finally {
    clearTimeout(timer)
  }
}
