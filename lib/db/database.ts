// The contract of a database: named statements with positional parameters, and transactions. Every driver keeps it,
// whatever its library does by default.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError, SessionError } from '../core/errors.js'
import { E } from '../core/prelude.cjs'

/** An SQL statement: its name in logs and statistics, and its text with `$1`, `$2`, … */
export interface Query {
  readonly name: string
  readonly text: string
  /** The form of this statement that runs it for several callers at once, if there is one. */
  readonly batchable?: BatchableQuery
}

/**
 * One statement in place of several of the same kind. Each parameter is an array of theirs, in PostgreSQL's text. The
 * column `00 ordinal` of a row is the number of its caller, counted from 1.
 */
export interface BatchableQuery extends Query {
  /**
   * For a statement that writes: the number of leading parameters that identify the row. Two callers with the same row
   * are never batched together. A caller without a row of its own (it is locked or gone) runs the statement alone.
   */
  readonly keyParams?: number
}

/** The column with the caller's number in the rows of a `BatchableQuery`. No column of a record has this name. */
export const ORDINAL = '00 ordinal'

/**
 * A parameter of a statement. Every driver sends PostgreSQL's text of it, which means what it would mean as a quoted
 * literal: `'{"a": 1}'` for a `jsonb` is an object; `true` without a known type is the text `true`.
 */
export type Param = string | number | boolean | bigint | null

/**
 * A row by column names, the same on every driver, whatever types or transforms a pool has. `int8` is a `bigint`; other
 * integers and floats are a `number`; `boolean` is a boolean; `bytea` is a `Uint8Array`; `json` and `jsonb` are parsed.
 * `date` (midnight in UTC), `timestamp` (local time) and `timestamptz` are a `Date` to the millisecond; `infinity` is a
 * `number`. Arrays of these and of other built-in scalar types are arrays. All else is PostgreSQL's text: `numeric`,
 * `uuid`, `interval`, types of your own.
 */
export type Row = Readonly<Record<string, unknown>>

/** What a database and each of its transactions can do. */
export interface Queryable {
  /**
   * Runs one statement and returns all its rows. It never throws. Failures are a `DriverError`, which comes at the
   * latest when the database's deadline has passed; then the effect of the statement is unknown. Text with U+0000, and
   * a value that is no `Param`, are rejected before anything is sent. A prepared statement that a change of a column
   * made stale is prepared anew and run; in a transaction, which that failure has aborted, it is a retryable error.
   */
  readonly query: (query: Query, params: readonly Param[]) => TaskEither<DriverError, readonly Row[]>
}

export interface Database extends Queryable {
  /**
   * Runs `body` in a transaction and commits it when `body` returns a `Right`. A `Left` or a throw rolls back and comes
   * out unchanged. A transaction in which a statement failed is never committed; its first failure comes out. After the
   * loss of its connection all later statements fail, and none is sent outside of the transaction.
   *
   * A nested transaction is a savepoint: its failure rolls back to its beginning. Inside `body` only the innermost
   * handle may be used; any other one fails at once with the kind `outerHandle`. A handle fails with the kind
   * `transactionOver` after its end. A task of `beforeCommit` that fails rolls back too, and its error comes out.
   */
  readonly transaction: <E, A>(body: (tx: Database) => TaskEither<E, A>) => TaskEither<E | DriverError, A>
  /** Ends all connections. Later statements fail with a `DriverError`. Idempotent. */
  readonly close: TaskEither<DriverError, void>
  /** The error of a statement through this handle, here and now, if an inner transaction is open. */
  readonly misuse?: () => DriverError | undefined
  /** The handle of the innermost open transaction of this database here; `undefined` outside of all. */
  readonly current?: () => Database | undefined
  /** The transaction of this handle, if it is one's. */
  readonly transactionScope?: TransactionScope
}

export interface TransactionScope {
  /** Identifies the transaction or savepoint, whatever wraps its handle. */
  readonly transaction: object
  /** The handle on which the transaction was begun. */
  readonly outer: Database
  /** Runs `task` in the transaction after a successful body, before the commit or the savepoint's release. */
  readonly beforeCommit: (task: TaskEither<SessionError, unknown>) => void
  /** Calls `listener` at the end, or at once after it. A released savepoint counts as committed. */
  readonly onEnd: (listener: (committed: boolean) => void) => void
}

/** The result of a running operation. */
export type Outcome<A, L = never> = Promise<E.Either<L | DriverError, A>>

/** What a driver provides. `scopedDatabase` makes a `Database` of it. */
export interface Driver extends Queryable {
  readonly transaction: DriverTransaction['savepoint']
  readonly close: TaskEither<DriverError, void>
}

export interface DriverTransaction extends Queryable {
  readonly savepoint: <E, A>(
    body: (tx: DriverTransaction) => TaskEither<E, A>,
  ) => TaskEither<E | DriverError, A>
}

/** One statement that has run. `rows` is `undefined` if it failed. */
export interface QueryEvent {
  readonly query: Query
  readonly milliseconds: number
  readonly rows: readonly Row[] | undefined
}

/**
 * Wraps a database so that `observer` is called after each statement, in the statement's async context. An error that
 * `observer` throws rejects the caller of the statement.
 *
 * @example
 * ```ts
 * import { observedDatabase, sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = observedDatabase(pgliteDatabase(), ({ query, milliseconds }) => {
 *   console.log(query.name, Math.round(milliseconds))
 * })
 * const store = sessionStore(database)
 * await store.prepare()
 * await database.close()
 * ```
 */
export const observedDatabase = (database: Database, observer: (event: QueryEvent) => void): Database => {
  const wrappers = new WeakMap<Database, Database>()
  const wrapped = (inner: Database): Database => wrappers.get(inner) ?? make(inner)
  const make = (inner: Database): Database => {
    const { transactionScope, current } = inner
    const made: Database = {
      ...inner,
      ...observed(inner, observer),
      transaction: (body) => inner.transaction((tx) => body(wrapped(tx))),
      ...(transactionScope === undefined
        ? {}
        : { transactionScope: { ...transactionScope, outer: wrapped(transactionScope.outer) } }),
      ...(current === undefined ? {} : { current: () => wrappedIf(current()) }),
    }
    wrappers.set(inner, made)
    return made
  }
  const wrappedIf = (inner: Database | undefined): Database | undefined => inner && wrapped(inner)
  return wrapped(database)
}

const observed = (inner: Queryable, observer: (event: QueryEvent) => void): Queryable => ({
  query: (query, params) => async () => {
    const start = performance.now()
    const result = await inner.query(query, params)()
    const rows = E.isRight(result) ? result.right : undefined
    observer({ query, milliseconds: performance.now() - start, rows })
    return result
  },
})

/**
 * Runs `body` in a transaction. It commits a `Right`, and rolls back a `Left` or a throw, which comes out unchanged.
 * A nested call is a savepoint. Inside `body` use its own handle (`withHandle` gives it to a record or a session); an
 * outer handle fails at once with the kind `outerHandle`. A failed statement is a `Left` of the transaction even if
 * `body` ignores it. Nothing is retried.
 *
 * Changes of the current session in `body` belong to the transaction if the session is stored in the same database.
 * They are written right before the commit and dropped by a rollback. A failure to write them rolls back.
 *
 * @throws as a `Left`: `DriverError` of a statement or of the commit. If `body` changed the current session, also the
 * errors of `saveSession` (`SessionGone`, `SaveConflict`, …), and `SessionClosed` if the request has ended.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { transact } from 'keyrow/records'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const setting = (value: string) => ({ name: 'set', text: `select set_config('app.user', '${value}', true)` })
 * const result = await transact(database, (tx) =>
 *   pipe(
 *     tx.query(setting('ada'), []),
 *     TE.chainW(() => TE.left('no')),
 *   ),
 * )()
 * console.log(result) // { _tag: 'Left', left: 'no' }
 * await database.close()
 * ```
 */
export const transact = <L, A>(
  database: Database,
  body: (tx: Database) => TaskEither<L, A>,
): TaskEither<L | SessionError, A> => database.transaction(body)

// Reads on the primary. A pooler that balances reads (pgpool-II) sends a plain `select` to a standby, which may lag
// behind: an ended session would open. It sends statements with a volatile function to the primary, so each read of
// keyrow has one, in a condition that is always true. A leading comment would need `allow_sql_comments`.

/** For statements of few rows, and all on Citus: evaluated per row. It changes no access path and no sharding. */
export const ON_PRIMARY = 'clock_timestamp() is not null'

/** For statements of many rows: evaluated once. */
export const ONCE_ON_PRIMARY = `(select ${ON_PRIMARY})`

/**
 * Runs one statement of keyrow under read committed, which all of them need: after a wait for another transaction they
 * continue with its result. Under a stricter default of the role the server rejects such a statement (40001) without
 * effect; it is then run again in a transaction that is read committed. A transaction's handle is used as it is.
 */
export const runReadCommitted =
  (database: Database, query: Query, params: readonly Param[]): TaskEither<DriverError, readonly Row[]> =>
  async () => {
    const result = await database.query(query, params)()
    return E.isLeft(result) && result.left.kind === 'serialization' && database.transactionScope === undefined
      ? database.transaction((tx) => tx.query(query, params))()
      : result
  }

/** Wraps a database for keyrow's own statements. */
export const readCommitted = (database: Database): Database =>
  database.transactionScope === undefined
    ? { ...database, query: (query, params) => runReadCommitted(database, query, params) }
    : database
