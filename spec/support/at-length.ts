// Some specs run shortly in `npm test` and at length from spec/slow, which sets LONG.

export const isLong = process.env['LONG'] === '1'

/** How often something is done: shortly, and at length. */
export const times = (short: number, long: number): number => (isLong ? long : short)
