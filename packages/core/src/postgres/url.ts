import { isIPv6 } from 'node:net'
import type { Endpoint } from './options.ts'

/** A URL that postgres.js can read, and what of the original it can't. */
export interface ReadUrl {
  readonly url: string
  /** Set where the URL names IPv6 addresses. */
  readonly endpoints: readonly Endpoint[] | undefined
  /** The unix socket that the URL names. */
  readonly path: string | undefined
}

const PARTS = /^(postgres(?:ql)?:\/\/(?:[^@/?#]*@)?)([^/?#]*)([^?#]*)(?:\?([^#]*))?$/
const HOST = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d+))?$/

/**
 * Reads what libpq allows in a URL and postgres.js does not: IPv6 addresses in brackets, and a unix socket's folder, as
 * the host percent-encoded or as the parameter `host`. The parameter `channel_binding` is left out: it is a wish of the
 * client's own, which a server takes for one of its settings.
 *
 * @returns undefined where the URL can't be read.
 */
export function readUrl(url: string): ReadUrl | undefined {
  const [, start, hosts, path, query] = PARTS.exec(url) ?? []
  if (start === undefined || hosts === undefined) return undefined
  const parameters = new URLSearchParams(query)
  const folder = hosts.startsWith('%2F') || hosts.startsWith('%2f') ? decodeURIComponent(hosts) : parameters.get('host')
  const port = parameters.get('port') ?? '5432'
  parameters.delete('channel_binding')
  if (folder?.startsWith('/')) {
    const [, directory = '', given] = /^(.*?)(?::(\d+))?$/.exec(folder) ?? []
    parameters.delete('host')
    parameters.delete('port')
    return {
      url: joined(start, 'localhost', path, parameters),
      endpoints: undefined,
      path: `${directory}/.s.PGSQL.${given ?? port}`,
    }
  }
  if (!hosts.includes('['))
    return { url: joined(start, hosts, path, parameters), endpoints: undefined, path: undefined }
  const endpoints: Endpoint[] = []
  for (const each of hosts.split(',')) {
    const [, address, name, given] = HOST.exec(each) ?? []
    if (address !== undefined && !isIPv6(address)) return undefined
    const host = address ?? name
    if (host === undefined || host === '') return undefined
    endpoints.push({ host, port: Number(given ?? port) })
  }
  return { url: joined(start, 'localhost', path, parameters), endpoints, path: undefined }
}

function joined(start: string, hosts: string, path: string | undefined, parameters: URLSearchParams): string {
  return `${start}${hosts}${path ?? ''}${parameters.size > 0 ? `?${parameters}` : ''}`
}
