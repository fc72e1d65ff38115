import type { FastifyInstance } from 'fastify'
import type { AppProcess } from './app-process.ts'

/** The servers an application is run on. */
export interface Addresses {
  readonly databaseUrl: string
  readonly redisUrl: string
}

/** What `before.ts` and `after.ts` export: the same feature, with the plain libraries and with Reqscope. */
export interface AppModule {
  open(addresses: Addresses): FastifyInstance | Promise<FastifyInstance>
}

/** One figure, measured from outside. */
export interface Figure {
  readonly what: string
  readonly value: number
}

/** A point of the telling curve. */
export type Point = readonly [x: number, y: number]

/** What one of the two came to. */
export interface Replayed {
  readonly figures: readonly Figure[]
  readonly curve: readonly Point[]
}

export interface Claim {
  readonly claim: string
  readonly holds: boolean
  /** Whether a busy machine can break it: then it is the command's to check, and not a test's. Default false. */
  readonly isTimed?: boolean
}

/** An incident that can be replayed. */
export interface Incident {
  readonly number: number
  readonly title: string
  /** The folder with its `before.ts` and `after.ts`. */
  readonly folder: URL
  readonly axes: { readonly x: string; readonly y: string }
  /** How many processes run the application. Default 1. */
  readonly instances?: number
  replay(apps: readonly AppProcess[], addresses: Addresses): Promise<Replayed>
  /** What has to be true of both: that the one shows the incident, and that the other does not. */
  claims(before: Figures, after: Figures): readonly Claim[]
}

/** Figures by name. */
export type Figures = (what: string) => number

export function figuresOf(replayed: Replayed): Figures {
  return (what) => {
    const figure = replayed.figures.find((each) => each.what === what)
    if (figure === undefined) throw new Error(`nobody measured ${what}`)
    return figure.value
  }
}
