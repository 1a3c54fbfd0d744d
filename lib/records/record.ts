// Makes the definition of a record from the name, the columns and the key of its table.

import { raw } from 'sql-template-tag'
import { type DecodeError, DriverError, type EncodeError } from '../core/errors.js'
import { A, E, pipe, TE } from '../core/prelude.cjs'
import { type Database, ORDINAL, type Param, type Query, type Row, runReadCommitted } from '../db/database.js'
import { array, type Column } from './column.js'
import { destroyRecord, findRecord, recordIn, refreshRecord, saveRecord, type Table } from './save.js'
import { recordStatements, rowFrom, SELECTED, selectEach } from './statements.js'
import {
  attempt,
  type Columns,
  type Definition,
  encode,
  type Field,
  fieldOf,
  type GeneratedName,
  type Key,
  keyValues,
  parsedId,
  quoted,
  type RecordOf,
  type Shape,
  shapeOf,
} from './table.js'
import { type AnyActive, buildRecord, setColumn, updateColumn } from './value.js'

/** Decodes the rows to records. Returns a group of records for each of the `count` keys, in the order of the keys. */
const grouped = (
  shape: Shape,
  handle: Database,
  rows: readonly Row[],
  count: number,
): E.Either<DecodeError, readonly (readonly AnyActive[])[]> => {
  const groups: AnyActive[][] = Array.from({ length: count }, () => [])
  for (const [ordinal, row] of rows.entries()) {
    const record = recordIn(shape, handle, row, ordinal)
    if (E.isLeft(record)) return record
    groups[Number(row[ORDINAL]) - 1]?.push(record.right)
  }
  return E.right(groups)
}

/** Reads the records of all these keys with one statement, which has an array parameter for each column of the key. */
const readEach = (
  shape: Shape,
  handle: Database,
  query: Query,
  columns: readonly Field[],
  keys: readonly (readonly unknown[])[],
) => {
  const param = ({ name, type }: Field, index: number): Param =>
    encode(
      name,
      array(type as Column<unknown>),
      keys.map((key) => key[index]),
    )
  return pipe(
    TE.fromEither(attempt(() => columns.map(param))),
    TE.chainW((params) => runReadCommitted(handle, query, params)),
    TE.chainEitherKW((rows) => grouped(shape, handle, rows, keys.length)),
  )
}

/** Makes the query of `hasMany`, which finds records by a column of their own table. */
const byColumn = (shape: Shape, { name, column, type }: Field): Query => {
  const join = `join ${shape.from} on ${shape.from}.${column} = ${SELECTED}.k0`
  return { name: `${shape.table}.by.${name}`, text: selectEach(shape, type, join) }
}

/** Makes the query of `hasManyThrough`, which finds records through the table `between`. */
const throughTable = (shape: Shape, between: Shape, parent: Field, own: Field): Query => {
  const join = `join ${between.from} on ${between.from}.${parent.column} = ${SELECTED}.k0
join ${shape.from} on ${shape.from}.${String(shape.key[0]?.column)} = ${between.from}.${own.column}`
  return { name: `${shape.table}.through.${between.table}`, text: selectEach(shape, parent.type, join) }
}

type Each = TE.TaskEither<DriverError | DecodeError, readonly (readonly [AnyActive, readonly AnyActive[]])[]>

const relation = (shape: Shape, query: Query, field: Field) => {
  const preload = (parents: readonly AnyActive[]): Each => {
    const [first] = parents
    if (first === undefined) return TE.right([])
    const ids = parents.map(({ id }) => [id])
    return pipe(
      readEach(shape, first.handle, query, [field], ids),
      TE.mapLeft((error) => (error._tag === 'EncodeError' ? asDriverError(error) : error)),
      TE.map((groups) => parents.map((parent, index) => [parent, groups[index] ?? []] as const)),
    )
  }
  const one = (parent: AnyActive): TE.TaskEither<DriverError | DecodeError, readonly AnyActive[]> =>
    pipe(
      preload([parent]),
      TE.map(([found]) => found?.[1] ?? []),
    )
  return Object.freeze(Object.assign(one, { preload }))
}

// An id that does not fit can come only from an untyped caller, so the type of a relation has no `EncodeError`.
const asDriverError = (error: EncodeError): DriverError =>
  new DriverError(error.message, { retryable: false, effect: 'none', cause: error })

/**
 * Defines the records of a table, and returns functions that make, find, edit and save them. A record is a frozen
 * object with the handle, the id and the columns. Throws a `RangeError` for an invalid definition.
 *
 * @example
 * ```ts
 * import * as E from 'fp-ts/lib/Either.js'
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { generated, int8, queryMany, record, sql, text } from 'keyrow/records'
 * import { pgliteDatabase } from 'keyrow/pglite'
 * import * as t from 'io-ts'
 *
 * const notes = record({
 *   table: 'notes',
 *   key: 'id',
 *   columns: { id: generated(int8), title: text, wordCount: generated(int8) },
 * })
 *
 * const database = pgliteDatabase()
 * const table = sql`create table notes (id bigserial primary key, title text, word_count int8 default 0)`
 * const saved = pipe(
 *   queryMany(database, t.unknown, table),
 *   TE.chainEitherKW(() => notes.build(database, { title: 'Tea' })),
 *   TE.chainW(notes.save),
 *   TE.map(notes.update('wordCount', (count) => count + 1n)),
 *   TE.chainW(notes.save),
 * )
 * console.log(await saved()) // { _tag: 'Right', right: { id: 1n, title: 'Tea', wordCount: 1n } }
 * console.log(E.isLeft(notes.id('no number'))) // true
 * await database.close()
 * ```
 */
export const record = <
  const T extends string,
  const C extends Columns,
  const K extends Key<C>,
  const R extends GeneratedName<C> = never,
>(
  definition: Definition<T, C, K, R>,
): RecordOf<T, C, K, R> => {
  const shape = shapeOf(definition as Parameters<typeof shapeOf>[0])
  const table: Table = { shape, sql: recordStatements(shape) }
  const bundle = Object.freeze({
    table: shape.table,
    statements: table.sql,
    row: raw(rowFrom(shape, shape.from)),
    rowOf: (alias: string) => raw(rowFrom(shape, quoted(alias))),
    reference: reference(shape),
    ...operations(table),
    ...relating(shape),
  })
  shapes.set(bundle, shape)
  // The compiler cannot check this type. The codec of each column checks the values at run time.
  return bundle as unknown as RecordOf<T, C, K, R>
}

const shapes = new WeakMap<object, Shape>()

/** Returns the shape of a record's definition, and `undefined` for anything else. */
export const shapeIn = (definition: object): Shape | undefined => shapes.get(definition)

/** Makes queries and relations accept `face`, a wrapper of `definition`, such as a definition of `keyrow/promise`. */
export const facing = <F extends object>(face: F, definition: object): F => {
  const shape = shapeIn(definition)
  if (shape !== undefined) shapes.set(face, shape)
  return face
}

const reference = ({ key, simple }: Shape): Column<unknown> | undefined => {
  const [first] = key
  if (!simple || first === undefined) return undefined
  const { sql, codec, wire, read, readArray } = first.type as Column<unknown>
  return Object.freeze({ sql, codec, wire, read, readArray })
}

const operations = (table: Table) => {
  const { shape, sql } = table
  return {
    id: (value: unknown) => attempt(() => parsedId(shape, value)),
    find: (handle: Database, id: unknown) => findRecord(table, handle, id),
    findMany: (handle: Database, ids: readonly unknown[]) => {
      const keys = ids.map((id) => keyValues(shape, id))
      const found = readEach(shape, handle, sql.findMany, shape.key, keys)
      return ids.length === 0 ? TE.right([]) : TE.map(A.map(A.head<AnyActive>))(found)
    },
    refresh: (value: AnyActive) => refreshRecord(table, value),
    build: (handle: Database, given: object) => attempt(() => buildRecord(shape, handle, given)),
    set: (name: string, value: unknown) => setColumn(shape, name, value),
    update: (name: string, f: (value: unknown) => unknown) => updateColumn(shape, name, f),
    save: (value: AnyActive) => saveRecord(table, value),
    destroy: (value: AnyActive) => destroyRecord(table, value),
  }
}

const relating = (shape: Shape) => ({
  hasMany: (name: PropertyKey) => {
    const field = fieldOf(shape, name)
    return relation(shape, byColumn(shape, field), field)
  },
  hasManyThrough: (between: object, parent: PropertyKey, own: PropertyKey) => {
    const other = shapeIn(between)
    if (other === undefined || !shape.simple)
      throw new RangeError(`record ${shape.table}: hasManyThrough needs a record, and a key of one column`)
    const field = fieldOf(other, parent)
    return relation(shape, throughTable(shape, other, field, fieldOf(other, own)), field)
  },
})
