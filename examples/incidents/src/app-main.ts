import type { Addresses, AppModule } from './incident.ts'

// The application under test, in a process of its own: what it costs is measured from outside.
const addresses = JSON.parse(process.env.ADDRESSES ?? '') as Addresses
const { open } = (await import(process.argv[2] ?? '')) as AppModule
const app = await open(addresses)
const url = await app.listen({ port: 0, host: '127.0.0.1' })
process.on('message', (question) => {
  if (question !== 'memory') return
  global.gc?.()
  process.send?.({ rssMiB: process.memoryUsage().rss / 2 ** 20 })
})
process.on('disconnect', () => process.exit())
process.send?.({ url })
