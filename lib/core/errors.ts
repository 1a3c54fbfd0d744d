// Everything that can go wrong, as one small closed union. Each error is an `Error` with a readonly
// `_tag`, so that the same value sits in a `Left` or is thrown, and a `switch` on `_tag` is exhaustive.
// What is merely absent is never an error: that is `Option`.

import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import { brandErrors, ErrorWithStatus, RETRY_LATER } from './error-base.js'

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

abstract class KeyrowError extends ErrorWithStatus {}

interface DriverErrorDetail {
  readonly sqlState?: string | undefined
  /** Default: by the SQLSTATE. */
  readonly kind?: DriverErrorKind | undefined
  readonly constraint?: string | undefined
  readonly column?: string | undefined
  readonly retryable: boolean
  /** Default: by the SQLSTATE; without one `unknown`. */
  readonly effect?: Effect | undefined
  readonly cause?: unknown
}

/**
 * The database could not be reached, did not answer in time, or refused a statement.
 *
 * - `sqlState`: PostgreSQL's five-character code, when the server itself answered.
 * - `kind`: the kind of failure that a program may want to answer; `undefined` for all else.
 * - `constraint`, `column`: the names of what was violated, where the server tells them.
 * - `retryable`: the same operation may succeed if tried again (a lost connection, a deadlock, a timeout).
 * - `effect`: `none` if the statement, or the whole transaction, certainly did nothing: it was never sent, or the server
 *   answered that it is not done. `unknown` if it may be done: the connection was lost, or the answer did not come in time.
 * - `status`: 503 if it is `retryable` or of the kind `unavailable`, else 500.
 * - `cause`: the driver's own error.
 *
 * @example
 * ```ts
 * import { DriverError } from 'keyrow'
 *
 * const error = new DriverError('orders.pay: deadlock detected', { sqlState: '40P01', retryable: true })
 * console.log(error.kind, error.retryable && error.effect === 'none') // deadlock true
 * ```
 */
export class DriverError extends KeyrowError {
  readonly _tag = 'DriverError'
  readonly sqlState: string | undefined
  readonly kind: DriverErrorKind | undefined
  readonly constraint: string | undefined
  readonly column: string | undefined
  readonly retryable: boolean
  readonly effect: Effect
  readonly status: 500 | 503
  declare readonly headers?: Readonly<Record<string, string>>

  constructor(message: string, detail: DriverErrorDetail) {
    super(message, { cause: detail.cause })
    const { sqlState } = detail
    this.sqlState = sqlState
    this.kind = detail.kind ?? kindOfState(sqlState)
    this.constraint = detail.constraint
    this.column = detail.column
    this.retryable = detail.retryable
    this.effect = detail.effect ?? (sqlState === undefined ? 'unknown' : effectOfState(sqlState))
    this.status = this.retryable || this.kind === 'unavailable' ? 503 : 500
    if (this.status === 503) this.headers = RETRY_LATER
  }
}

/**
 * A stored value does not fit the codec of its key, or of its column; `row` counts the rows of a result from 0.
 * `problems` has one line for each misfit.
 */
export class DecodeError extends KeyrowError {
  readonly _tag = 'DecodeError'
  readonly status = 500

  constructor(
    readonly key: string,
    readonly problems: readonly string[],
    readonly row?: number,
  ) {
    const position = row === undefined ? '' : ` in row ${String(row)}`
    super(`the stored value of '${key}'${position} does not fit its codec: ${problems.join('; ')}`)
  }
}

/** A key or a value that cannot be stored. `path` leads into the value: `['lines', '0', 'price']`. */
export class EncodeError extends KeyrowError {
  readonly _tag = 'EncodeError'
  readonly status = 400

  constructor(
    readonly key: string,
    readonly path: readonly string[],
    readonly reason: string,
  ) {
    super(
      `cannot store ${JSON.stringify(
        [key, ...path]
          .map((name) => name.slice(0, 80))
          .join('.')
          .slice(0, 400),
      )}: ${reason.slice(0, 400)}`,
    )
  }
}

/** The session was destroyed or has expired; nothing was stored. */
export class SessionGone extends KeyrowError {
  readonly _tag = 'SessionGone'
  readonly status = 409

  constructor(readonly id: string) {
    super(`session ${id} is gone: it was destroyed or has expired`)
  }
}

/** The request that the current session belonged to has ended, or its response has begun; nothing was read or changed. */
export class SessionClosed extends KeyrowError {
  readonly _tag = 'SessionClosed'
  readonly status = 500

  constructor(readonly id: string) {
    super(`session ${id} is closed: its request has ended, or its response has begun`)
  }
}

/** A key was asked for that this session was loaded without. Whether it is stored is not known. */
export class KeyNotLoaded extends KeyrowError {
  readonly _tag = 'KeyNotLoaded'
  readonly status = 500

  constructor(readonly key: string) {
    super(
      `the key ${JSON.stringify(key.slice(0, 80))} was not loaded: name it in the option \`keys\`, or fetch it first`,
    )
  }
}

/** Nothing has bound a current session here: the code does not run inside `withSession` or a door. */
export class NoCurrentSession extends KeyrowError {
  readonly _tag = 'NoCurrentSession'
  readonly status = 500

  constructor() {
    super('there is no current session here: run inside withSession(session, fn)')
  }
}

/**
 * Another request changed the same thing first. Of a session its secret (`what` is 'secret') or its first save
 * ('create'); of a record of your own the column that `what` names. `record` is `session`, or the record's table.
 */
export class SaveConflict extends KeyrowError {
  readonly _tag = 'SaveConflict'
  readonly status = 409

  constructor(
    readonly id: string,
    readonly what: string,
    readonly record = 'session',
  ) {
    super(`another request was first to change ${record} ${id}: ${what}`)
  }
}

/** The row of a record is gone; nothing was stored. */
export class RecordGone extends KeyrowError {
  readonly _tag = 'RecordGone'
  readonly status = 500

  constructor(
    readonly record: string,
    readonly id: string,
  ) {
    super(`${record} ${id} is gone: no row has its key`)
  }
}

/** The database does not hold the schema that this release of keyrow works with. */
export class SchemaMismatch extends KeyrowError {
  readonly _tag = 'SchemaMismatch'
  readonly status = 503
  override readonly headers = RETRY_LATER

  constructor(
    readonly schema: string,
    readonly problem: string,
    /** The versions, when it is these that differ; `found` is 0 when nothing is there. */
    readonly versions?: { readonly found: number; readonly wanted: number },
  ) {
    super(`schema "${schema}": ${problem}`)
  }
}

brandErrors(KeyrowError, 'KeyrowError', {
  DriverError,
  DecodeError,
  EncodeError,
  SessionGone,
  SessionClosed,
  KeyNotLoaded,
  NoCurrentSession,
  SaveConflict,
  RecordGone,
  SchemaMismatch,
})

export type SessionError =
  | DriverError
  | DecodeError
  | EncodeError
  | SessionGone
  | SessionClosed
  | KeyNotLoaded
  | NoCurrentSession
  | SaveConflict
  | SchemaMismatch

/** The store itself failed: the database did not do what was asked, or does not hold keyrow's schema. */
export type StoreError = DriverError | SchemaMismatch

/** What can go wrong with a record of your own. */
export type RecordError = DriverError | DecodeError | EncodeError | SaveConflict | RecordGone

/**
 * Tells one of the errors of sessions from anything else that was thrown; also when another copy of keyrow in this
 * process made it.
 *
 * @example
 * ```ts
 * import { isSessionError, NoCurrentSession } from 'keyrow'
 *
 * console.log(isSessionError(new NoCurrentSession()), isSessionError(new Error('other'))) // true false
 * ```
 */
export const isSessionError = (error: unknown): error is SessionError =>
  error instanceof KeyrowError && !(error instanceof RecordGone)

/**
 * Tells one of the errors of records from anything else that was thrown.
 *
 * @example
 * ```ts
 * import { isRecordError, RecordGone } from 'keyrow'
 *
 * console.log(isRecordError(new RecordGone('notes', '1')), isRecordError(new Error('other'))) // true false
 * ```
 */
export const isRecordError = (error: unknown): error is RecordError =>
  [DriverError, DecodeError, EncodeError, SaveConflict, RecordGone].some((one) => error instanceof one)

// What a replayed update throws.

/** One of our errors, thrown by a replayed update, is the save's `Left`; anything else stays a throw. */
export const tagged =
  <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
  () =>
    attempted(task)

/** Runs it at once. */
export const attempted = async <L, A>(task: TE.TaskEither<L, A>): Promise<E.Either<L, A>> => {
  try {
    return await task()
  } catch (error) {
    if (isSessionError(error)) return E.left(error as L)
    throw error
  }
}

// Errors of a driver with something else in them: they are never changed in place.

/** The same error with another effect. */
export const withEffect = (error: DriverError, effect: Effect): DriverError =>
  error.effect === effect ? error : rebuilt(error.message, error, effect)

/** The same error with another message. */
export const withMessage = (error: DriverError, message: string): DriverError =>
  rebuilt(message, error, error.effect)

const rebuilt = (
  message: string,
  { sqlState, kind, constraint, column, retryable, cause }: DriverError,
  effect: Effect,
): DriverError => new DriverError(message, { sqlState, kind, constraint, column, retryable, effect, cause })
