import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { Command } from './command.ts'

const folder = mkdtempSync(join(tmpdir(), 'shop-'))
// Tests may run as root, and Postgres as somebody else.
chmodSync(folder, 0o755)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe('npm start', { timeout: 60_000 }, () => {
  it('opens a filled shop, which one Ctrl-C closes, however often the signal comes', async () => {
    const shop = new Command('--data', folder, '--port', '0')
    const url = await shop.opened()
    const listing = (await (await fetch(`${url}/products`)).json()) as { total: number }
    expect(listing.total).toBe(5_000)

    shop.signal('SIGINT')
    shop.signal('SIGINT')
    shop.signal('SIGTERM')
    expect(await shop.exited).toBe(0)
    expect(existsSync(join(folder, 'in-use-by'))).toBe(false)
    expect(existsSync(join(folder, 'postgres/data/postmaster.pid'))).toBe(false)
  })

  it('keeps its data, and refuses a folder in which a shop is open', async () => {
    const shop = new Command('--data', folder, '--port', '0')
    await shop.opened()
    expect(shop.stderr).not.toContain('filled')

    const second = new Command('--data', folder, '--port', '0')
    expect(await second.exited).toBe(1)
    expect(second.stderr).toContain(
      `is open already, in process ${readFileSync(join(folder, 'in-use-by'), 'utf8').trim()}`,
    )

    shop.signal('SIGINT')
    expect(await shop.exited).toBe(0)
  })

  it('opens a shop again that was killed', async () => {
    const shop = new Command('--data', folder, '--port', '0')
    await shop.opened()
    shop.signal('SIGKILL')
    await shop.exited

    const next = new Command('--data', folder, '--port', '0')
    await next.opened()
    next.signal('SIGTERM')
    expect(await next.exited).toBe(0)
  })

  it.each([
    [['--port', 'eighty'], "--port must be a whole number from 0 to 65535, but is 'eighty'."],
    [['--smoke', '0'], "--smoke must be a whole number from 1 to 86400, but is '0'."],
    [['--fast'], "Unknown option '--fast'"],
  ])('refuses %j', async (args, message) => {
    const command = new Command(...args)
    expect(await command.exited).toBe(1)
    expect(command.stderr).toContain(message)
  })
})
