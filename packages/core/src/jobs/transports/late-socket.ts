import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'

type Callback = (error?: Error | null) => void

/** What pg takes for a socket that is not connected yet; which one it becomes, `open` decides when pg connects. */
export class LateSocket extends Duplex {
  readonly #open: () => Promise<Socket>
  #socket: Socket | undefined

  constructor(open: () => Promise<Socket>) {
    super({ autoDestroy: true, emitClose: true })
    this.#open = open
  }

  /** Where to is known to `open` alone. */
  connect(): this {
    this.#open().then(
      (socket) => this.#become(socket),
      (error: Error) => this.destroy(error),
    )
    return this
  }

  #become(socket: Socket): void {
    if (this.destroyed) {
      socket.destroy() // pg has given up meanwhile
      return
    }
    this.#socket = socket
    socket.on('data', (data) => {
      if (!this.push(data)) socket.pause()
    })
    socket.on('end', () => this.push(null))
    socket.on('error', (error) => this.destroy(error))
    socket.on('close', () => this.destroy())
    socket.resume()
    this.emit('connect')
  }

  override _read(): void {
    this.#socket?.resume()
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, callback: Callback): void {
    this.#socket?.write(chunk, encoding, callback)
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], callback: Callback): void {
    this.#socket?.write(Buffer.concat(chunks.map(({ chunk }) => chunk)), callback)
  }

  override _final(callback: Callback): void {
    if (this.#socket === undefined) callback()
    else this.#socket.end(callback)
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.#socket?.destroy()
    callback(error)
  }

  setNoDelay(on?: boolean): this {
    this.#socket?.setNoDelay(on)
    return this
  }

  setKeepAlive(on?: boolean, delayMs?: number): this {
    this.#socket?.setKeepAlive(on, delayMs)
    return this
  }

  ref(): this {
    this.#socket?.ref()
    return this
  }

  unref(): this {
    this.#socket?.unref()
    return this
  }
}
