// Everything that can go wrong, as one small closed union. Each error is an `Error` with a readonly
// `_tag`, so that the same value sits in a `Left` or is thrown, and a `switch` on `_tag` is exhaustive.
// What is merely absent is never an error: that is `Option`.

abstract class KeyrowError extends Error {
  abstract readonly _tag: string
  override get name(): string {
    return this._tag
  }
}

/**
 * The database could not be reached, did not answer in time, or refused a statement.
 *
 * - `sqlState`: PostgreSQL's five-character code, when the server itself answered.
 * - `retryable`: the same operation may succeed if tried again (a lost connection, a deadlock, a timeout).
 *   Whether the statement took effect is then unknown.
 * - `cause`: the driver's own error.
 */
export class DriverError extends KeyrowError {
  readonly _tag = 'DriverError'
  readonly sqlState: string | undefined
  readonly retryable: boolean

  constructor(
    message: string,
    detail: { readonly sqlState?: string | undefined; readonly retryable: boolean; readonly cause?: unknown },
  ) {
    super(message, { cause: detail.cause })
    this.sqlState = detail.sqlState
    this.retryable = detail.retryable
  }
}

/** A stored value does not fit the codec of its key. `problems` has one line for each misfit. */
export class DecodeError extends KeyrowError {
  readonly _tag = 'DecodeError'

  constructor(
    readonly key: string,
    readonly problems: readonly string[],
  ) {
    super(`the stored value of '${key}' does not fit its codec: ${problems.join('; ')}`)
  }
}

/** A key or a value that cannot be stored. `path` leads into the value: `['lines', '0', 'price']`. */
export class EncodeError extends KeyrowError {
  readonly _tag = 'EncodeError'

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

  constructor(readonly id: string) {
    super(`session ${id} is gone: it was destroyed or has expired`)
  }
}

/** The request that the current session belonged to has ended; the change was not made. */
export class SessionClosed extends KeyrowError {
  readonly _tag = 'SessionClosed'

  constructor(readonly id: string) {
    super(`session ${id} is closed: its request has ended, or its response has begun`)
  }
}

/** Nothing has bound a current session here: the code does not run inside `withSession` or a door. */
export class NoCurrentSession extends KeyrowError {
  readonly _tag = 'NoCurrentSession'

  constructor() {
    super('there is no current session here: run inside withSession(session, fn)')
  }
}

/** Another request changed the same thing first: its secret (`what` is 'secret') or its first save ('create'). */
export class SaveConflict extends KeyrowError {
  readonly _tag = 'SaveConflict'

  constructor(
    readonly id: string,
    readonly what: string,
  ) {
    super(`another request was first to change session ${id}: ${what}`)
  }
}

/** The database does not hold the schema that this release of keyrow works with. */
export class SchemaMismatch extends KeyrowError {
  readonly _tag = 'SchemaMismatch'

  constructor(
    readonly schema: string,
    readonly problem: string,
    /** The versions, when it is these that differ; `found` is 0 when nothing is there. */
    readonly versions?: { readonly found: number; readonly wanted: number },
  ) {
    super(`schema "${schema}": ${problem}`)
  }
}

export type SessionError =
  | DriverError
  | DecodeError
  | EncodeError
  | SessionGone
  | SessionClosed
  | NoCurrentSession
  | SaveConflict
  | SchemaMismatch

/**
 * Tells one of keyrow's errors from anything else that was thrown.
 *
 * @example
 * ```ts
 * import { isSessionError, NoCurrentSession } from 'keyrow'
 *
 * console.log(isSessionError(new NoCurrentSession()), isSessionError(new Error('other'))) // true false
 * ```
 */
export const isSessionError = (error: unknown): error is SessionError => error instanceof KeyrowError
