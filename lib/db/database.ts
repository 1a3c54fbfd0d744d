// The port to a database: whole named statements with positional parameters, and transactions. It makes
// the drivers one: the contract below is what every driver keeps, whatever its library does by itself.

import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError, SessionError } from '../core/errors.js'

/** A statement of SQL: its name in logs and counts, and its whole text with `$1`, `$2`, … */
export interface Query {
  readonly name: string
  readonly text: string
  /** The same statement for many who run it at once, where there is one. */
  readonly batchable?: BatchableQuery
}

/**
 * One statement in place of many alike. Its parameters are arrays in PostgreSQL's text, one for each parameter of
 * those; its rows say in the column `00 ordinal` whose they are, counted from 1.
 */
export interface BatchableQuery extends Query {
  /**
   * Of a statement that writes: so many of its first parameters name the row. Two of one row never go together; and
   * whoever gets no row, because somebody else has it locked or it is not there, runs the statement by itself.
   */
  readonly keyParams?: number
}

/** The column of an `BatchableQuery` that counts those for whom it is run: named as no column of a record's row is. */
export const ORDINAL = '00 ordinal'

/**
 * A parameter of a statement. It means what PostgreSQL's text of it means as a quoted literal in its place, on every
 * driver: `'{"a": 1}'` for a `jsonb` is an object, `true` where no type is known is the text `true`.
 */
export type Param = string | number | boolean | bigint | null

/**
 * A row by the names of its columns, the same on every driver, whatever types or transforms of values a pool has.
 * `int8` is a `bigint`; other integers and floats are a `number`; `boolean` is one; `bytea` is a `Uint8Array`; `json`
 * and `jsonb` are what they hold. `date` (midnight in UTC), `timestamp` (local time) and `timestamptz` are a `Date` to
 * the millisecond, and `infinity` a `number`. Arrays of these, and of other built-in scalar types, are arrays. All else
 * is PostgreSQL's text: `numeric`, `uuid`, `interval`, types of your own.
 */
export type Row = Readonly<Record<string, unknown>>

/** What every database does, and what it does inside one of its transactions. */
export interface Queryable {
  /**
   * Runs one statement and gives all its rows. Fails with a `DriverError`, never throws, and never takes
   * longer than the database's deadline; after a deadline it is unknown whether the statement took effect.
   * Text with U+0000, and a value that is no `Param`, are refused before anything is sent. A statement whose prepared
   * form does not fit any more, since a column has changed its type, is prepared anew and run; in a transaction, which
   * cannot go on after that failure, it is a retryable error.
   */
  readonly query: (query: Query, params: readonly Param[]) => TaskEither<DriverError, readonly Row[]>
}

export interface Database extends Queryable {
  /**
   * Runs `body` in a transaction and commits it when `body` gives a `Right`. A `Left` rolls back and comes
   * out as itself; so does what `body` throws. A transaction in which a statement has failed cannot be
   * committed: its failure comes out. One whose connection was lost stays lost: later statements in it fail,
   * and none is ever sent outside of it.
   *
   * A transaction within a transaction is a savepoint, to which a failure of its own goes back. Inside of
   * `body` only the innermost handle may be used; another one is a `DriverError` of the kind `outerHandle`,
   * at once. After its end a handle is one of the kind `transactionOver`. A task given to `beforeCommit` that fails
   * rolls back too, and its error comes out.
   */
  readonly transaction: <E, A>(body: (tx: Database) => TaskEither<E, A>) => TaskEither<E | DriverError, A>
  /** Ends all connections; what comes after fails with a `DriverError`. Idempotent. */
  readonly close: TaskEither<DriverError, void>
  /** Why a statement through this handle would be refused here and now: inside of a transaction that is further in. */
  readonly misuse?: () => DriverError | undefined
  /** The handle of the innermost transaction of this database that is open here; `undefined` outside of all. */
  readonly current?: () => Database | undefined
  /** What a transaction's handle is in. */
  readonly transactionScope?: TransactionScope
}

export interface TransactionScope {
  /** Tells this transaction, or savepoint, from all others, whatever wraps its handle. */
  readonly transaction: object
  /** The handle that the transaction was begun on. */
  readonly outer: Database
  /** Runs `task` in the transaction after its body has succeeded, before the commit or the savepoint's release. */
  readonly beforeCommit: (task: TaskEither<SessionError, unknown>) => void
  /**
   * Calls `tell` when the transaction has ended, at once if it has: whether it was committed, or, for a savepoint,
   * handed over to the transaction around it.
   */
  readonly onEnd: (listener: (committed: boolean) => void) => void
}

/** What a driver has to give: `scopedDatabase` makes a `Database` of it. */
export interface Driver extends Queryable {
  readonly transaction: DriverTransaction['savepoint']
  readonly close: TaskEither<DriverError, void>
}

export interface DriverTransaction extends Queryable {
  readonly savepoint: <E, A>(
    body: (tx: DriverTransaction) => TaskEither<E, A>,
  ) => TaskEither<E | DriverError, A>
}

/** One statement that was run: how long it took in milliseconds, and its rows, or `undefined` when it failed. */
export interface QueryEvent {
  readonly query: Query
  readonly milliseconds: number
  readonly rows: readonly Row[] | undefined
}

// A database that tells of every statement it runs: for counts, logs and specs.

/**
 * The same database; `observer` is called after each statement, in the statement's async context. What it
 * throws is the statement's caller's to see, so it should not.
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
  const known = new WeakMap<Database, Database>()
  const wrapped = (inner: Database): Database => known.get(inner) ?? make(inner)
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
    known.set(inner, made)
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

// The verb of transactions. What it promises is the port's, and every driver keeps it.

/**
 * Runs `body` in a transaction, commits what ends in a `Right`, and rolls back what ends in a `Left` or a throw,
 * which comes out as itself. Within a transaction it is a savepoint, so that a failure goes back to where it began,
 * and no further. In `body` only its own handle is used: `withHandle` gives a record, or a session, that handle; the
 * outer one is a `DriverError` of the kind `outerHandle`, at once. A statement that failed in it is a `Left` of the
 * transaction, also when `body` overlooks it. Nothing is tried again.
 *
 * What `body` does to the current session, if that is stored in the same database, belongs to the transaction: it is
 * written right before the commit, and dropped by a rollback. When it cannot be written, the transaction is rolled
 * back.
 *
 * @throws as a `Left`: `DriverError` of a statement or of the commit; and, where `body` changed the current session,
 * what `saveSession` fails with (`SessionGone`, `SaveConflict`, …), or `SessionClosed` when the request ended first.
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

// Reads that must be current. A pooler that balances reads (pgpool-II) sends a plain `select` to a standby, which may
// lag behind: a session would open after its end. It leaves to the primary what may write, and so every statement with
// a function that PostgreSQL calls volatile. Each read of this library therefore has one: a condition that always holds.
// A comment in front of the statement would do only where `allow_sql_comments` is off.

/**
 * For a statement of few rows, and for all that run on Citus: asked of each row that the other conditions leave. It
 * changes no access path, and keeps a statement of one shard one.
 */
export const ON_PRIMARY = 'clock_timestamp() is not null'

/** The same for a statement of many rows: asked once, before the first of them. */
export const ONCE_ON_PRIMARY = `(select ${ON_PRIMARY})`

// Statements of keyrow's own under any default isolation of the role. They are written for read committed: one that
// waited for another transaction goes on with what that one left. Under a stricter default the server ends it instead
// (40001), and nothing of it is done. It is then run again in a transaction of its own, which is read committed.

/** Runs one statement of keyrow's own. A transaction's handle is used as it is. */
export const runReadCommitted =
  (database: Database, query: Query, params: readonly Param[]): TaskEither<DriverError, readonly Row[]> =>
  async () => {
    const result = await database.query(query, params)()
    return E.isLeft(result) && result.left.kind === 'serialization' && database.transactionScope === undefined
      ? database.transaction((tx) => tx.query(query, params))()
      : result
  }

/** The same database for keyrow's own statements. */
export const readCommitted = (database: Database): Database =>
  database.transactionScope === undefined
    ? { ...database, query: (query, params) => runReadCommitted(database, query, params) }
    : database
