import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What `npm start` runs in this folder. */
function start(...args: string[]) {
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', 'src/start.ts', ...args], { cwd: root })
  const seen = { stdout: '', stderr: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (seen.stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (seen.stderr += text))
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
  onTestFinished(() => void child.kill('SIGKILL'))
  return { child, seen, exited }
}

describe('npm start', { timeout: 60_000 }, () => {
  it('opens the song book, which Ctrl-C closes', async () => {
    const { child, seen, exited } = start('--port', '0')
    const url = () => /The song book is open: (http:\S+)\/songs/.exec(seen.stdout)?.[1]
    await expect.poll(url, { timeout: 30_000 }).toBeDefined()
    expect(await (await fetch(`${url()}/songs`)).json()).toMatchObject({ total: 500 })
    child.kill('SIGINT')
    expect(await exited).toBe(0)
  })

  it('refuses a port that is none', async () => {
    const { seen, exited } = start('--port', 'eighty')
    expect(await exited).toBe(1)
    expect(seen.stderr).toContain("--port must be a whole number from 0 to 65535, but is 'eighty'.")
  })

  it('finds that all is well with --smoke, and ends with one line of JSON', async () => {
    const { seen, exited } = start('--smoke', '3', '--json')
    const code = await exited
    expect(JSON.parse(seen.stdout.trimEnd().split('\n').at(-1) ?? ''), seen.stderr).toEqual({
      requests: expect.any(Number),
      aborted: expect.any(Number),
      unexpected: 0,
      leasesOut: 0,
      idleInTransaction: 0,
      pgConnectionsOverMax: 0,
      brokenPlans: 0,
      limited: expect.any(Number),
      overLimit: 0,
      missingSheets: 0,
      ok: true,
    })
    expect(code).toBe(0)
  })
})
