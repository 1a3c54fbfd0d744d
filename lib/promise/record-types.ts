// The types of records of your own whose verbs are promises.
import type { Database } from '../port/database.js'
import type { ActiveRecord } from '../record/active-record.js'
import type { ColumnValue } from '../record/column.js'
import type {
  Columns,
  Defined,
  GeneratedName,
  Given,
  IdOf,
  Key,
  New,
  PureRecordOf,
  Saved,
} from '../table/types.js'

/** The records of a table that belong to a parent, and those of many parents by one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): Promise<readonly V[]>
  /** Each parent, in the given order, with its records. */
  readonly each: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => Promise<readonly (readonly [P, readonly V[]])[]>
}

/** A record's definition: the functions that go with its values. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends PureRecordOf<T, C, K, R> {
  /** An id from what came from elsewhere: from a text, for example. Throws an `EncodeError`. */
  readonly id: (value: unknown) => IdOf<T, C, K>
  /** A new record, in memory until its first save. Throws an `EncodeError` that names the column which does not fit. */
  readonly build: (handle: Database, given: Given<C>) => New<T, C>
  /** The record with this id, or `undefined`. One statement. */
  readonly find: (handle: Database, id: IdOf<T, C, K>) => Promise<Saved<T, C, K> | undefined>
  /** The records with these ids, in their order. One statement. */
  readonly findMany: (
    handle: Database,
    ids: readonly IdOf<T, C, K>[],
  ) => Promise<readonly (Saved<T, C, K> | undefined)[]>
  /**
   * Inserts a new record, or sends the columns that were edited, if any; gives the record as the database has it.
   * Rejects with `RecordGone` when its row is; with `SaveConflict` for a stale set, if the record has a revision.
   */
  readonly save: (record: Saved<T, C, K> | New<T, C>) => Promise<Saved<T, C, K>>
  /** Reads the row again, under the unsaved edits. Rejects with `RecordGone` when it is. */
  readonly refresh: (record: Saved<T, C, K>) => Promise<Saved<T, C, K>>
  /** Deletes the row. What is gone already is no error. */
  readonly destroy: (record: Saved<T, C, K>) => Promise<void>
  /** These records by a column that holds a parent's id, in the order of their keys. */
  readonly by: <N extends keyof C>(column: N) => Relation<NonNullable<ColumnValue<C[N]>>, Saved<T, C, K>>
  /** These records through a table between: by its column of the parent's id, and its column of theirs. */
  readonly through: <C2 extends Columns, N extends keyof C2>(
    between: Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, Saved<T, C, K>>
}
