import type { Point } from './incident.ts'

export interface Chart {
  readonly title: string
  readonly x: string
  readonly y: string
  readonly before: readonly Point[]
  readonly after: readonly Point[]
}

const WIDTH = 720
const HEIGHT = 360
const LEFT = 70
const RIGHT = 20
const TOP = 48
const BOTTOM = 54
const BEFORE = '#b3261e'
const AFTER = '#146c43'

/** Two curves over one pair of axes, as an SVG. */
export function chartOf({ title, x, y, before, after }: Chart): string {
  const points = [...before, ...after]
  const xTicks = ticksUpTo(Math.max(...points.map(([each]) => each)))
  const yTicks = ticksUpTo(Math.max(...points.map(([, each]) => each)))
  const across = scale(xTicks, LEFT, WIDTH - RIGHT)
  const up = scale(yTicks, HEIGHT - BOTTOM, TOP)
  const curve = (curvePoints: readonly Point[], colour: string) =>
    `<polyline fill="none" stroke="${colour}" stroke-width="2.5" points="${curvePoints
      .map(([px, py]) => `${across(px).toFixed(1)},${up(py).toFixed(1)}`)
      .join(' ')}"/>`
  const text = (content: string, at: readonly [number, number], more = '') =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" ${more}>${escaped(content)}</text>`
  const key = (name: string, colour: string, at: number) =>
    `<rect x="${at}" y="26" width="14" height="4" fill="${colour}"/>${text(name, [at + 20, 32])}`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="#333">`,
    `<title>${escaped(`${title}: ${y} over ${x}, before and after`)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text(title, [LEFT, 18], 'font-size="14" font-weight="600"'),
    key('before', BEFORE, LEFT),
    key('after, on Reqscope', AFTER, LEFT + 80),
    ...yTicks.map(
      (tick) =>
        `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${up(tick).toFixed(1)}" y2="${up(tick).toFixed(1)}" stroke="#ddd"/>${text(tick.toLocaleString('en'), [LEFT - 8, up(tick) + 4], 'text-anchor="end"')}`,
    ),
    ...xTicks.map((tick) =>
      text(tick.toLocaleString('en'), [across(tick), HEIGHT - BOTTOM + 18], 'text-anchor="middle"'),
    ),
    text(x, [(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12], 'text-anchor="middle"'),
    text(
      y,
      [18, (TOP + HEIGHT - BOTTOM) / 2],
      `text-anchor="middle" transform="rotate(-90 18 ${(TOP + HEIGHT - BOTTOM) / 2})"`,
    ),
    curve(before, BEFORE),
    curve(after, AFTER),
    '</svg>',
    '',
  ].join('\n')
}

/** Round numbers from 0 to at least `most`, five or so. */
export function ticksUpTo(most: number): number[] {
  const magnitude = 10 ** Math.floor(Math.log10(Math.max(most, 1) / 4))
  const step = [1, 2, 5, 10].map((each) => each * magnitude).find((each) => each * 5 >= most) ?? magnitude * 10
  const ticks = [0]
  while ((ticks.at(-1) ?? 0) < most) ticks.push((ticks.at(-1) ?? 0) + step)
  return ticks
}

function scale(ticks: readonly number[], from: number, to: number): (value: number) => number {
  const most = ticks.at(-1) || 1
  return (value) => from + ((to - from) * value) / most
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
