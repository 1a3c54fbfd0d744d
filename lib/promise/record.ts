// Defines records whose functions return promises.

import { given } from '../core/errors.js'
import { A, flow, O, TE } from '../core/prelude.cjs'
import type { ActiveRecord } from '../core/session.js'
import type { Database } from '../db/database.js'
import type { ColumnValue } from '../records/column.js'
import * as table from '../records/record.js'
import type * as types from '../records/table.js'
import type { Columns, GeneratedName, Key } from '../records/table.js'
import { lifted, liftedOption } from './sql.js'

/** Reads the related records of a parent. `preload` reads the related records of many parents with one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): Promise<readonly V[]>
  /** Returns pairs of a parent and its related records, in the order of `parents`. */
  readonly preload: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => Promise<readonly (readonly [P, readonly V[]])[]>
}

/** The definition of a record. Its functions make, find, edit and save records. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends types.PureRecordOf<T, C, K, R> {
  /** Converts a value, for example a string, to an id. Throws an `EncodeError` if the value is not a valid id. */
  readonly id: (value: unknown) => types.IdOf<T, C, K>
  /** Makes a new record in memory. Throws an `EncodeError` that names the first column with an invalid value. */
  readonly build: (handle: Database, given: types.Given<C>) => types.New<T, C>
  /** Finds the record with this id, with one statement. The result is `undefined` if there is no such record. */
  readonly find: (handle: Database, id: types.IdOf<T, C, K>) => Promise<types.Saved<T, C, K> | undefined>
  /** Finds several records with one statement. For each id, in order, the result has the record or `undefined`. */
  readonly findMany: (
    handle: Database,
    ids: readonly types.IdOf<T, C, K>[],
  ) => Promise<readonly (types.Saved<T, C, K> | undefined)[]>
  /**
   * Inserts a new record, or updates the edited columns, and returns the record as stored. Rejects with `RecordGone` if
   * the row was deleted. With a revision column, rejects with `SaveConflict` if another save has changed a column that
   * this save sets.
   */
  readonly save: (record: types.Saved<T, C, K> | types.New<T, C>) => Promise<types.Saved<T, C, K>>
  /** Reads the row again, and keeps the unsaved edits. Rejects with `RecordGone` if the row was deleted. */
  readonly refresh: (record: types.Saved<T, C, K>) => Promise<types.Saved<T, C, K>>
  /** Deletes the row. A missing row is not an error. */
  readonly destroy: (record: types.Saved<T, C, K>) => Promise<void>
  /** Makes the relation to the records whose `column` has the parent's id. The records are ordered by their keys. */
  readonly hasMany: <N extends keyof C>(
    column: N,
  ) => Relation<NonNullable<ColumnValue<C[N]>>, types.Saved<T, C, K>>
  /**
   * Makes a relation of many parents to many records. Each row of the table `between` relates one parent to one record.
   * The column `parent` has the parent's id, and the column `own` has the record's id.
   */
  readonly hasManyThrough: <C2 extends Columns, N extends keyof C2>(
    between: types.Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, types.Saved<T, C, K>>
}

/**
 * Defines the records of a table, and returns functions that make, find, edit and save them. `id` and `build` may throw
 * an `EncodeError`. If a function that queries the database fails, its promise rejects with a `RecordError`. A missing
 * record is `undefined` in the result of `find` or `findMany`. Throws a `RangeError` for an invalid definition.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { generated, int4, int8, queryMany, record, sql, text } from 'keyrow/promise'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const notes = record({
 *   table: 'notes',
 *   key: 'id',
 *   columns: { id: generated(int8), title: text, views: generated(int4) },
 * })
 *
 * const database = pgliteDatabase()
 * const table = sql`create table notes (id bigserial primary key, title text, views int default 0)`
 * await queryMany(database, t.unknown, table)
 * const note = await notes.save(notes.build(database, { title: 'Tea' }))
 * await notes.save(notes.update('views', (views) => views + 1)(note))
 * console.log(await notes.find(database, note.id)) // { id: 1n, title: 'Tea', views: 1 }
 * console.log(await notes.find(database, notes.id('7'))) // undefined
 * await database.close()
 * ```
 */
export const record = <
  const T extends string,
  const C extends types.Columns,
  const K extends types.Key<C>,
  const R extends types.GeneratedName<C> = never,
>(
  definition: types.Definition<T, C, K, R>,
): RecordOf<T, C, K, R> => {
  const core = table.record(definition)
  const face: RecordOf<T, C, K, R> = Object.freeze({
    ...core,
    id: flow(core.id, given),
    build: flow(core.build, given),
    find: liftedOption(core.find),
    findMany: lifted(flow(core.findMany, TE.map(A.map(O.toUndefined)))),
    save: lifted(core.save),
    refresh: lifted(core.refresh),
    destroy: lifted(core.destroy),
    hasMany: flow(core.hasMany, relation),
    hasManyThrough: flow(core.hasManyThrough, relation),
  })
  return table.facing(face, core)
}

const relation = <I, V>(core: types.Relation<I, V>): Relation<I, V> =>
  Object.freeze(Object.assign(lifted(core), { preload: lifted(core.preload) }))
