import { beforeAll, describe } from 'vitest'
import type { HttpDriver } from './driver.ts'
import { describeEndings } from './endings.ts'
import { describeHealth } from './health.ts'
import { describeLimits } from './limits.ts'
import { describeLostConnections } from './lost-connections.ts'
import { describeShutdown } from './shutdown.ts'
import { type ContractDatabase, contractDatabase } from './stage.ts'

export type { ContractRoute, ContractSettings, Exchange, HttpDriver, RawReply, RunningApp } from './driver.ts'

/**
 * What every HTTP adapter keeps: however a request ends, its scope ends once, nothing of it stays behind, and a
 * transaction is kept if, and only if, its client was told so.
 */
export function describeHttpContract(driver: HttpDriver): void {
  describe(`the HTTP contract, on ${driver.name}`, () => {
    let database: ContractDatabase
    beforeAll(async () => {
      database = await contractDatabase()
    })
    const given = () => database
    describe('endings', () => describeEndings(driver, given))
    describe('lost connections', () => describeLostConnections(driver, given))
    describe('shutdown', () => describeShutdown(driver, given))
    if (!driver.limits) return
    describe('limits', () => describeLimits(driver, given))
    describe('health', () => describeHealth(driver, given))
  })
}
