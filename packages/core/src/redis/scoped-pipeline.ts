import type { Command, Redis } from 'ioredis'
import { SharedConnectionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { connectionEffectOf, insteadOf } from './connection-commands.ts'

/** The members of ioredis' pipeline that are used here. */
export interface Pipeline {
  readonly length: number
  readonly isCluster: boolean
  sendCommand(command: Command): unknown
  addBatch(commands: readonly unknown[][]): unknown
  exec(callback?: unknown): Promise<unknown>
  execBuffer?(callback?: unknown): Promise<unknown>
}

type Callback = (error: unknown, result?: unknown) => void

const HIDDEN = { redis: { enumerable: false }, options: { enumerable: false } }

/** What a pipeline of ours asks its owner. */
export interface PipelineOwner {
  readonly scope: Scope
  readonly resource: string
  /** Runs it where it belongs; rejects where it may not be run. */
  execute(run: () => Promise<unknown>): Promise<unknown>
  /** @throws where its keys may not be used together. */
  check?(command: Command): void
}

/** Makes a pipeline, or a MULTI that is sent as one, that refuses what its connection must not be told. */
export function scopedPipeline(
  client: Pick<Redis, 'pipeline' | 'multi'>,
  kind: 'pipeline' | 'multi',
  asked: PipelineOwner,
  commands: readonly unknown[][] | undefined,
  allows: (command: Command) => boolean,
): Pipeline {
  const pipeline = client[kind]() as unknown as Pipeline
  Object.defineProperties(pipeline, HIDDEN) // whoever prints it would print a password
  Object.defineProperty(pipeline, owner, { value: asked.scope })
  const { sendCommand, exec } = pipeline
  // While ioredis adds an EXEC, and while a cluster may send it all again by itself, because slots have moved.
  let isClosing = false
  let underWay = 0

  pipeline.sendCommand = function refuseOrQueue(command) {
    if (!isClosing && !isSentAgain(command)) {
      if (!allows(command)) refuse(asked.resource, command)
      asked.check?.(command)
    }
    if (kind === 'multi' && command.name === 'evalsha') sendInFull(command)
    return sendCommand.call(pipeline, command)
  }
  pipeline.exec = function execute(callback?: unknown) {
    if (underWay > 0 && pipeline.isCluster) return exec.call(pipeline)
    const running = asked.execute(async () => {
      isClosing = true
      underWay++
      try {
        const sent = exec.call(pipeline)
        isClosing = false
        return await sent
      } finally {
        isClosing = false
        underWay--
      }
    })
    return withCallback(running, callback)
  }
  pipeline.execBuffer = pipeline.exec
  if (commands !== undefined) pipeline.addBatch(commands)
  return pipeline
}

/** What a cluster sends again has had its place before; the ASKING in front of it is to be ignored. */
function isSentAgain({ pipelineIndex, ignore }: Command): boolean {
  return pipelineIndex !== undefined || ignore === true
}

/**
 * Of a script that a connection has seen ioredis sends the hash, and sends it in full where Redis then says that it does
 * not know it. Inside MULTI Redis says so too late: so it is shown a connection that has seen nothing.
 */
function sendInFull(command: Command): void {
  const { toWritable } = command
  command.toWritable = () => toWritable.call(command, {})
}

/** On a shared connection: nothing that changes it. */
export function allowsShared(command: Command): boolean {
  return connectionEffectOf(command.name.toLowerCase(), command.args) === undefined
}

/** @throws SharedConnectionError */
export function refuse(resource: string, command: Pick<Command, 'name' | 'args'>): never {
  const name = command.name.toLowerCase()
  const effect = connectionEffectOf(name, command.args) ?? 'session'
  throw new SharedConnectionError({ resource, operation: name.toUpperCase(), instead: insteadOf(effect) })
}

/** Calls a callback in its caller's context, as ioredis would in nobody's. */
export function withCallback<Result>(work: Promise<Result>, callback: unknown): Promise<Result> {
  if (typeof callback === 'function') {
    const tell = callback as Callback
    // A turn later: what it throws is the process's to hear of, and no rejection.
    work.then(
      (result) => process.nextTick(tell, null, result),
      (error: unknown) => process.nextTick(tell, error),
    )
  }
  return work
}
