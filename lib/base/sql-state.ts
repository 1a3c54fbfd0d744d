// What PostgreSQL's five-character codes (SQLSTATE) say about a failed statement: its kind, whether the same statement
// may succeed later, and whether it may have taken effect.

/**
 * Why a statement failed, where a program may want to answer it.
 *
 * - `unique`, `foreignKey`, `check`, `notNull`, `exclusion`: a constraint was violated.
 * - `serialization`, `deadlock`: the server gave up this transaction in favour of another one.
 * - `timeout`: a deadline of keyrow, or a timeout of the server, has passed.
 * - `unavailable`: no connection, a lost connection, a server that starts or stops, has no resources left, or only reads.
 * - `setting`: a setting of the role or the database makes results wrong; the message names it.
 * - `outerHandle`: the database, or an outer transaction, was used inside of a transaction of its own.
 * - `transactionOver`: a transaction's handle was used after its end.
 */
export type DriverErrorKind =
  | 'unique'
  | 'foreignKey'
  | 'check'
  | 'notNull'
  | 'exclusion'
  | 'serialization'
  | 'deadlock'
  | 'timeout'
  | 'unavailable'
  | 'setting'
  | 'outerHandle'
  | 'transactionOver'

/** `none`: the statement, or the whole transaction, certainly did nothing. `unknown`: it may be done. */
export type Effect = 'none' | 'unknown'

const KINDS: readonly (readonly [RegExp, DriverErrorKind])[] = [
  [/^23505/, 'unique'],
  [/^23503/, 'foreignKey'],
  [/^23514/, 'check'],
  [/^23502/, 'notNull'],
  [/^23P01/, 'exclusion'],
  [/^40001/, 'serialization'],
  [/^40P01/, 'deadlock'],
  // Cancelled or too long: a statement, a lock, a transaction that was idle, a whole transaction.
  [/^(57014|55P03|25P03|25P04)/, 'timeout'],
  // Connections, a standby that was the primary, authentication, no such database, resources, the server going down
  // or starting, its disks.
  [/^(08|25006|28|3D|53|57P|58)/, 'unavailable'],
]

export const kindOfState = (sqlState: string | undefined): DriverErrorKind | undefined =>
  sqlState === undefined ? undefined : KINDS.find(([states]) => states.test(sqlState))?.[1]

export const isRetryableState = (sqlState: string): boolean =>
  /^(08|25P03|25P04|25006|40|53|55P03|57014|57P)/.test(sqlState)

// An error says "not done", with a few exceptions: a pooler that lost its server, a server that ended the connection,
// what the server does not know either, and errors of the system, which may come from something in between.
const UNCERTAIN = /^(08|40003|57P0[1245]|58|XX)/
const CERTAIN = /^0800[14]/

export const effectOfState = (sqlState: string): Effect =>
  UNCERTAIN.test(sqlState) && !CERTAIN.test(sqlState) ? 'unknown' : 'none'
