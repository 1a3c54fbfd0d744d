// Decides whether a number of a long run grows, by a comparison of its middle third with its last third. The first
// third is ignored, because memory and tables first reach their normal size.

interface Thirds {
  readonly first: number
  readonly middle: number
  readonly last: number
}

const median = (figures: readonly number[]): number =>
  [...figures].sort((a, b) => a - b)[Math.floor(figures.length / 2)] ?? Number.NaN

/** Returns the medians of the three thirds of a series. */
export const thirdsOf = (series: readonly number[]): Thirds => {
  const third = Math.floor(series.length / 3)
  return {
    first: median(series.slice(0, third)),
    middle: median(series.slice(third, series.length - third)),
    last: median(series.slice(series.length - third)),
  }
}

export interface Bound {
  /** The maximum ratio of the last third to the middle third. */
  readonly factor: number
  /** The additional allowed difference, because chance matters for small numbers. */
  readonly slack: number
}

/** The minimum length of a series. */
const ENOUGH = 9

/**
 * Returns why a series grows too much, or nothing. `traffic` is the ratio of the requests in the last third to the
 * requests in the middle third. More requests may use more memory and rows.
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
