import { beforeAll, describe, expect, it } from 'vitest'
import { connect } from '../src/index.ts'
import { type TestDatabase, testDatabase, testServer } from '../src/testing.ts'

const ofTheFile = await testDatabase()

async function exists({ name }: TestDatabase): Promise<boolean> {
  const sql = connect(await testServer())
  const rows = await sql`select 1 from pg_database where datname = ${name}`
  await sql.end()
  return rows.length === 1
}

describe('a test database', () => {
  let ofTheTest: TestDatabase
  let ofTheHook: TestDatabase

  beforeAll(async () => {
    ofTheHook = await testDatabase()
  })

  it('lives as long as the test that asked for it', async () => {
    ofTheTest = await testDatabase()
    expect(await exists(ofTheTest)).toBe(true)
  })

  it('is dropped after that test, and not before the end of the file when it was asked for outside tests', async () => {
    expect(await exists(ofTheTest)).toBe(false)
    expect(await exists(ofTheHook)).toBe(true)
    expect(await exists(ofTheFile)).toBe(true)
  })
})
