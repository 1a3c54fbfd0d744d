// Defines the errors of sessions and records, as the closed unions `SessionError` and `RecordError`. Each error is an
// `Error` with a readonly `_tag`, so the compiler can check that a `switch` on `_tag` covers every error. An error is
// returned as a `Left` or thrown. An absent value is an `Option`, never an error.

import { E, type TE } from './prelude.cjs'

const BRAND = Symbol.for('keyrow:error')

type ErrorClass = { readonly prototype: object }

/** Makes `instanceof` accept errors of other copies of keyrow: `family` must match, and for `classes` also `_tag`. */
export const brandErrors = (base: ErrorClass, family: string, classes: Record<string, ErrorClass>): void => {
  Object.defineProperty(base.prototype, BRAND, { value: family })
  for (const [tag, type] of [[undefined, base] as const, ...Object.entries(classes)])
    Object.defineProperty(type, Symbol.hasInstance, {
      value(this: ErrorClass, value: unknown): boolean {
        if (typeof value !== 'object' || value === null) return false
        if (Object.prototype.isPrototypeOf.call(this.prototype, value)) return true
        // A class that a program derives from an error class accepts only its own instances.
        if (this !== type || Reflect.get(value, BRAND) !== family) return false
        return tag === undefined || Reflect.get(value, '_tag') === tag
      },
    })
}

const BODIES: Readonly<Record<string, string>> = {
  EncodeError: 'That cannot be stored.\n',
  SessionGone: 'Your session has ended; nothing was stored.\n',
  SaveConflict: 'Another request was first; nothing was stored.\n',
  DriverError: 'The service is not available at the moment.\n',
  SchemaMismatch: 'The service is not available at the moment.\n',
  FlowChanged: 'This page was changed meanwhile: begin again.\n',
  FlowBusy: 'Another request is still doing this: try again.\n',
  FlowFull: 'That is more than can be stored.\n',
}
const RETRY_LATER: Readonly<Record<string, string>> = { 'Retry-After': '5' }

/** An error that describes the HTTP response to the failed request. Frameworks read or set the error's members. */
export abstract class ErrorWithStatus extends Error {
  abstract readonly _tag: string
  /** The HTTP status of the response to a request that failed with this error. */
  abstract readonly status: number
  /** The headers of the HTTP response to the failed request. Express, Fastify and Koa send these headers. */
  declare readonly headers?: Readonly<Record<string, string>>
  override get name(): string {
    return this._tag
  }
  /** The value of `status`, under the name that Fastify reads. */
  get statusCode(): number {
    return this.status
  }
  set statusCode(status: number) {
    Object.assign(this, { status })
  }
  /** Returns the whole HTTP response to the failed request. Hono sends this response. */
  getResponse(): Response {
    return new Response(responseBody(this), { status: this.status, headers: this.headers ?? {} })
  }
}

/** Returns the body of the HTTP response to a request that failed with this error. */
export const responseBody = ({ _tag, status, message }: ErrorWithStatus): string =>
  status === 403 ? `${message}\n` : (status !== 500 && BODIES[_tag]) || 'Something went wrong.\n'

/**
 * The reason why a statement failed, for the cases that a program may want to handle.
 *
 * - `unique`, `foreignKey`, `check`, `notNull`, `exclusion`: a constraint was violated.
 * - `serialization`, `deadlock`: the server aborted this transaction because of a concurrent transaction.
 * - `timeout`: a deadline of keyrow or a timeout of the server has passed.
 * - `unavailable`: there is no connection, the connection was lost, or the server starts, stops, is read-only or lacks
 *   resources.
 * - `setting`: a setting of the role or the database makes results wrong. The error's message names the setting.
 * - `outerHandle`: the handle of the database, or of an outer transaction, was used inside a transaction.
 * - `transactionOver`: the handle of a transaction was used after the transaction's end.
 */
export type DriverErrorKind = (typeof KINDS)[number][1] | 'setting' | 'outerHandle' | 'transactionOver'

/** `none`: the statement or transaction had no effect. `unknown`: it may have taken effect. */
export type Effect = 'none' | 'unknown'

const KINDS = [
  [/^23505/, 'unique'],
  [/^23503/, 'foreignKey'],
  [/^23514/, 'check'],
  [/^23502/, 'notNull'],
  [/^23P01/, 'exclusion'],
  [/^40001/, 'serialization'],
  [/^40P01/, 'deadlock'],
  // The statement was cancelled, or a statement, a wait for a lock or a transaction took too long.
  [/^(57014|55P03|25P03|25P04)/, 'timeout'],
  // The connection or login failed, the database is missing, or the server is read-only, out of resources or down.
  [/^(08|25006|28|3D|53|57P|58)/, 'unavailable'],
] as const

export const isRetryableState = (sqlState: string): boolean =>
  /^(08|25P03|25P04|25006|40|53|55P03|57014|57P)/.test(sqlState)

// An error with a SQLSTATE normally means that the statement had no effect. The effect is unknown after a lost
// connection, after a crash of the server, and after a system or internal error, which a pooler may have sent.
const effectOfState = (sqlState: string): Effect =>
  /^(08(?!00[14])|40003|57P0[1245]|58|XX)/.test(sqlState) ? 'unknown' : 'none'

abstract class KeyrowError extends ErrorWithStatus {}

interface DriverErrorDetail {
  readonly sqlState?: string | undefined
  /** Default: derived from the SQLSTATE. */
  readonly kind?: DriverErrorKind | undefined
  readonly constraint?: string | undefined
  readonly column?: string | undefined
  readonly retryable: boolean
  /** Default: derived from the SQLSTATE, or `unknown` if there is none. */
  readonly effect?: Effect | undefined
  readonly cause?: unknown
}

/**
 * The database was not reached, did not answer in time, or rejected a statement.
 *
 * - `sqlState`: PostgreSQL's five-character code, if the server answered.
 * - `kind`: the reason, for the cases that a program may want to handle. In other cases it is `undefined`.
 * - `constraint`, `column`: the violated constraint and its column, if the server names them.
 * - `retryable`: whether the same operation may succeed if it is repeated, for example after a deadlock or a timeout.
 * - `effect`: `none` if the statement or transaction had no effect, since it was never sent or the server rejected it.
 *   The effect is `unknown` if the connection was lost or no answer came in time.
 * - `status`: 503 if the error is `retryable` or of the kind `unavailable`, otherwise 500.
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
    this.kind = detail.kind ?? KINDS.find(([states]) => states.test(sqlState ?? ''))?.[1]
    this.constraint = detail.constraint
    this.column = detail.column
    this.retryable = detail.retryable
    this.effect = detail.effect ?? (sqlState === undefined ? 'unknown' : effectOfState(sqlState))
    this.status = this.retryable || this.kind === 'unavailable' ? 503 : 500
    if (this.status === 503) this.headers = RETRY_LATER
  }
}

// A stored value does not fit its codec. `problems` lists the mismatches. `row` is the row's index in a query's result.
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

/** A key or a value cannot be stored. `path` is the position in the value, such as `['lines', '0', 'price']`. */
export class EncodeError extends KeyrowError {
  readonly _tag = 'EncodeError'
  readonly status = 400

  constructor(
    readonly key: string,
    readonly path: readonly string[],
    readonly reason: string,
  ) {
    const names = [key, ...path].map((name) => name.slice(0, 80))
    super(`cannot store ${JSON.stringify(names.join('.').slice(0, 400))}: ${reason.slice(0, 400)}`)
  }
}

/** The session was destroyed or has expired. The failed operation stored nothing. */
export class SessionGone extends KeyrowError {
  readonly _tag = 'SessionGone'
  readonly status = 409

  constructor(readonly id: string) {
    super(`session ${id} is gone: it was destroyed or has expired`)
  }
}

/** The session's request has ended, or its response has begun. The operation did not read or change the session. */
export class SessionClosed extends KeyrowError {
  readonly _tag = 'SessionClosed'
  readonly status = 500

  constructor(readonly id: string) {
    super(`session ${id} is closed: its request has ended, or its response has begun`)
  }
}

/**
 * The browser has not proved that the session is its own, and the request needs this proof. Nothing was stored. The same
 * request may succeed later: a browser that has signed several proofs in a short time sends requests without a proof.
 */
export class ProofRequired extends KeyrowError {
  readonly _tag = 'ProofRequired'
  readonly status = 403
  override readonly headers = RETRY_LATER

  constructor(readonly id: string) {
    super(
      'Your browser did not prove that this session is its own, so nothing was changed. Try again in a minute, or sign in again.',
    )
  }
}

/** The session was loaded without this key, so the value of the key is unknown. */
export class KeyNotLoaded extends KeyrowError {
  readonly _tag = 'KeyNotLoaded'
  readonly status = 500

  constructor(readonly key: string) {
    super(
      `the key ${JSON.stringify(key.slice(0, 80))} was not loaded: name it in the option \`keys\`, or load it first with \`loadKeys\``,
    )
  }
}

/** There is no current session, because the code runs outside of `withSession` and of every adapter. */
export class NoCurrentSession extends KeyrowError {
  readonly _tag = 'NoCurrentSession'
  readonly status = 500

  constructor() {
    super('there is no current session here: run inside withSession(session, fn)')
  }
}

// Another request made a conflicting change first. For a session, `what` is 'secret' (a rotation) or 'create' (a first
// save). For a record, `what` is the name of a column. `record` is `session`, or the name of the record's table.
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

/** The row of the record does not exist any more. The failed operation stored nothing. */
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

/** The schema of keyrow's tables is missing or has another version, or parts of the tables are missing. */
export class SchemaMismatch extends KeyrowError {
  readonly _tag = 'SchemaMismatch'
  readonly status = 503
  override readonly headers = RETRY_LATER

  constructor(
    readonly schema: string,
    readonly problem: string,
    /** The versions of the schema, if they differ. `found` is 0 if keyrow's tables do not exist. */
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
  ProofRequired,
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
  | ProofRequired
  | KeyNotLoaded
  | NoCurrentSession
  | SaveConflict
  | SchemaMismatch

/** An error of the store itself: the database failed, or keyrow's tables do not fit this version of keyrow. */
export type StoreError = DriverError | SchemaMismatch

export type RecordError = DriverError | DecodeError | EncodeError | SaveConflict | RecordGone

/**
 * Returns whether a thrown value is a session error, even if another copy of keyrow in this process made it.
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

/** Returns whether a thrown value is a record error, even if another copy of keyrow in this process made it. */
export const isRecordError = (error: unknown): error is RecordError =>
  [DriverError, DecodeError, EncodeError, SaveConflict, RecordGone].some((one) => error instanceof one)

// Turns a session error that `task` throws, such as one of an update's function, into a `Left`. Other errors reject.
export const tagged =
  <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
  () =>
    attempted(task)

export const attempted = <L, A>(task: TE.TaskEither<L, A>): Promise<E.Either<L, A>> =>
  started(task).then(undefined, caught)

/** Runs a task. An error that the task throws rejects the promise. An `async` function would cost a microsecond more. */
export const started = <A>(task: () => Promise<A>): Promise<A> => {
  try {
    return Promise.resolve(task())
  } catch (error) {
    return new Promise(() => {
      throw error
    })
  }
}

const caught = (error: unknown): E.Either<never, never> => {
  if (isSessionError(error)) return E.left(error as never)
  throw error
}

/** Returns the right value of an `Either`, or throws its left value. */
export const given = <L extends Error, A>(either: E.Either<L, A>): A => {
  if (E.isLeft(either)) throw either.left
  return either.right
}

/** Runs a task. If its result is a `Left`, the promise rejects with the left value. */
export const orThrow = <L extends Error, A>(task: TE.TaskEither<L, A>): Promise<A> =>
  started(task).then(given)

export const withEffect = (error: DriverError, effect: Effect): DriverError =>
  error.effect === effect ? error : new DriverError(error.message, Object.assign(detailOf(error), { effect }))

export const withMessage = (error: DriverError, message: string): DriverError =>
  new DriverError(message, detailOf(error))

// `Object.assign` does not copy `cause`, which is not enumerable.
const detailOf = (error: DriverError): DriverErrorDetail => Object.assign({ cause: error.cause }, error)
