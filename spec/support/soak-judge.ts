// Whether a figure of a long run grows: its middle third is compared with its last one. The first is not looked at:
// memory fills, and tables come to the size that the traffic needs.

interface Thirds {
  readonly first: number
  readonly middle: number
  readonly last: number
}

const median = (figures: readonly number[]): number =>
  [...figures].sort((a, b) => a - b)[Math.floor(figures.length / 2)] ?? Number.NaN

/** The medians of the three parts of a series. */
export const thirdsOf = (series: readonly number[]): Thirds => {
  const third = Math.floor(series.length / 3)
  return {
    first: median(series.slice(0, third)),
    middle: median(series.slice(third, series.length - third)),
    last: median(series.slice(series.length - third)),
  }
}

export interface Bound {
  /** The last third may be so many times the middle one. */
  readonly factor: number
  /** And more than that by so much: what chance adds to a small figure. */
  readonly slack: number
}

/** The least number of figures that can be judged. */
const ENOUGH = 9

/**
 * What is wrong with a series, or nothing. `traffic` is the last third's requests divided by the middle one's: on a machine
 * that others use the middle one may have had fewer, and more requests may leave more.
 */
export const grows = (
  series: readonly number[],
  { factor, slack }: Bound,
  traffic = 1,
): string | undefined => {
  if (series.length < ENOUGH) return `${String(series.length)} figures are too few`
  const { middle, last } = thirdsOf(series)
  const most = middle * factor * Math.max(1, traffic) + slack
  return last <= most
    ? undefined
    : `from ${middle.toFixed(2)} to ${last.toFixed(2)}, at most ${most.toFixed(2)}`
}
