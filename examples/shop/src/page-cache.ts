import { isReqscopeError, type RegisteredScope } from '@reqscope/core'

const FRESH_FOR_MS = 5_000
const KEPT_FOR_SECONDS = 60

interface Entry {
  readonly cachedAt: number
  readonly page: unknown
}

/** A page out of the cache while it is fresh, else from where it comes from. Without the cache everything is just slower. */
export async function cached<Page>(scope: RegisteredScope, key: string, load: () => Promise<Page>): Promise<Page> {
  const { redis } = scope
  if (redis === undefined) return load()
  const found = entryOf(await unlessAway(scope, () => redis.get(key)))
  if (found !== undefined && Date.now() - found.cachedAt < FRESH_FOR_MS) return found.page as Page
  const page = await load()
  const entry: Entry = { cachedAt: Date.now(), page }
  await unlessAway(scope, () => redis.set(key, JSON.stringify(entry), 'EX', KEPT_FOR_SECONDS))
  return page
}

/** What was cached may be missing, of an older version of the shop, or cut in half. */
function entryOf(text: string | null | undefined): Entry | undefined {
  if (text === null || text === undefined) return undefined
  try {
    const entry: unknown = JSON.parse(text)
    return isEntry(entry) ? entry : undefined
  } catch {
    return undefined
  }
}

function isEntry(value: unknown): value is Entry {
  return (
    typeof value === 'object' &&
    value !== null &&
    'page' in value &&
    'cachedAt' in value &&
    typeof value.cachedAt === 'number'
  )
}

async function unlessAway<Reply>(scope: RegisteredScope, ask: () => Promise<Reply>): Promise<Reply | undefined> {
  try {
    return await ask()
  } catch (error) {
    if (!isReqscopeError(error) || error.code !== 'RSC_CONNECTION_LOST') throw error
    scope.log.warn({ err: error }, 'the page cache is away')
    return undefined
  }
}
