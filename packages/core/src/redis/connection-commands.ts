/** How a command may change the connection it runs on, or keep it busy. */
export type ConnectionEffect =
  /** WATCH and the bare MULTI, EXEC and DISCARD: what one sender begins, another one's command ends. */
  | 'transaction'
  | 'subscription'
  /** It waits on the server, and everybody behind it on the connection with it. */
  | 'blocking'
  | 'select'
  /** It changes who the connection is, or how it answers. */
  | 'session'
  /** It ends the connection, or hands it over to a stream that never ends. */
  | 'takeover'

const EFFECTS: ReadonlyMap<string, ConnectionEffect> = new Map(
  (
    [
      ['transaction', ['watch', 'unwatch', 'multi', 'exec', 'discard']],
      ['subscription', ['subscribe', 'psubscribe', 'ssubscribe', 'unsubscribe', 'punsubscribe', 'sunsubscribe']],
      ['blocking', ['blpop', 'brpop', 'brpoplpush', 'blmove', 'blmovem', 'blmpop', 'bzpopmin', 'bzpopmax', 'bzmpop']],
      ['blocking', ['wait', 'waitaof']],
      ['select', ['select']],
      ['session', ['auth', 'hello', 'reset', 'readonly', 'readwrite', 'asking', 'himport']],
      ['takeover', ['quit', 'monitor', 'sync', 'psync', 'replconf']],
    ] as const
  ).flatMap(([effect, names]) => names.map((name) => [name, effect] as const)),
)

/** Of CLIENT, what is about the connection that asks. CLIENT ID, LIST, KILL and the like are not. */
const CLIENT_SESSION: ReadonlySet<string> = new Set([
  'reply',
  'tracking',
  'caching',
  'setname',
  'setinfo',
  'no-evict',
  'no-touch',
])

/** Every command name that always has an effect on its connection, for types and for tests. */
export const CONNECTION_COMMANDS: readonly string[] = [...EFFECTS.keys()]

/**
 * What a command does to its connection; undefined for the others, which are nearly all.
 *
 * @param name in lower case.
 * @param args flat.
 */
export function connectionEffectOf(name: string, args: readonly unknown[]): ConnectionEffect | undefined {
  const effect = EFFECTS.get(name)
  if (effect !== undefined) return effect
  switch (name) {
    case 'client':
      return CLIENT_SESSION.has(word(args[0])) ? 'session' : undefined
    case 'script':
      return word(args[0]) === 'debug' ? 'session' : undefined
    // Anywhere before STREAMS: behind it are names of streams.
    case 'xread':
    case 'xreadgroup':
      return optionsOf(args).includes('block') ? 'blocking' : undefined
    default:
      return undefined
  }
}

function optionsOf(args: readonly unknown[]): string[] {
  const words = args.map(word)
  // A group or a consumer may be called "block", too; they follow GROUP.
  const begin = words[0] === 'group' ? 3 : 0
  const end = words.indexOf('streams', begin)
  return words.slice(begin, end < 0 ? undefined : end)
}

function word(value: unknown): string {
  return typeof value === 'string' || Buffer.isBuffer(value) ? value.toString().toLowerCase() : ''
}

const INSTEAD: Readonly<Record<ConnectionEffect, string>> = {
  transaction:
    'its connection is shared by all scopes, whose commands come in between. Use optimistic(keys, fn) to read and then write, or multi() for commands that run as one.',
  subscription: 'its connection is shared by all scopes. Subscribe inside exclusive(fn).',
  blocking: 'everybody would wait with it, for the connection is shared. Run it inside exclusive(fn).',
  select:
    'the connection is shared by all scopes. Give each database a resource of its own, or select inside exclusive(fn).',
  session:
    'it changes the connection, which is shared by all scopes. Set it in the options of redis(…), or run it inside exclusive(fn).',
  takeover: 'the connection is shared by all scopes, and it is not theirs to end. The runtime closes it.',
}

/** What a refusal tells to do instead. */
export function insteadOf(effect: ConnectionEffect): string {
  return INSTEAD[effect]
}
