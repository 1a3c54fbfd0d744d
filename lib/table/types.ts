// The types of records of your own: what a definition says of them, and what it gives.
import type { Either } from 'fp-ts/lib/Either.js'
import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { Sql } from 'sql-template-tag'
import type { DecodeError, DriverError, EncodeError, RecordError } from '../base/errors.js'
import type { Database, Query } from '../port/database.js'
import type { ActiveRecord } from '../record/active-record.js'
import type { AnyColumn, Column, ColumnValue } from '../record/column.js'

declare const recordId: unique symbol
declare const newOf: unique symbol
declare const rowsOf: unique symbol
declare const columnsOf: unique symbol

/** The id of a record of the table `T`: no other record's id is one, nor is any plain value. */
export type RecordId<T extends string, A> = A & { readonly [recordId]: T }

export type Columns = Readonly<Record<string, AnyColumn>>

type Name<C> = keyof C & string

/** The name of the key's column, or of its columns. */
export type Key<C> = Name<C> | readonly Name<C>[]

type KeyName<K> = K extends readonly (infer N)[] ? N : K

export type GeneratedName<C extends Columns> = {
  [N in keyof C]: C[N] extends { readonly generated: true } ? N : never
}[keyof C]

/** What a record is made from. */
export interface Definition<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = GeneratedName<C>,
> {
  /** The table's name; `schema.table` for one that is not on the search path. */
  readonly table: T
  readonly columns: C
  readonly key: K
  /**
   * An integer column that counts the saves of a row: then a set of a column that somebody else has changed since is
   * a `SaveConflict`. Its default is the database's.
   */
  readonly revision?: R
  /** Names in the database, of columns whose name is not the program's in snake_case. */
  readonly names?: { readonly [N in keyof C]?: string }
}

export type IdOf<T extends string, C extends Columns, K> = RecordId<
  T,
  K extends keyof C ? ColumnValue<C[K]> : { readonly [N in Extract<KeyName<K>, keyof C>]: ColumnValue<C[N]> }
>

/** A record that has a row. */
export type Saved<T extends string, C extends Columns, K> = ActiveRecord<Database, IdOf<T, C, K>> & {
  readonly [N in keyof C]: N extends K ? IdOf<T, C, K> : ColumnValue<C[N]>
}

/** What a new record is built from: all columns but those that the database makes. */
export type Given<C extends Columns> = {
  readonly [N in Exclude<keyof C, GeneratedName<C>>]: ColumnValue<C[N]>
}

/** A record that was built, and not saved yet. */
export type New<T extends string, C extends Columns> = Given<C> & {
  readonly handle: Database
  readonly [newOf]?: T
}

/** The columns that can be set. */
type Settable<C extends Columns, K, R> = {
  readonly [N in Exclude<keyof C, KeyName<K> | R>]: ColumnValue<C[N]>
}

/** Edits any of a record's values, with a row, or still without; a column that the database makes, only with one. */
type Editor<T extends string, C extends Columns, K, N> = [N] extends [keyof Given<C>]
  ? <V extends Saved<T, C, K> | New<T, C>>(record: V) => V
  : <V extends Saved<T, C, K>>(record: V) => V

type Reading = DriverError | DecodeError

/** The records of a table that belong to a parent, and those of many parents by one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): TaskEither<Reading, readonly V[]>
  /** Each parent, in the given order, with its records. */
  readonly each: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => TaskEither<Reading, readonly (readonly [P, readonly V[]])[]>
}

/** What decodes a result's rows: a record. */
export interface Rows<V> {
  readonly [rowsOf]?: V
  /** What a statement of your own has to select, to be decoded by this record: `sql\`select ${notes.row} from notes\``. */
  readonly row: Sql
}

/** The columns of a definition. */
export interface Defined<C> {
  readonly [columnsOf]?: C
  /** The statements by their names, whole. */
  readonly statements: Readonly<Record<string, Query>>
}

/** What of a definition does no I/O. */
export interface PureRecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends Rows<Saved<T, C, K>>,
    Defined<C> {
  readonly table: T
  /** The same as `row`, where the statement calls the table by another name. */
  readonly rowOf: (alias: string) => Sql
  /** A column of another table that holds an id of these records. Of a key of one column only. */
  readonly reference: K extends keyof C ? Column<IdOf<T, C, K>> : never
  /** Sets a column; a value equal to the present one gives the same record. Throws an `EncodeError`. */
  readonly set: <N extends keyof Settable<C, K, R>>(
    column: N,
    value: Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
  /**
   * Replaces a column's value by `f` of it, and again when it is saved, should somebody else have changed it
   * meanwhile. Pure: it may run any number of times.
   */
  readonly update: <N extends keyof Settable<C, K, R>>(
    column: N,
    f: (value: Settable<C, K, R>[N]) => Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
}

/** A record's definition: the functions that go with its values. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends PureRecordOf<T, C, K, R> {
  /** An id from what came from elsewhere: from a text, for example. */
  readonly id: (value: unknown) => Either<EncodeError, IdOf<T, C, K>>
  /** A new record, in memory until its first save. An `EncodeError` names the column that does not fit. */
  readonly build: (handle: Database, given: Given<C>) => Either<EncodeError, New<T, C>>
  /** The record with this id. One statement. */
  readonly find: (
    handle: Database,
    id: IdOf<T, C, K>,
  ) => TaskEither<Reading | EncodeError, Option<Saved<T, C, K>>>
  /** The records with these ids, in their order. One statement. */
  readonly findMany: (
    handle: Database,
    ids: readonly IdOf<T, C, K>[],
  ) => TaskEither<Reading | EncodeError, readonly Option<Saved<T, C, K>>[]>
  /**
   * Inserts a new record, or sends the columns that were edited, if any; gives the record as the database has it.
   * `RecordGone` when its row is; `SaveConflict` for a stale set, if the record has a revision.
   */
  readonly save: (record: Saved<T, C, K> | New<T, C>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Reads the row again, under the unsaved edits. `RecordGone` when it is. */
  readonly refresh: (record: Saved<T, C, K>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Deletes the row. What is gone already is no error. */
  readonly destroy: (record: Saved<T, C, K>) => TaskEither<DriverError, void>
  /** These records by a column that holds a parent's id, in the order of their keys. */
  readonly by: <N extends keyof C>(column: N) => Relation<NonNullable<ColumnValue<C[N]>>, Saved<T, C, K>>
  /** These records through a table between: by its column of the parent's id, and its column of theirs. */
  readonly through: <C2 extends Columns, N extends keyof C2>(
    between: Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, Saved<T, C, K>>
}

/** The type of a record's values: `type Note = RecordValue<typeof notes>`. */
export type RecordValue<R> = R extends { readonly refresh: (record: infer V) => unknown } ? V : never
