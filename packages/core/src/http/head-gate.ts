import { HeaderSeal, headersSent } from './header-seal.ts'

/** The members of a response that a head can leave through; `http.ServerResponse` and its HTTP/2 counterpart have them. */
export interface GatedResponse {
  statusCode: number
  readonly headersSent: boolean
  readonly writableNeedDrain?: boolean
  hasHeader(name: string): boolean
  removeHeader(name: string): void
  emit(event: 'drain'): boolean
  on(event: 'error', listener: () => void): unknown
  on(event: 'pipe', listener: (source: PipedSource) => void): unknown
}

interface PipedSource {
  unpipe?(target: unknown): unknown
  destroy?(): unknown
  on?(event: 'error', listener: () => void): unknown
}

type Method = 'writeHead' | 'write' | 'end' | 'flushHeaders'
type Inner = Record<Method | '_implicitHeader' | '_send', ((...args: unknown[]) => unknown) | undefined>

/** What has to happen before the head: committing. */
export interface HeadWatch {
  /** The reply is about to begin, with this status. Returns nothing where it need not wait. */
  settle(statusCode: number): Promise<void> | undefined
  /** What `settle` waited for is done, and so is the reply as far as it was given. */
  passed(): void
  /** It failed: nothing of the reply was sent, and nothing of it will be. */
  refused(error: unknown): void
}

const gate = Symbol('reqscope.gate')
type Gated = GatedResponse & Inner & { [gate]: HeadGate }

// These say what the refused reply's body was, and would be wrong of the error's.
const OF_THE_BODY = [
  ...['content-type', 'content-length', 'content-encoding', 'content-language', 'content-range', 'content-disposition'],
  ...['content-location', 'transfer-encoding', 'etag', 'last-modified', 'accept-ranges', 'location'],
]

/**
 * Keeps the head of a response back until what has to come before it is done: whoever writes it, by whichever method.
 *
 * The first that would send it makes the gate ask its watch; what is written meanwhile is kept, in order, and goes on
 * afterwards. For whoever writes, the response looks as if the head had been sent.
 */
export class HeadGate {
  readonly #response: Gated
  readonly #watch: HeadWatch
  readonly #inner: Inner
  #state: 'shut' | 'asking' | 'open' | 'bypassed' | 'refused' = 'shut'
  #seal: HeaderSeal | undefined
  #kept: { readonly method: Method; readonly args: unknown[] }[] = []
  #isEnded = false
  #owesDrain = false
  #isImplicit = false
  #sources: PipedSource[] = []

  constructor(response: GatedResponse, watch: HeadWatch) {
    const gated = response as Gated
    this.#response = gated
    this.#watch = watch
    const { writeHead, write, end, flushHeaders, _implicitHeader, _send } = gated
    this.#inner = { writeHead, write, end, flushHeaders, _implicitHeader, _send }
    gated[gate] = this
    gated.writeHead = gatedWriteHead
    gated.write = gatedWrite
    gated.end = gatedEnd
    gated.flushHeaders = gatedFlushHeaders
    if (_implicitHeader !== undefined) gated._implicitHeader = gatedImplicitHeader
    if (_send !== undefined) gated._send = gatedSend
    Object.defineProperty(gated, 'headersSent', HEADERS_SENT)
    gated.on('pipe', gatedPipe as (source: PipedSource) => void)
  }

  /** Whether a reply was given and is waiting to be sent. */
  get keepsReply(): boolean {
    return this.#state === 'asking' && this.#kept.length > 0
  }

  /** @internal */
  pass(method: Method, args: unknown[]): unknown {
    if (this.#state === 'shut' && !this.#isImplicit) this.#ask(method === 'writeHead' ? Number(args[0]) : undefined)
    if (this.#state === 'refused') return method === 'write' ? true : this.#response
    if (this.#state !== 'asking') return this.#inner[method]?.apply(this.#response, args)
    if (method === 'writeHead' && !this.#isImplicit && this.#kept.length > 0) throw headersSent()
    if (!this.#isEnded) this.#kept.push({ method, args })
    this.#seal ??= new HeaderSeal(this.#response)
    if (method === 'end') this.#isEnded = true
    if (method !== 'write') return this.#response
    this.#owesDrain = true
    return false
  }

  /** @internal Somebody asks for the head to be put together: it is not sent by that. */
  implicitHeader(): void {
    const isImplicit = this.#isImplicit
    this.#isImplicit = true
    try {
      this.#inner._implicitHeader?.call(this.#response)
    } finally {
      this.#isImplicit = isImplicit
    }
  }

  /** @internal Bytes leave. Before the gate is open that is somebody who has methods of the response from before it. */
  send(args: unknown[]): unknown {
    if (this.#state === 'shut' || this.#state === 'asking') {
      this.#state = 'bypassed'
      this.#seal?.break()
      this.#kept = []
    }
    return this.#inner._send?.apply(this.#response, args)
  }

  /** @internal A stream is the reply from the moment it is piped: it must not be read before. */
  piped(source: PipedSource): void {
    if (this.#state === 'shut') this.#ask(undefined)
    if (this.#state === 'asking') this.#sources.push(source)
  }

  #ask(statusCode: number | undefined): void {
    const chosen = this.#response.statusCode
    const settling = this.#watch.settle(statusCode ?? chosen)
    if (settling === undefined) {
      this.#state = 'open'
      return
    }
    this.#state = 'asking'
    settling.then(
      () => this.#open(chosen),
      (error: unknown) => this.#refuse(error),
    )
  }

  #open(chosen: number): void {
    if (this.#state !== 'asking') {
      this.#watch.passed() // somebody went round it
      return
    }
    const response = this.#response
    this.#state = 'open'
    this.#seal?.break()
    if (this.#kept.length > 0) response.statusCode = chosen // not what was set after the reply had been given
    try {
      for (const { method, args } of this.#kept) this.#inner[method]?.apply(response, args)
    } catch (error) {
      this.#watch.refused(error) // a head or a body that can't be sent
      return
    } finally {
      this.#kept = []
      this.#sources = []
    }
    if (this.#owesDrain && !this.#isEnded && response.writableNeedDrain !== true) response.emit('drain')
    this.#watch.passed()
  }

  #refuse(error: unknown): void {
    if (this.#state !== 'asking') {
      this.#watch.passed()
      return
    }
    const response = this.#response
    this.#state = 'refused'
    this.#seal?.break()
    this.#kept = []
    // Who has put methods of its own over ours, to compress for one, did so for the reply that is not sent, and may go on with
    // it through ours, which lead nowhere from here on. The error's goes past them both.
    Object.assign(response, this.#inner)
    Reflect.deleteProperty(response, 'headersSent')
    response.on('error', () => {}) // whoever wrote the reply may go on after the error's has been sent
    for (const source of this.#sources.splice(0)) {
      source.on?.('error', () => {})
      source.unpipe?.(response)
      source.destroy?.()
    }
    // A head that was put together and not sent.
    const head = response as unknown as { _header?: unknown; _headerSent?: boolean }
    if (typeof head._header === 'string' && head._headerSent === false) head._header = null
    for (const name of OF_THE_BODY) if (response.hasHeader(name)) response.removeHeader(name)
    response.statusCode = (error as { statusCode?: number } | null)?.statusCode ?? 500
    this.#watch.refused(error)
  }
}

// One function each for all responses, so that a request needs no closures of its own.
function gatedWriteHead(this: unknown, ...args: unknown[]): unknown {
  return (this as Gated)[gate].pass('writeHead', args)
}
function gatedWrite(this: unknown, ...args: unknown[]): unknown {
  return (this as Gated)[gate].pass('write', args)
}
function gatedEnd(this: unknown, ...args: unknown[]): unknown {
  return (this as Gated)[gate].pass('end', args)
}
function gatedFlushHeaders(this: unknown, ...args: unknown[]): unknown {
  return (this as Gated)[gate].pass('flushHeaders', args)
}
function gatedImplicitHeader(this: unknown): void {
  ;(this as Gated)[gate].implicitHeader()
}
function gatedSend(this: unknown, ...args: unknown[]): unknown {
  return (this as Gated)[gate].send(args)
}
function gatedPipe(this: unknown, source: PipedSource): void {
  ;(this as Gated)[gate].piped(source)
}

const HEADERS_SENT: PropertyDescriptor = {
  configurable: true,
  enumerable: true,
  get(this: Gated): boolean {
    return this[gate].keepsReply || Reflect.get(Object.getPrototypeOf(this) as object, 'headersSent', this) === true
  },
}
