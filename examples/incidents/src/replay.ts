import { AppProcess } from './app-process.ts'
import { type Addresses, type Claim, figuresOf, type Incident, type Replayed } from './incident.ts'

export interface Comparison {
  readonly incident: Incident
  readonly before: Replayed
  readonly after: Replayed
  readonly claims: readonly Claim[]
}

/** Runs an incident's two applications one after the other. */
export async function compare(incident: Incident, addresses: Addresses): Promise<Comparison> {
  const before = await replayed(incident, 'before.ts', addresses)
  const after = await replayed(incident, 'after.ts', addresses)
  return { incident, before, after, claims: incident.claims(figuresOf(before), figuresOf(after)) }
}

async function replayed(incident: Incident, file: string, addresses: Addresses): Promise<Replayed> {
  const module = new URL(file, incident.folder)
  const apps: AppProcess[] = []
  try {
    const starting = Array.from({ length: incident.instances ?? 1 }, async () =>
      apps.push(await AppProcess.start(module, addresses)),
    )
    await Promise.all(starting)
    return await incident.replay(apps, addresses)
  } finally {
    await Promise.all(apps.map((app) => app.kill()))
  }
}
