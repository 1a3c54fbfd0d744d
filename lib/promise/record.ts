// Records of your own, as promises.
import { flow } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Database } from '../port/database.js'
import type { ActiveRecord } from '../record/active-record.js'
import * as table from '../table/record.js'
import type * as types from '../table/types.js'
import type { RecordOf, Relation } from './record-types.js'
import { given, settled } from './settled.js'

/**
 * Defines a record by its table: gives the functions that go with its values. `id` and `build` throw an `EncodeError`,
 * what goes to the database rejects with the tagged error, and what is not found is `undefined`. Throws a `RangeError`
 * for a definition that makes no sense.
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
    find: rejecting(flow(core.find, TE.map(O.toUndefined))),
    findMany: rejecting(flow(core.findMany, TE.map(A.map(O.toUndefined)))),
    save: rejecting(core.save),
    refresh: rejecting(core.refresh),
    destroy: rejecting(core.destroy),
    by: flow(core.by, relation),
    through: flow(core.through, relation),
  })
  return table.facing(face, core)
}

/** Whatever goes wrong, the promise rejects: also where something is given that is no record at all. */
const rejecting =
  <I extends readonly unknown[], L extends Error, B>(verb: (...input: I) => TE.TaskEither<L, B>) =>
  async (...input: I): Promise<B> =>
    settled(verb(...input))

const relation = <I, V>(core: types.Relation<I, V>): Relation<I, V> =>
  Object.freeze(
    Object.assign(rejecting(core), {
      each: async <P extends ActiveRecord<Database, I>>(parents: readonly P[]) => settled(core.each(parents)),
    }),
  )
