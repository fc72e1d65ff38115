import { isIPv6 } from 'node:net'
import { ConnectionLostError, type ConnectionLostReason } from '../errors.ts'
import type { Target } from './options.ts'
import { PasswordError } from './password.ts'
import { SocketTimeoutError, TlsRefusedError } from './socket.ts'

/** Says in one sentence why no connection could be had, and never shows a password. */
export function connectFailure(resource: string, target: Target, error: unknown): ConnectionLostError {
  if (error instanceof ConnectionLostError) return error
  const where = `Postgres at ${placeOf(target)} (${resource})`
  const [reason, message] = explained(where, target, error)
  return new ConnectionLostError({ resource, reason, message, cause: error })
}

export function placeOf(target: Target): string {
  return (
    target.path ?? target.endpoints.map(({ host, port }) => `${isIPv6(host) ? `[${host}]` : host}:${port}`).join(', ')
  )
}

function explained(where: string, target: Target, error: unknown): [ConnectionLostReason, string] {
  const { code = '', message = String(error) } = error as { code?: string; message?: string }
  if (error instanceof PasswordError) {
    return ['authentication', `${where} was not asked: the function given as postgres.password ${error.message}.`]
  }
  if (error instanceof TlsRefusedError) {
    return ['tls', `${where} has no TLS, and postgres.ssl asks for it. Switch TLS on in the server, or ssl off.`]
  }
  if (error instanceof SocketTimeoutError || code === 'ETIMEDOUT' || code === 'CONNECT_TIMEOUT') {
    return [
      'timeout',
      `${where} did not answer within the connect timeout. Is the address right, and no firewall between?`,
    ]
  }
  if (
    ['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH', 'EAI_AGAIN', 'ENOENT', 'EADDRNOTAVAIL'].includes(code)
  ) {
    return ['unreachable', `${where} can't be reached (${code}). Is the server running, and the address right?`]
  }
  if (code === '28000' && /no encryption|SSL off/i.test(message)) {
    return ['tls', `${where} takes connections with TLS only. Set postgres.ssl, or sslmode=require in the URL.`]
  }
  if (code === '28P01' || code === '28000') {
    return ['authentication', `${where} refused the password or the user '${target.user}' (${code}).`]
  }
  if (code === '3D000') return ['no-such-database', `${where} has no database '${target.database}'.`]
  if (code === '53300') {
    return [
      'too-many-connections',
      `${where} has no connection left (max_connections): lower max × instances, or raise it.`,
    ]
  }
  if (code === '57P03') return ['not-ready', `${where} is starting up, shutting down or recovering.`]
  if (/certificate|self.signed|CERT_|altname/i.test(`${code} ${message}`)) {
    return ['tls', `${where}: the server's certificate was not accepted (${code || message}). Give ssl its ca.`]
  }
  if (code === '42704' || code === '22023') {
    return ['unreachable', `${where} refused a setting (postgres.settings, or of the URL): ${message}.`]
  }
  return ['unreachable', `${where}: the connection could not be opened (${code || message}).`]
}

const LOST_CODES = new Set([
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECTION_ENDED',
  'CONNECT_TIMEOUT',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  '57P01',
  '57P02',
  '57P03',
  '57P05',
  '25P03',
  '25P04',
])

/** Whether a statement failed because its connection did. */
export function isConnectionLoss(error: unknown): boolean {
  const { code, severity } = error as { code?: unknown; severity?: unknown }
  return (typeof code === 'string' && (LOST_CODES.has(code) || code.startsWith('08'))) || severity === 'FATAL'
}
