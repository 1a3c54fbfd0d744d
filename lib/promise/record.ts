// Records of your own, as promises.

import { given } from '../core/errors.js'
import { A, flow, O, TE } from '../core/prelude.cjs'
import type { ActiveRecord } from '../core/session.js'
import type { Database } from '../db/database.js'
import type { ColumnValue } from '../records/column.js'
import * as table from '../records/record.js'
import type * as types from '../records/table.js'
import type { Columns, GeneratedName, Key } from '../records/table.js'
import { lifted, liftedOption } from './sql.js'

/** The records of a parent; `preload` reads those of many parents by one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): Promise<readonly V[]>
  /** Each parent, in the given order, with its records. */
  readonly preload: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => Promise<readonly (readonly [P, readonly V[]])[]>
}

/** A record's definition: the functions for its values. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends types.PureRecordOf<T, C, K, R> {
  /** An id from any value, for example from a text. Throws an `EncodeError`. */
  readonly id: (value: unknown) => types.IdOf<T, C, K>
  /** A new record, in memory until its first save. Throws an `EncodeError` that names a column that does not fit. */
  readonly build: (handle: Database, given: types.Given<C>) => types.New<T, C>
  /** The record with this id, or `undefined`. One statement. */
  readonly find: (handle: Database, id: types.IdOf<T, C, K>) => Promise<types.Saved<T, C, K> | undefined>
  /** The records with these ids, in their order. One statement. */
  readonly findMany: (
    handle: Database,
    ids: readonly types.IdOf<T, C, K>[],
  ) => Promise<readonly (types.Saved<T, C, K> | undefined)[]>
  /**
   * Inserts a new record, or updates the edited columns; gives the record as stored. Rejects with `RecordGone` if its row is
   * gone, and with `SaveConflict` for a set of a column that changed since, if the record has a revision.
   */
  readonly save: (record: types.Saved<T, C, K> | types.New<T, C>) => Promise<types.Saved<T, C, K>>
  /** Reads the row again, and keeps the unsaved edits. Rejects with `RecordGone` if the row is gone. */
  readonly refresh: (record: types.Saved<T, C, K>) => Promise<types.Saved<T, C, K>>
  /** Deletes the row. A row that is gone is no error. */
  readonly destroy: (record: types.Saved<T, C, K>) => Promise<void>
  /** The records whose `column` holds a parent's id, in the order of their keys. */
  readonly hasMany: <N extends keyof C>(
    column: N,
  ) => Relation<NonNullable<ColumnValue<C[N]>>, types.Saved<T, C, K>>
  /** The records related through the table `between`, by its columns of the parent's id and of the record's own id. */
  readonly hasManyThrough: <C2 extends Columns, N extends keyof C2>(
    between: types.Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, types.Saved<T, C, K>>
}

/**
 * Defines a record by its table; gives the functions for its values. `id` and `build` throw an `EncodeError`. Functions
 * that query the database reject with the tagged error, and give `undefined` for a record that does not exist. Throws a
 * `RangeError` for an invalid definition.
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
