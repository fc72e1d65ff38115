import type { Replayed } from './incident.ts'

/** Before against after, a line for each figure. */
export function comparison(before: Replayed, after: Replayed): string {
  const rows = before.figures.map(({ what, value }, index) => [what, shown(value), shown(after.figures[index]?.value)])
  const cells = [['', 'before', 'after'], ...rows]
  const widths = [0, 1, 2].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)))
  return cells
    .map(([what = '', ...values]) =>
      ['', what.padEnd(widths[0] ?? 0), ...values.map((value, column) => value.padStart(widths[column + 1] ?? 0))].join(
        '  ',
      ),
    )
    .join('\n')
}

function shown(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return '–'
  return Number.isInteger(value) ? value.toLocaleString('en') : value.toFixed(1)
}
