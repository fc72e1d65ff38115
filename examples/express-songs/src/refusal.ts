import type { ErrorRequestHandler } from 'express'
import { ZodError } from 'zod'

/** What the song book itself refuses. */
export class Refusal extends Error {
  readonly status: number
  readonly code: string

  constructor(status: number, code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

/** Answers what is the client's to mend; everything else goes on to Express. */
export const answerRefusals: ErrorRequestHandler = (error, _request, response, next) => {
  if (response.headersSent) next(error)
  else if (error instanceof Refusal) response.status(error.status).json({ code: error.code, message: error.message })
  else if (error instanceof ZodError) response.status(400).json({ code: 'SONGS_INVALID', issues: error.issues })
  else next(error)
}
