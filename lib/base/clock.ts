// Time for what has no database to ask: the memory store, and nothing else.

/** Milliseconds since 1970-01-01T00:00:00Z. */
export type Clock = () => number

export const systemClock: Clock = () => Date.now()
