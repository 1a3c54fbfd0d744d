// Defines the contract of a database, which every driver implements: statements with parameters, and transactions.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError, SessionError } from '../core/errors.js'
import { E } from '../core/prelude.cjs'

/** An SQL statement: its name in logs and statistics, and its text with `$1`, `$2`, … */
export interface Query {
  readonly name: string
  readonly text: string
  /** A statement that does the work of this statement for several callers at once. */
  readonly batchable?: BatchableQuery
}

/**
 * One statement that replaces several statements of the same kind. Each parameter is a PostgreSQL array literal, with
 * one element for each caller. The column `00 ordinal` of a result row has the caller's number, from 1 on.
 */
export interface BatchableQuery extends Query {
  /**
   * The number of leading parameters that identify the row which the statement writes. Two callers with the same row
   * are never batched together. If a caller's row is locked or deleted, the batch returns no row for this caller. Then
   * the caller's statement is sent alone.
   */
  readonly keyParams?: number
}

/** The column with the caller's number in the rows of a `BatchableQuery`. No column of a record has this name. */
export const ORDINAL = '00 ordinal'

/**
 * A parameter of a statement. Every driver sends a parameter as text, which the server reads like a quoted literal. So
 * `'{"a": 1}'` becomes a JSON object where a `jsonb` is expected. If the server can infer no type, it assumes `text`.
 */
export type Param = string | number | boolean | bigint | null

/**
 * The values of a row by column name. Every driver returns the same values, even if a pool has types or transforms of
 * its own. The driver returns an `int8` as `bigint`, another integer or a float as `number`, and a `bytea` as
 * `Uint8Array`. It parses `json` and `jsonb`. It returns a `date` (midnight in UTC), a `timestamp` (local time) or a
 * `timestamptz` as a `Date` with millisecond precision. An infinite date or time is a `number`. An array of a built-in
 * scalar type is a JavaScript array. A value of any other type (such as `numeric`, `uuid` or a type of your own) is a
 * string in PostgreSQL's text format.
 */
export type Row = Readonly<Record<string, unknown>>

/** The members that a database and each of its transactions have in common. */
export interface Queryable {
  /**
   * Runs one statement and returns all its rows. A failure is returned as a `DriverError`, never thrown. When the
   * database's deadline has passed, the statement fails and its effect is unknown. A text with U+0000 or a value that
   * is not a `Param` is rejected before anything is sent. If a change of a column made a prepared statement stale, the
   * statement is sent again. In a transaction, a stale statement fails with a retryable error, since its failure aborts
   * the transaction.
   */
  readonly query: (query: Query, params: readonly Param[]) => TaskEither<DriverError, readonly Row[]>
}

export interface Database extends Queryable {
  /**
   * Runs `body` in a transaction and commits it when `body` returns a `Right`. If `body` returns a `Left` or throws,
   * the transaction is rolled back, and the caller gets that `Left` or error. A transaction with a failed statement is
   * never committed, and the caller gets the first failure. Once the transaction's connection is lost, all its later
   * statements fail. None of them is sent outside of the transaction.
   *
   * A nested transaction is a savepoint. The failure of a nested transaction undoes only the work since the savepoint.
   * Inside `body` only the innermost handle may be used. A statement through any other handle fails at once with the
   * kind `outerHandle`. A statement through the handle of an ended transaction fails with the kind `transactionOver`.
   * If a task added by `beforeCommit` fails, the transaction is rolled back, and the caller gets the task's error.
   */
  readonly transaction: <E, A>(body: (tx: Database) => TaskEither<E, A>) => TaskEither<E | DriverError, A>
  /** Ends all connections. Later statements fail with a `DriverError`. A second call has no effect. */
  readonly close: TaskEither<DriverError, void>
  /** Whether the database runs in this process. No other process then writes its log to disk after a commit. */
  readonly isEmbedded?: boolean
  /** If an inner transaction is open, returns the error that a statement through this handle would get. */
  readonly misuse?: () => DriverError | undefined
  /** Returns the handle of this database's innermost open transaction in the current async context, if any. */
  readonly current?: () => Database | undefined
  /** The transaction of this handle. It is `undefined` outside of a transaction. */
  readonly transactionScope?: TransactionScope
}

export interface TransactionScope {
  /** Identifies the transaction or savepoint, even if its handle is wrapped. */
  readonly transaction: object
  /** The handle on which the transaction was begun. */
  readonly outer: Database
  /** Registers a task to run after a successful body, before the commit or the release of the savepoint. */
  readonly beforeCommit: (task: TaskEither<SessionError, unknown>) => void
  /** Calls `listener` when the transaction ends, or at once if it is over. A released savepoint counts as committed. */
  readonly onEnd: (listener: (committed: boolean) => void) => void
  /** Returns the driver's client for other libraries, or `undefined` if the driver has none. */
  readonly client: () => unknown
}

/** Connects a client that other libraries use to its transaction. */
export interface ClientGuard {
  /** Returns the error of a statement that may not be sent now. */
  readonly misuse: () => DriverError | undefined
  /** Reports that a statement has failed. The transaction is then never committed. */
  readonly failed: (error: DriverError) => void
  /** Returns whether the client sends its first statement. Before it, the client has to set the savepoint of `GUARD`. */
  readonly begin: () => boolean
}

export type Outcome<A, L = never> = Promise<E.Either<L | DriverError, A>>

/** The functions that a driver provides. `scopedDatabase` makes a `Database` from these functions. */
export interface Driver extends Queryable {
  readonly transaction: DriverTransaction['savepoint']
  readonly close: TaskEither<DriverError, void>
}

export interface DriverTransaction extends Queryable {
  readonly savepoint: <E, A>(
    body: (tx: DriverTransaction) => TaskEither<E, A>,
  ) => TaskEither<E | DriverError, A>
  /** Makes a client of the driver's own kind, whose statements run in the transaction. */
  readonly client?: (guard: ClientGuard) => unknown
}

/** One statement that has run. `rows` is `undefined` if the statement failed. */
export interface QueryEvent {
  readonly query: Query
  readonly milliseconds: number
  readonly rows: readonly Row[] | undefined
}

/**
 * Wraps a database so that `observer` is called after each statement, in the statement's async context. If `observer`
 * throws an error, the promise of the statement rejects with this error.
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
 * Runs `body` in a transaction. If `body` returns a `Right`, the transaction is committed. If `body` returns a `Left`
 * or throws, the transaction is rolled back, and the caller gets that `Left` or error. A nested call is a savepoint.
 * Inside `body` use the handle `tx`. `withHandle` returns a record or session with this handle. A statement through an
 * outer handle fails at once with the kind `outerHandle`. If a statement fails, the result is a `Left` with its error,
 * even if `body` ignores the error. `transact` retries nothing.
 *
 * Changes of the current session in `body` belong to the transaction if the session is stored in the same database.
 * They are saved right before the commit, and a rollback drops them. If the save fails, the transaction rolls back.
 *
 * @throws as a `Left`: `DriverError` of a statement or of the commit. If `body` changes the current session, the errors
 * of `saveSession` are possible too, and `SessionClosed` after the end of the request.
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
 *   pipe(tx.query(setting('ada'), []), TE.chainW(() => TE.left('no'))),
 * )()
 * console.log(result) // { _tag: 'Left', left: 'no' }
 * await database.close()
 * ```
 */
export const transact = <L, A>(
  database: Database,
  body: (tx: Database) => TaskEither<L, A>,
): TaskEither<L | SessionError, A> => database.transaction(body)

/**
 * Returns a client of the driver whose statements run in the transaction `tx`. Pass it to another library, such as
 * Drizzle or Kysely, whose statements are then committed or rolled back together with those of keyrow. If one of them
 * fails, the transaction fails, even if the program catches the error. The library cannot begin a transaction on this
 * client: call `transact` with `tx` instead. The client can be used as long as `tx` can be used.
 *
 * `Client` is the type of the client. It is `PoolClient` of node-postgres for a database of `keyrow/pg`, and `Sql` of
 * postgres.js for a database of `keyrow/postgres`. A client of node-postgres also serves as a pool with one client.
 *
 * @throws `TypeError` for a handle that is not a transaction, and for a database of PGlite
 *
 * @example
 * ```ts
 * import { sql } from 'drizzle-orm'
 * import { drizzle } from 'drizzle-orm/node-postgres'
 * import pg from 'pg'
 * import { pgStore } from 'keyrow/pg'
 * import { closeDatabase, transact, transactionClient } from 'keyrow/promise'
 *
 * const store = pgStore(new pg.Pool({ connectionString: process.env['DATABASE_URL'] }))
 * const two = await transact(store.database, async (tx) => {
 *   const db = drizzle({ client: transactionClient<pg.PoolClient>(tx) })
 *   const { rows } = await db.execute<{ two: number }>(sql`select 1 + 1 as two`)
 *   return rows[0]?.two
 * })
 * console.log(two) // 2
 * await closeDatabase(store.database)
 * ```
 */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- keyrow has no types of drivers
export const transactionClient = <Client>(tx: Database): Client => {
  if (tx.transactionScope === undefined)
    throw new TypeError('transactionClient needs the handle of a transaction: pass the parameter of its body')
  const client = tx.transactionScope.client()
  if (client === undefined)
    throw new TypeError('this database has no client for other libraries: use keyrow/pg or keyrow/postgres')
  return client as Client
}

// Makes reads run on the primary. A pooler that balances reads, such as pgpool-II, sends a plain `select` to a standby.
// A standby may lag behind, so a load could still find an ended session. pgpool-II sends a statement with a volatile
// function to the primary. So each read of keyrow calls a volatile function, in a condition that is always true.

/** The condition in reads of few rows, and in all reads on Citus. PostgreSQL evaluates this condition for each row. */
export const ON_PRIMARY = 'clock_timestamp() is not null'

/** The condition in reads of many rows. PostgreSQL evaluates this condition once for each statement. */
export const ONCE_ON_PRIMARY = `(select ${ON_PRIMARY})`

/**
 * Runs one of keyrow's statements under read committed. keyrow's statements need this isolation level, since they may
 * wait for another transaction and must then see its changes. If the role has a stricter default, the server rejects a
 * statement after such a wait (40001). The rejected statement had no effect, and is run again in a read committed
 * transaction. Inside a transaction of the program, the statement is sent unchanged.
 */
export const runReadCommitted =
  (database: Database, query: Query, params: readonly Param[]): TaskEither<DriverError, readonly Row[]> =>
  () =>
    database
      .query(query, params)()
      .then((result) =>
        E.isLeft(result) && result.left.kind === 'serialization' && database.transactionScope === undefined
          ? database.transaction((tx) => tx.query(query, params))()
          : result,
      )

/** Wraps a database so that keyrow's own statements run under read committed. */
export const readCommitted = (database: Database): Database =>
  database.transactionScope === undefined
    ? { ...database, query: (query, params) => runReadCommitted(database, query, params) }
    : database

// PostgreSQL can plan a prepared statement once for all values, or again for the values of each execution. It plans
// again if it expects a lower cost from that. It does so for arrays of less than ten elements, since a plan for all
// values assumes ten. Then the planning takes several times as long as the execution. So keyrow hides such parameters
// from the planner, by a sub-select.

/** An expression of parameters whose value the planner does not see. */
export const unplanned = (expression: string): string => `(select ${expression})`

/** Makes rows from array parameters of the given types, for example `unnested(['$1', 'uuid'], ['$2', 'text'])`. */
export const unnested = (...arrays: readonly (readonly [parameter: string, type: string])[]): string =>
  `unnest(${arrays.map(([parameter, type]) => unplanned(`${parameter}::text::${type}[]`)).join(', ')})`
