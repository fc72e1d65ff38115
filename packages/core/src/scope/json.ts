import type { Scope } from './scope.ts'

declare const notJson: unique symbol

/** What nothing can be assigned to; the compiler shows its argument beside the property that is refused. */
export interface NotJson<Why extends string> {
  readonly [notJson]: Why
}

// biome-ignore lint/suspicious/noExplicitAny: whatever its arguments are
type AnyFunction = (...args: any[]) => unknown

/** Known by their members, so that none of the libraries behind them has to be installed. */
interface DrizzleDatabase {
  readonly select: AnyFunction
  readonly insert: AnyFunction
  readonly execute: AnyFunction
}
interface RedisClient {
  readonly duplicate: AnyFunction
  readonly disconnect: AnyFunction
}
interface PostgresClient {
  readonly unsafe: AnyFunction
  readonly begin: AnyFunction
}
interface HttpMessage {
  readonly socket: object
  readonly headers: object
}
interface FastifyMessage {
  readonly raw: object
  readonly log: object
}
interface HttpResponse {
  readonly setHeader: AnyFunction
  readonly end: AnyFunction
}

type Remedy = 'Pass an id and let the job read it through its own scope.'

type IsAny<T> = 0 extends 1 & T ? true : false

/**
 * `T` where JSON holds every value of it and gives it back as it was; else a type that nothing can be assigned to, at the
 * property that is in the way. Interfaces, optional properties, unions, tuples, branded strings and recursive types are fine.
 * A class without methods looks like an interface to the compiler; it is refused when it is enqueued.
 *
 * @example
 * function enqueue<T>(data: T & Json<T>): void
 */
export type Json<T> = IsAny<T> extends true ? T : unknown extends T ? T : JsonOf<T>

// Distributes over unions.
type JsonOf<T> = T extends string | number | boolean | null | undefined
  ? T
  : T extends bigint
    ? NotJson<'JSON has no bigint: pass a string.'>
    : T extends symbol
      ? NotJson<'JSON has no symbols.'>
      : T extends Scope
        ? NotJson<`A scope does not outlive its request. ${Remedy}`>
        : T extends PostgresClient
          ? NotJson<`A postgres.js client stays in its process. ${Remedy}`>
          : T extends AnyFunction | (abstract new (...args: never[]) => unknown)
            ? NotJson<'JSON drops functions.'>
            : T extends readonly unknown[]
              ? { [Index in keyof T]: JsonItem<T[Index]> }
              : T extends object
                ? JsonObject<T>
                : NotJson<'This is not JSON.'>

type JsonItem<T> = T extends undefined ? NotJson<'JSON turns undefined in a list into null: use null.'> : Json<T>

type JsonObject<T extends object> = T extends Date
  ? NotJson<'JSON turns a Date into a string: pass date.toISOString(), and let the schema read it.'>
  : T extends PromiseLike<unknown>
    ? NotJson<'A promise is not its value: await it.'>
    : T extends ReadonlyMap<unknown, unknown>
      ? NotJson<'JSON turns a Map into {}: pass Object.fromEntries(map) or [...map].'>
      : T extends ReadonlySet<unknown>
        ? NotJson<'JSON turns a Set into {}: pass [...set].'>
        : T extends ArrayBuffer | ArrayBufferView
          ? NotJson<'JSON has no bytes: pass a string, in base64 for one.'>
          : T extends DrizzleDatabase
            ? NotJson<`A database handle or transaction belongs to its scope. ${Remedy}`>
            : T extends RedisClient
              ? NotJson<`A Redis client stays in its process. ${Remedy}`>
              : T extends HttpMessage | FastifyMessage | HttpResponse
                ? NotJson<'A request or response ends before the job runs. Pass what the job needs of it.'>
                : T extends { readonly toJSON: AnyFunction }
                  ? NotJson<'toJSON makes something else of it: pass what it returns.'>
                  : { [Key in keyof T]: Key extends symbol ? NotJson<'JSON drops symbol keys.'> : Json<T[Key]> }
