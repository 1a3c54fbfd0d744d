// The port to a database: whole named statements with positional parameters, and transactions. It makes
// the drivers one: the contract below is what every driver keeps, whatever its library does by itself.
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError } from '../base/errors.js'

/** A statement of SQL: its name in logs and counts, and its whole text with `$1`, `$2`, … */
export interface Query {
  readonly name: string
  readonly text: string
}

export type Param = string | number | boolean | bigint | null

/** A row by the names of its columns. `int8` is a `bigint`, `bytea` a `Uint8Array`. */
export type Row = Readonly<Record<string, unknown>>

/** What every database does, and what it does inside one of its transactions. */
export interface Queryable {
  /**
   * Runs one statement and gives all its rows. Fails with a `DriverError`, never throws, and never takes
   * longer than the database's deadline; after a deadline it is unknown whether the statement took effect.
   * Text with U+0000, and a parameter that is `undefined`, are refused before anything is sent.
   */
  readonly query: (query: Query, params: readonly Param[]) => TaskEither<DriverError, readonly Row[]>
}

export interface Database extends Queryable {
  /**
   * Runs `body` in a transaction and commits it when `body` gives a `Right`. A `Left` rolls back and comes
   * out as itself; so does what `body` throws. A transaction whose connection was lost stays lost: later
   * statements in it fail, and none is ever sent outside of it.
   */
  readonly transaction: <E, A>(body: (tx: Queryable) => TaskEither<E, A>) => TaskEither<E | DriverError, A>
  /** Ends all connections; what comes after fails with a `DriverError`. Idempotent. */
  readonly close: TaskEither<DriverError, void>
}

/** One statement that was run: how long it took in milliseconds, and its rows, or `undefined` when it failed. */
export interface QueryEvent {
  readonly query: Query
  readonly milliseconds: number
  readonly rows: readonly Row[] | undefined
}
