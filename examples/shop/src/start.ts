import { join } from 'node:path'
import { Closers } from './closers.ts'
import { type Command, readCommandLine, USAGE } from './command-line.ts'
import { DataFolder } from './data-folder.ts'
import { preferredPort } from './port.ts'
import { startServers } from './servers.ts'
import { openShop } from './shop.ts'
import { onShutdown } from './shutdown.ts'
import { welcome } from './welcome.ts'

const log = (line: string): void => void process.stderr.write(`${line}\n`)

try {
  await run(readCommandLine(process.argv.slice(2)))
} catch (error) {
  log(error instanceof Error && !process.env.DEBUG ? error.message : String((error as Error).stack ?? error))
  process.exit(1)
}

async function run(command: Command): Promise<void> {
  switch (command.tag) {
    case 'help':
      process.stdout.write(USAGE)
      return
    case 'smoke': {
      const { smoke } = await import('./smoke/smoke.ts')
      process.exitCode = (await smoke({ ...command, log })) ? 0 : 1
      return
    }
    case 'open':
      return open(command)
  }
}

async function open({ port, dataFolder, withoutRedis }: Extract<Command, { tag: 'open' }>): Promise<void> {
  const closers = new Closers()
  onShutdown(() => closers.close())
  try {
    const folder = new DataFolder(dataFolder)
    closers.add(() => folder.release())
    const servers = await startServers({ dataFolder, withoutRedis, log })
    closers.add(() => servers.stop())
    const shop = await openShop({
      databaseUrl: servers.databaseUrl,
      redisUrl: servers.redisUrl,
      mailFolder: join(dataFolder, 'mail'),
      port: port ?? (await preferredPort(3_000)),
      logger: { level: process.env.LOG_LEVEL ?? 'warn' },
      log,
    })
    closers.add(() => shop.app.close())
    process.stdout.write(welcome(shop.url))
  } catch (error) {
    await closers.close()
    throw error
  }
}
