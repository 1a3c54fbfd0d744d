// Some specs run for a short time in `npm test`, and for a longer time from spec/slow, which sets LONG.

export const isLong = process.env['LONG'] === '1'

/** Returns the number of repetitions for a short or a long run. */
export const times = (short: number, long: number): number => (isLong ? long : short)
