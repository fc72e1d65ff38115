import { ConnectionLostError, type ConnectionLostReason } from '../errors.ts'

const UNREACHABLE = /ECONNREFUSED|ENOTFOUND|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN|ENOENT|All sentinels are unreachable/
const LOST =
  /ECONNRESET|EPIPE|Connection is closed|Command aborted due to connection close|Reached the max retries per request|Stream isn't writeable|Socket timeout|Socket closed|Cluster is ended|None of startup nodes|Failed to refresh slots cache|Cluster isn't ready|Too many Cluster redirections|Unknown RESP type/

/** Whether a command failed because of its connection, and not because of what Redis said to it. */
export function isConnectionFailure(error: unknown): boolean {
  const text = textOf(error)
  return LOST.test(text) || UNREACHABLE.test(text) || reasonOf(error) !== 'lost'
}

/** Whether Redis refused to select a database: ioredis then goes on with number 0. */
export function isWrongDatabase(error: unknown): boolean {
  return /DB index is out of range/i.test(textOf(error))
}

function textOf(error: unknown): string {
  const { code = '', message = String(error) } = (error ?? {}) as { code?: string; message?: string }
  return `${code} ${message}`
}

function reasonOf(error: unknown): ConnectionLostReason {
  const text = textOf(error)
  if (UNREACHABLE.test(text)) return 'unreachable'
  if (/ETIMEDOUT|Command timed out/.test(text)) return 'timeout'
  if (/WRONGPASS|NOAUTH|invalid password|invalid username-password/i.test(text)) return 'authentication'
  if (/max number of clients/i.test(text)) return 'too-many-connections'
  if (isWrongDatabase(error)) return 'no-such-database'
  if (/\b(LOADING|MASTERDOWN|CLUSTERDOWN)\b/.test(text)) return 'not-ready'
  if (/certificate|self.signed|CERT_|altname|SSL routines/i.test(text)) return 'tls'
  return 'lost'
}

/** Says in one sentence what happened to the connection, and never shows a password. */
export function connectionFailure(
  resource: string,
  place: string,
  error: unknown,
  outcome?: 'unknown',
): ConnectionLostError {
  if (error instanceof ConnectionLostError && error.outcome === outcome) return error
  const reason = error instanceof ConnectionLostError ? error.reason : reasonOf(error)
  const where = `Redis at ${place} (${resource})`
  const sentence = {
    unreachable: `${where} can't be reached. Is the server running, and the address right?`,
    timeout: `${where} did not answer in time.`,
    authentication: `${where} refused the user or the password.`,
    'no-such-database': `${where} has no database of that number.`,
    tls: `${where}: TLS failed. Is the server's certificate trusted, and TLS on at both ends?`,
    'too-many-connections': `${where} takes no more connections (maxclients).`,
    'not-ready': `${where} is loading its data, or is not ready to serve.`,
    lost: `The connection to ${where} was lost.`,
  }[reason]
  const doubt =
    outcome === undefined
      ? ''
      : ' That was after EXEC was sent: whether it was done is unknown, so look before you repeat it.'
  return new ConnectionLostError({ resource, reason, message: sentence + doubt, outcome, cause: error })
}
