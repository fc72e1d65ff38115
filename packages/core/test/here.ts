/** The place that calls it, as `file:line`; with `below` a place so many lines further down. */
export function here(below = 0): string {
  const caller = new Error().stack?.split('\n')[2] ?? ''
  const [, file, line] = /([^/\\]+\.test\.ts):(\d+):\d+/.exec(caller) ?? []
  return `${file}:${Number(line) + below}`
}
