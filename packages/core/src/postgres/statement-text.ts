/** What a statement does to the session that runs it, as far as its text shows. */
export type Effect = 'none' | 'session-state' | 'session-doubt' | 'transaction-control'

/** What is known of a statement text. */
export interface KnownText {
  readonly effect: Effect
  /** Whether it may choose another `statement_timeout`. */
  readonly setsStatementTimeout: boolean
  /**
   * Transaction control seems to stand behind a semicolon. It may end a function's body as well (BEGIN ATOMIC … END), so
   * such a text is sent by the protocol that takes a single statement: the server tells.
   */
  readonly mayControl: boolean
  /** How often it was seen by the pool. */
  seen: number
}

const LEADING = String.raw`^(?:\s|;|--[^\n]*\n|/\*[\s\S]*?\*/)*`
const START = String.raw`(?:^|;)(?:\s|--[^\n]*\n|/\*[\s\S]*?\*/)*`
const CONTROL_WORDS = String.raw`(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b`
const CONTROL = new RegExp(LEADING + CONTROL_WORDS, 'i')
const LATER_CONTROL = new RegExp(String.raw`;(?:\s|;|--[^\n]*\n|/\*[\s\S]*?\*/)*${CONTROL_WORDS}`, 'i')
// Literals, quoted names, bodies and comments.
const OPAQUE =
  /\be'(?:[^'\\]|\\[\s\S]|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([a-z_\x80-\uffff][\w\x80-\uffff]*)?\$[\s\S]*?\$\1\$|--[^\n]*|\/\*[\s\S]*?\*\//gi
const DOUBT = new RegExp(`${START}(prepare|deallocate|discard|load)\\b`, 'i')
const STATE = new RegExp(
  [
    `${START}set\\s+(?!local\\b|transaction\\b|constraints\\b)`,
    `${START}(listen|reset)\\b`,
    String.raw`\bcreate\s+(?:or\s+replace\s+)?(?:local\s+|global\s+)?temp(?:orary)?\b`,
    String.raw`\binto\s+(?:local\s+|global\s+)?temp(?:orary)?\b`,
    `${START}declare\\b[\\s\\S]*\\bwith\\s+hold\\b`,
    String.raw`\bpg_(?:try_)?advisory_lock(?:_shared)?\b`,
    String.raw`\bset_config\s*\((?![^)]*,\s*true\s*\))`,
  ].join('|'),
  'i',
)

/**
 * What a text says of itself. A literal that looks like a statement costs a needless reset at the worst; what a function
 * does out of sight needs `pin`.
 */
export function effectOf(text: string): Effect {
  if (CONTROL.test(text)) return 'transaction-control'
  if (DOUBT.test(text)) return 'session-doubt'
  return STATE.test(text) ? 'session-state' : 'none'
}

/** Whether what a text sets ends with the transaction. */
export function setsLocally(text: string): boolean {
  return /\bset\s+(?:local|transaction|constraints)\b/i.test(text)
}

function mayControl(text: string): boolean {
  return LATER_CONTROL.test(text) && LATER_CONTROL.test(text.replace(OPAQUE, ' '))
}

/** The effect of a command tag that its text did not announce: one of several statements in one string. */
export function effectOfTag(command: string | undefined): Effect {
  switch (command) {
    case 'BEGIN':
    case 'START TRANSACTION':
    case 'COMMIT':
    case 'ROLLBACK':
    case 'SAVEPOINT':
    case 'RELEASE':
    case 'PREPARE TRANSACTION':
      return 'transaction-control'
    case 'PREPARE':
    case 'DEALLOCATE':
    case 'DEALLOCATE ALL':
    case 'DISCARD ALL':
    case 'LOAD':
      return 'session-doubt'
    case 'LISTEN':
      return 'session-state'
    default:
      return 'none'
  }
}

const MAX_KNOWN = 2_000
const MAX_REMEMBERED_LENGTH = 16_384

/** Remembers statement texts, the newest couple of thousand of them, so each is read once. */
export class KnownTexts {
  readonly #known = new Map<string, KnownText>()

  see(text: string): KnownText {
    const known = this.#known.get(text)
    if (known !== undefined) {
      known.seen++
      return known
    }
    const fresh: KnownText = {
      effect: effectOf(text),
      setsStatementTimeout: /statement_timeout/i.test(text),
      mayControl: mayControl(text),
      seen: 1,
    }
    if (text.length > MAX_REMEMBERED_LENGTH) return fresh
    if (this.#known.size >= MAX_KNOWN) {
      const oldest = this.#known.keys().next().value
      if (oldest !== undefined) this.#known.delete(oldest)
    }
    this.#known.set(text, fresh)
    return fresh
  }
}
