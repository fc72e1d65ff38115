export interface HttpAnswer {
  /** 0 where there was none in time. */
  readonly status: number
  readonly body: unknown
}

/** One request by a client who gives up after `patienceMs`. */
export async function ask(
  url: string,
  { method = 'GET', body, patienceMs = 5_000 }: { method?: string; body?: object; patienceMs?: number } = {},
): Promise<HttpAnswer> {
  try {
    const response = await fetch(url, {
      method,
      signal: AbortSignal.timeout(patienceMs),
      ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
  } catch {
    return { status: 0, body: undefined }
  }
}
