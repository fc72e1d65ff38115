/** The variables in which a test run announces its servers to the worker processes. */
export const SHARED = { postgres: 'REQSCOPE_TEST_POSTGRES_URL', redis: 'REQSCOPE_TEST_REDIS_URL' } as const

declare module 'vitest' {
  interface ProvidedContext {
    postgresUrl: string
    redisUrl: string
  }
}
