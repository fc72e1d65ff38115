import { expect, it } from 'vitest'
import { accounts, accountsDatabase, appOn, failureOf, ownersIn } from './fixture.ts'

const database = await accountsDatabase()

/** Keeps the event loop busy: no timer can fire meanwhile. */
function block(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

it('a transaction whose function blocked the loop past the deadline is not committed', async () => {
  const app = appOn(database.url)
  const failure = await failureOf(
    app.run({ name: 'computes', timeoutMs: 200 }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'too late' })
        block(250)
      }),
    ),
  )
  expect(failure).toMatchObject({ code: 'RSC_DEADLINE_EXCEEDED', timeoutMs: 200 })
  expect(await ownersIn(database)).not.toContain('too late')
})

it('the next statement after that is refused, before the timer of the deadline could fire', async () => {
  const app = appOn(database.url)
  await app.run({ name: 'computes', timeoutMs: 200 }, async (scope) => {
    await scope.db.select().from(accounts)
    const { signal } = scope
    block(250)
    expect(signal.aborted).toBe(false)
    const refused = failureOf(scope.db.select().from(accounts))
    expect(await refused).toMatchObject({ code: 'RSC_DEADLINE_EXCEEDED' })
    expect(signal.aborted).toBe(true)
  })
})
