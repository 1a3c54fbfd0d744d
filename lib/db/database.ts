// Defines the contract of a database: named statements with positional parameters, and transactions. Every driver keeps the
// contract, whatever its library does by default.

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
 * One statement that replaces several of the same kind. Each of its parameters is an array of theirs, as PostgreSQL's text.
 * The column `00 ordinal` of a row is the number of its caller, counted from 1.
 */
export interface BatchableQuery extends Query {
  /**
   * For a statement that writes: the number of leading parameters that identify the row. Two callers with the same row are
   * never batched together. If a caller gets no row, because it is locked or gone, that caller runs the statement alone.
   */
  readonly keyParams?: number
}

/** The column with the caller's number in the rows of a `BatchableQuery`. No column of a record has this name. */
export const ORDINAL = '00 ordinal'

/**
 * A parameter of a statement. Every driver sends it as PostgreSQL's text, which the server reads like a quoted literal.
 * `'{"a": 1}'` for a `jsonb` is an object, and `true` without a known type is the text `true`.
 */
export type Param = string | number | boolean | bigint | null

/**
 * The values of a row by column name. They are the same on every driver, whatever types or transforms a pool has. `int8` is
 * a `bigint`; other integers and floats are a `number`; `boolean` is a boolean; `bytea` is a `Uint8Array`; `json` and
 * `jsonb` are parsed. `date` (midnight in UTC), `timestamp` (local time) and `timestamptz` are a `Date` to the millisecond;
 * `infinity` is a `number`. Arrays of these and of other built-in scalar types are arrays. All other values are
 * PostgreSQL's text, such as `numeric`, `uuid`, `interval` and types of your own.
 */
export type Row = Readonly<Record<string, unknown>>

/** The part that a database and each of its transactions have in common. */
export interface Queryable {
  /**
   * Runs one statement and returns all its rows. It never throws. A failure is a `DriverError`. It comes at the latest when
   * the database's deadline has passed, and the statement's effect is then unknown. Text with U+0000, and a value that is
   * no `Param`, are rejected before anything is sent. If a change of a column made a prepared statement stale, it is
   * prepared again and run. In a transaction, which that failure has aborted, it fails with a retryable error.
   */
  readonly query: (query: Query, params: readonly Param[]) => TaskEither<DriverError, readonly Row[]>
}

export interface Database extends Queryable {
  /**
   * Runs `body` in a transaction and commits it when `body` returns a `Right`. If `body` returns a `Left` or throws, the
   * transaction is rolled back, and the caller gets that `Left` or error. A transaction with a failed statement is never
   * committed, and the caller gets the first failure. Once its connection is lost, all later statements fail, and none is
   * sent outside of it.
   *
   * A nested transaction is a savepoint, and a failure rolls back to its beginning. Inside `body` only the innermost handle
   * may be used. Any other handle fails at once with the kind `outerHandle`. A handle fails with the kind `transactionOver`
   * after its end. If a task of `beforeCommit` fails, the transaction is rolled back, and the caller gets that error.
   */
  readonly transaction: <E, A>(body: (tx: Database) => TaskEither<E, A>) => TaskEither<E | DriverError, A>
  /** Ends all connections. Later statements fail with a `DriverError`. Closing it again has no effect. */
  readonly close: TaskEither<DriverError, void>
  /** Returns the error that a statement through this handle gets here and now, if an inner transaction is open. */
  readonly misuse?: () => DriverError | undefined
  /** Returns the handle of this database's innermost transaction that is open here, or `undefined` if there is none. */
  readonly current?: () => Database | undefined
  /** The transaction to which this handle belongs, if it belongs to one. */
  readonly transactionScope?: TransactionScope
}

export interface TransactionScope {
  /** Identifies the transaction or savepoint, even if its handle is wrapped. */
  readonly transaction: object
  /** The handle on which the transaction was begun. */
  readonly outer: Database
  /** Runs `task` in the transaction after a successful body, before the commit or the savepoint's release. */
  readonly beforeCommit: (task: TaskEither<SessionError, unknown>) => void
  /** Calls `listener` at the transaction's end, or at once if it has ended. A released savepoint counts as committed. */
  readonly onEnd: (listener: (committed: boolean) => void) => void
}

/** The result of a running operation. */
export type Outcome<A, L = never> = Promise<E.Either<L | DriverError, A>>

/** The functions that a driver provides. `scopedDatabase` makes a `Database` of them. */
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
 * Runs `body` in a transaction. If `body` returns a `Right`, the transaction is committed. If `body` returns a `Left` or
 * throws, the transaction is rolled back, and the caller gets that `Left` or error. A nested call is a savepoint. Inside
 * `body` use the handle `tx` (`withHandle` gives it to a record or a session). An outer handle fails at once with the kind
 * `outerHandle`. If a statement fails, the result is its error as a `Left`, even if `body` ignores it. Nothing is retried.
 *
 * Changes of the current session in `body` belong to the transaction if the session is stored in the same database. They
 * are written right before the commit and dropped by a rollback. If writing them fails, the transaction is rolled back.
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

// Makes reads run on the primary. A pooler that balances reads (pgpool-II) sends a plain `select` to a standby. That may
// lag behind, so an ended session would still open. The pooler sends statements with a volatile function to the primary. So
// each read of keyrow calls one, in a condition that is always true. A comment would need pgpool's `allow_sql_comments`.

/** For statements on few rows, and for all on Citus. It is evaluated per row. Access paths and sharding do not change. */
export const ON_PRIMARY = 'clock_timestamp() is not null'

/** For statements on many rows. It is evaluated once. */
export const ONCE_ON_PRIMARY = `(select ${ON_PRIMARY})`

/**
 * Runs one of keyrow's statements under read committed. They all need it, since they wait for other transactions and
 * continue with their results. If the role has a stricter default, the server rejects such a statement (40001) without
 * effect. It is then run again in a read committed transaction. In a transaction, the statement is sent as it is.
 */
export const runReadCommitted =
  (database: Database, query: Query, params: readonly Param[]): TaskEither<DriverError, readonly Row[]> =>
  async () => {
    const result = await database.query(query, params)()
    return E.isLeft(result) && result.left.kind === 'serialization' && database.transactionScope === undefined
      ? database.transaction((tx) => tx.query(query, params))()
      : result
  }

/** Wraps a database so that keyrow's own statements run under read committed. */
export const readCommitted = (database: Database): Database =>
  database.transactionScope === undefined
    ? { ...database, query: (query, params) => runReadCommitted(database, query, params) }
    : database
