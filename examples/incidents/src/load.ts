import { Agent, request } from 'node:http'

/** What one request came to. */
export interface Answer {
  /** 0 where there was none. */
  readonly status: number
  /** The stable code of a typed error, or why there was no answer. */
  readonly code: string
  readonly tookMs: number
  /** When it was sent and answered, in milliseconds since the load began. */
  readonly sentAt: number
  readonly answeredAt: number
}

export interface Load {
  readonly url: string
  readonly seconds: number
  /** So many requests a second, whatever becomes of them: users do not wait for one another. */
  readonly perSecond?: number
  /** Or so many clients, each of which sends its next request when it has its answer. */
  readonly clients?: number
  /** After how long a client gives up, in milliseconds. */
  readonly patienceMs?: number
  readonly headers?: Record<string, string>
}

export async function load({
  url,
  seconds,
  perSecond,
  clients,
  patienceMs = 5_000,
  headers = {},
}: Load): Promise<Answer[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 5_000 })
  const startedAt = performance.now()
  const over = startedAt + seconds * 1_000
  const answers: Promise<Answer>[] = []
  const send = () => {
    const answer = ask(url, agent, headers, patienceMs, startedAt)
    answers.push(answer)
    return answer
  }
  if (clients !== undefined) {
    const client = async () => {
      while (performance.now() < over) await send()
    }
    await Promise.all(Array.from({ length: clients }, client))
  } else {
    for (let sent = 0; performance.now() < over; ) {
      const due = ((performance.now() - startedAt) / 1_000) * (perSecond ?? 1)
      for (; sent < due; sent++) void send()
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
  const all = await Promise.all(answers)
  agent.destroy()
  return all
}

function ask(
  url: string,
  agent: Agent,
  headers: Record<string, string>,
  patienceMs: number,
  startedAt: number,
): Promise<Answer> {
  return new Promise((resolve) => {
    const sentAt = performance.now()
    const done = (status: number, code: string) => {
      clearTimeout(patience)
      const now = performance.now()
      resolve({ status, code, tookMs: now - sentAt, sentAt: sentAt - startedAt, answeredAt: now - startedAt })
    }
    const sent = request(url, { agent, headers }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (body += chunk))
      response.on('end', () => done(response.statusCode ?? 0, codeOf(body) ?? String(response.statusCode)))
      response.on('error', () => done(0, 'connection lost'))
    })
    const patience = setTimeout(() => {
      done(0, 'gave up')
      sent.destroy()
    }, patienceMs)
    sent.on('error', () => done(0, 'connection lost'))
    sent.end()
  })
}

function codeOf(body: string): string | undefined {
  return /"code":"(RSC_\w+)"/.exec(body)?.[1]
}

export const passed = (answers: readonly Answer[]): Answer[] => answers.filter(({ status }) => status === 200)

/** The time within which so many of a hundred were answered, in milliseconds. */
export function percentile(answers: readonly Answer[], percent: number): number {
  const times = answers.map(({ tookMs }) => tookMs).sort((a, b) => a - b)
  return times[Math.min(times.length - 1, Math.floor((times.length * percent) / 100))] ?? Number.NaN
}

/** How many there were of each outcome, the most frequent first. */
export function outcomes(answers: readonly Answer[]): string {
  const counts = new Map<string, number>()
  for (const { code } of answers) counts.set(code, (counts.get(code) ?? 0) + 1)
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([code, count]) => `${code} × ${count}`)
    .join(', ')
}
