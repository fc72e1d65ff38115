import { runInContext } from '../scope/current.ts'
import type { Scope } from '../scope/scope.ts'
import type { AdvisoryAccess, AdvisoryHold, AdvisoryRequest } from './access.ts'
import type { Connection } from './connection.ts'
import type { Lease } from './lease.ts'
import type { Session } from './session.ts'
import type { Statement } from './statement.ts'

type Row = Record<string, string>

const TRY = 'select pg_try_advisory_xact_lock($1) as had'
const WAIT = 'select pg_advisory_xact_lock($1)'
const NOW = 'select (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now'
const LIMITS = "select current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement"
const LIMIT = "select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)"
// It may hold the lock for longer than the server lets a transaction be idle.
const BEGIN = 'begin; set local idle_in_transaction_session_timeout = 0; set local statement_timeout = 0'
const NOT_AVAILABLE = '55P03'

/** Advisory locks of transactions: they work behind a PgBouncer in transaction mode, where those of sessions do not. */
export class AdvisoryLocks implements AdvisoryAccess {
  readonly maxConnections: number
  readonly #session: (scope: Scope) => Session

  constructor(max: number, session: (scope: Scope) => Session) {
    this.maxConnections = Math.max(1, Math.floor(max / 2))
    this.#session = session
  }

  isInTransaction(scope: Scope): boolean {
    return this.#session(scope).transactionAround !== undefined
  }

  async lockInTransaction(scope: Scope, request: AdvisoryRequest): Promise<AdvisoryHold | undefined> {
    const session = this.#session(scope)
    if (request.waitMs === 0) {
      const [row] = await session.execute(new Plain(TRY, [request.lock]), undefined)
      if (row?.had !== (true as never)) return undefined
    } else if (!(await this.#waitInTransaction(session, request))) return undefined
    const controller = new AbortController()
    session.whenUndone(() => controller.abort())
    const [now] = await session.execute(new Plain(NOW, []), undefined)
    const connection = session.transactionAround?.lease?.connection
    const forget = connection?.whenGone(() => controller.abort())
    return {
      atUs: Number(now?.now),
      lost: controller.signal,
      isHeld: async () => connection?.isGone === false,
      release: async () => forget?.(),
    }
  }

  async #waitInTransaction(session: Session, { lock, waitMs, signal }: AdvisoryRequest): Promise<boolean> {
    const [before] = await session.execute(new Plain(LIMITS, []), undefined)
    try {
      // In a savepoint, so that the transaction goes on where the lock was not to be had.
      await session.transaction({ propagation: 'nested' }, async () => {
        await session.execute(new Plain(LIMIT, [String(waitMs), '0']), undefined)
        const statement = new Plain(WAIT, [lock])
        const cancel = () => void statement.lease?.cancelStatement(() => statement.isActive)
        signal?.addEventListener('abort', cancel)
        try {
          await session.execute(statement, undefined)
        } finally {
          signal?.removeEventListener('abort', cancel)
        }
        await session.execute(new Plain(LIMIT, [before?.lock ?? '0', before?.statement ?? '0']), undefined)
      })
      return true
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      if (isNotAvailable(error)) return false
      throw error
    }
  }

  async lockOnConnection(scope: Scope, request: AdvisoryRequest): Promise<AdvisoryHold | undefined> {
    const session = this.#session(scope)
    // At the root of the scope: a transaction or a pinned connection around is for the function's own statements.
    const { lease, free } = await runInContext(scope, () => session.occupy(undefined))
    const { connection } = lease
    const ask = (text: string, parameters: string[]) =>
      lease.fetch(text, () => connection.sql.unsafe<Row[]>(text, parameters) as PromiseLike<Row[]>)
    const { lock, waitMs, signal } = request
    const cancel = () => void lease.cancelInFlight()
    const giveBack = async (end: 'commit' | 'rollback') => {
      try {
        await lease.whenReady()
        if (!connection.isGone) await lease.control(end)
      } finally {
        await free(!connection.isGone)
      }
    }
    try {
      await lease.control(waitMs === 0 ? BEGIN : `${BEGIN}; set local lock_timeout = ${waitMs}`)
      if (waitMs === 0) {
        const [row] = await ask(TRY, [lock])
        if (row?.had !== (true as never)) {
          await giveBack('rollback')
          return undefined
        }
      } else {
        signal?.addEventListener('abort', cancel)
        if (signal?.aborted) throw signal.reason
        await ask(WAIT, [lock])
      }
      const [now] = await ask(NOW, [])
      const controller = new AbortController()
      const forget = connection.whenGone(() => controller.abort())
      return {
        atUs: Number(now?.now),
        lost: controller.signal,
        isHeld: async () => (await ask('select 1', [])).length === 1,
        release: () => {
          forget()
          return giveBack('commit')
        },
      }
    } catch (error) {
      await giveBack('rollback').catch(() => {}) // the connection failed: the lock went with it
      if (signal?.aborted) throw signal.reason
      if (isNotAvailable(error)) return undefined
      throw error
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }
}

/** A statement of ours with text parameters. */
class Plain implements Statement<Row[]> {
  readonly text: string
  readonly effect = 'none'
  readonly isOurs = true
  readonly setsStatementTimeout: boolean
  readonly #parameters: string[]
  lease: Lease | undefined
  isActive = false

  constructor(text: string, parameters: string[]) {
    this.text = text
    this.#parameters = parameters
    this.setsStatementTimeout = text === WAIT
  }

  send(connection: Connection, lease: Lease): PromiseLike<Row[]> {
    this.lease = lease
    this.isActive = true
    return connection.sql.unsafe<Row[]>(this.text, this.#parameters) as PromiseLike<Row[]>
  }

  settled(): void {
    this.isActive = false
  }
}

function isNotAvailable(error: unknown): boolean {
  return (error as { code?: unknown }).code === NOT_AVAILABLE
}
