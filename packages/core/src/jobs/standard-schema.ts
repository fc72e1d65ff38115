/** The part of Standard Schema (https://standardschema.dev, version 1) that is used: zod, valibot, arktype and others have it. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => Validated<Output> | Promise<Validated<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

export type Validated<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly Issue[] }

interface Issue {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

// biome-ignore lint/suspicious/noExplicitAny: of whatever type
export type AnySchema = StandardSchema<any, any>

export type InputOf<Schema extends AnySchema> = NonNullable<Schema['~standard']['types']>['input']
export type OutputOf<Schema extends AnySchema> = NonNullable<Schema['~standard']['types']>['output']

export function isSchema(value: unknown): value is AnySchema {
  const standard = (value as Partial<AnySchema> | null | undefined)?.['~standard']
  return typeof standard?.validate === 'function'
}

/** `data.items[3].when: must be a string; …`: where and why, never the values, which may be secrets. */
export function issuesIn(issues: readonly Issue[]): string {
  return issues.map(({ path, message }) => `data${(path ?? []).map(step).join('')}: ${message}`).join('; ')
}

function step(part: PropertyKey | { readonly key: PropertyKey }): string {
  const key = typeof part === 'object' ? part.key : part
  return typeof key === 'number' ? `[${key}]` : `.${String(key)}`
}
