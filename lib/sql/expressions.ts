// Expressions that several statements share.

/** A parameter in milliseconds, as an interval. */
export const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`

/** A timestamp as milliseconds since 1970. */
export const epoch = (timestamp: string): string => `(extract(epoch from ${timestamp}) * 1000)::float8`

/** Until when the id of an ended session is kept: longer than a network can hold up what was sent. */
export const FENCED = "now() + interval '1 hour'"

/** By the time that it is: what asks may have waited for a lock. */
export const STILL_LIVES = 'expires_at > clock_timestamp()'

/** By the start of the statement: for a database that refuses to be asked more often. */
export const LIVES = 'expires_at > now()'
