import type { Socket } from 'node:net'

export interface Weather {
  /** Bytes are held: neither forwarded nor lost. */
  readonly blackHole: boolean
  readonly delayMs: number
}

type Piece = { dueAt: number } & ({ bytes: Buffer } | { end: 'fin' | 'rst' })

/** One direction of a proxied connection: what came from `source`, on its way to `target`, in order. */
export class ChaosFlow {
  readonly #target: Socket
  readonly #weather: Weather
  readonly #pieces: Piece[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(source: Socket, target: Socket, weather: Weather) {
    this.#target = target
    this.#weather = weather
    let ended = false
    source.on('data', (bytes: Buffer) => this.#add({ bytes }))
    source.on('end', () => {
      ended = true
      this.#add({ end: 'fin' })
    })
    // A source that goes without a goodbye was reset, and so is its counterpart.
    source.on('close', () => {
      if (!ended) this.#add({ end: 'rst' })
    })
  }

  /** Forwards what is due; called again whenever the weather changes. */
  flush(): void {
    clearTimeout(this.#timer)
    if (this.#weather.blackHole) return
    for (let piece = this.#pieces[0]; piece; piece = this.#pieces[0]) {
      const waitMs = piece.dueAt - performance.now()
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.flush(), Math.ceil(waitMs))
        return
      }
      this.#pieces.shift()
      this.#deliver(piece)
    }
  }

  drop(): void {
    clearTimeout(this.#timer)
    this.#pieces.length = 0
  }

  #add(piece: { bytes: Buffer } | { end: 'fin' | 'rst' }): void {
    this.#pieces.push({ ...piece, dueAt: performance.now() + this.#weather.delayMs })
    this.flush()
  }

  #deliver(piece: Piece): void {
    if (this.#target.destroyed) return
    if ('bytes' in piece) this.#target.write(piece.bytes)
    else if (piece.end === 'fin') this.#target.end()
    else this.#target.resetAndDestroy()
  }
}
