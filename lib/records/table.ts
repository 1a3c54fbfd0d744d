// The shape of a record's table, the conversion between its rows and values, and the types of records.

import type { Either } from 'fp-ts/lib/Either.js'
import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { Errors, Validation } from 'io-ts'
import type { Sql } from 'sql-template-tag'
import { DecodeError, type DriverError, EncodeError, type RecordError } from '../core/errors.js'
import { deepFreeze } from '../core/json.js'
import { problemsOf } from '../core/key.js'
import { E } from '../core/prelude.cjs'
import type { ActiveRecord } from '../core/session.js'
import type { Database, Query, Row } from '../db/database.js'
import type { AnyColumn, Column, ColumnValue } from './column.js'

export interface Field {
  readonly index: number
  /** The name in the program, the quoted name in the database, and the name in a result. */
  readonly name: string
  readonly column: string
  readonly alias: string
  readonly type: AnyColumn
  readonly generated: boolean
}

export interface Shape {
  /** The table's name as given, and quoted. */
  readonly table: string
  readonly from: string
  readonly fields: readonly Field[]
  readonly key: readonly Field[]
  /** Whether the key is one column. The id of a key of several columns is an object of their values. */
  readonly simple: boolean
  /** The columns that can be set, by name. */
  readonly settable: ReadonlyMap<string, Field>
  readonly revision: Field | undefined
}

export interface ShapeOptions {
  readonly table: string
  readonly columns: Readonly<Record<string, AnyColumn>>
  readonly key: string | readonly string[]
  readonly revision?: string | undefined
  readonly names?: Readonly<Record<string, string | undefined>> | undefined
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** Throws a `RangeError` for an invalid definition. */
export const shapeOf = (options: ShapeOptions): Shape => {
  const { table, key, revision } = options
  const fields = fieldsOf(options)
  const field = (name: string): Field => fieldOf({ table, fields }, name)
  const keys = (typeof key === 'string' ? [key] : key).map(field)
  if (keys.length === 0) throw new RangeError(`record ${table}: it has no key`)
  const reserved = fields.find(({ name }) => name === 'handle' || (name === 'id' && key !== 'id'))
  if (reserved !== undefined)
    throw new RangeError(
      `record ${table}: '${reserved.name}' is a property of every record: give the column another name (names)`,
    )
  const revised = revision === undefined ? undefined : field(revision)
  const settable = fields.filter((field) => !keys.includes(field) && field !== revised)
  return Object.freeze({
    table,
    from: table.split('.').map(quoted).join('.'),
    fields,
    key: keys,
    simple: typeof key === 'string',
    settable: new Map(settable.map((field) => [field.name, field])),
    revision: revised,
  })
}

/** The column of this name. Throws a `RangeError`. */
export const fieldOf = ({ table, fields }: Pick<Shape, 'table' | 'fields'>, name: PropertyKey): Field => {
  const field = fields.find((field) => field.name === name)
  if (field === undefined) throw new RangeError(`record ${table}: it has no column '${String(name)}'`)
  return field
}

const fieldsOf = ({ table, columns, names = {} }: ShapeOptions): readonly Field[] =>
  Object.entries(columns).map(([name, type], index) => {
    const column = quoted(Object.hasOwn(names, name) ? (names[name] ?? name) : snake(name))
    return { index, name, column, alias: aliasOf(table, index), type, generated: type.generated === true }
  })

// No pool renames such a column, and it fits PostgreSQL's limit for names.
const aliasOf = (table: string, index: number): string =>
  `${String(index)} ${table.replaceAll(/[^a-z0-9]/g, ' ').slice(0, 40)}`

/** The values of the key's columns in an id. */
export const keyValues = ({ key, simple }: Shape, id: unknown): readonly unknown[] => {
  if (simple) return [id]
  const parts = typeof id === 'object' ? (id as Readonly<Record<string, unknown>> | null) : undefined
  return key.map(({ name }) => parts?.[name])
}

/** The id with these values of the key's columns: the value of a single key, or an object of all. */
export const idFrom = ({ key, simple }: Shape, values: readonly unknown[]): unknown =>
  simple ? values[0] : Object.freeze(Object.fromEntries(key.map(({ name }, index) => [name, values[index]])))

/** The id in this value, whose parts may be texts: `'42'` for a bigint. Throws an `EncodeError`. */
export const parsedId = (shape: Shape, id: unknown): unknown => {
  const parts = keyValues(shape, id)
  const values = shape.key.map(({ name, type }, index) => {
    const part = parts[index]
    const decoded =
      typeof part === 'string' ? E.getOrElse((): unknown => part)(type.codec.decode(part)) : part
    return normalised(name, type, decoded)
  })
  return idFrom(shape, values)
}

/** The values of a row, by the fields' indices. `row` is the index in the result. */
export const decodeRow = (
  { fields }: Shape,
  found: Row,
  row?: number,
): E.Either<DecodeError, readonly unknown[]> => {
  const values: unknown[] = []
  for (const { name, alias, type } of fields) {
    const wire = found[alias]
    if (wire === undefined)
      return E.left(new DecodeError(name, ["it is not in the row: select the record's `row`"], row))
    const value = decodeWith(type.codec, wire)
    if (E.isLeft(value)) return E.left(new DecodeError(name, reasonsOf(value.left), row))
    values.push(deepFreeze(value.right))
  }
  return E.right(values)
}

// A codec is user code: if its `decode` throws, the value does not fit.
export const decodeWith = <A>(
  codec: { readonly decode: (wire: unknown) => Validation<A> },
  wire: unknown,
): E.Either<Errors | string, A> => {
  try {
    return codec.decode(wire)
  } catch (thrown) {
    return E.left(String(thrown))
  }
}

export const reasonsOf = (errors: Errors | string): readonly string[] =>
  typeof errors === 'string' ? [errors] : problemsOf(errors)

/** A value as text for the database. Throws an `EncodeError` with the column. */
export const encode = (name: string, { codec }: AnyColumn, value: unknown): string | null =>
  checked(name, codec, value, () => codec.encode(value as never))

const checked = <A>(name: string, codec: AnyColumn['codec'], value: unknown, encode: () => A): A => {
  try {
    if (codec.is(value)) return encode()
  } catch (error) {
    if (error instanceof EncodeError) throw new EncodeError(name, error.path, error.reason)
    throw new EncodeError(name, [], String(error))
  }
  throw new EncodeError(name, [], `the value is no ${codec.name}`)
}

/** A frozen copy of the value as it is read after a save. Throws an `EncodeError`. */
export const normalised = (name: string, type: AnyColumn, value: unknown): unknown => {
  const wire = checked(name, type.codec, value, () => type.wire(value as never))
  const decoded = decodeWith(type.codec, wire)
  if (E.isLeft(decoded)) throw new EncodeError(name, [], reasonsOf(decoded.left).join('; '))
  return deepFreeze(decoded.right)
}

/** The result of `act`, or the `EncodeError` that it throws. */
export const attempt = <A>(act: () => A): E.Either<EncodeError, A> => {
  try {
    return E.right(act())
  } catch (error) {
    if (error instanceof EncodeError) return E.left(error)
    throw error
  }
}

export const textOf = (field: Field, value: unknown): string | null => encode(field.name, field.type, value)

declare const recordId: unique symbol
declare const newOf: unique symbol
declare const rowsOf: unique symbol
declare const columnsOf: unique symbol

/** The id of a record of the table `T`. Ids of other records and plain values have other types. */
export type RecordId<T extends string, A> = A & { readonly [recordId]: T }

export type Columns = Readonly<Record<string, AnyColumn>>

type Name<C> = keyof C & string

/** The name of the key's column, or the names of its columns. */
export type Key<C> = Name<C> | readonly Name<C>[]

type KeyName<K> = K extends readonly (infer N)[] ? N : K

export type GeneratedName<C extends Columns> = {
  [N in keyof C]: C[N] extends { readonly generated: true } ? N : never
}[keyof C]

/** The definition of a record. */
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
   * An integer column that counts the saves of a row, with a default in the database. With it, a set of a column that changed
   * since it was read is a `SaveConflict`.
   */
  readonly revision?: R
  /** Names in the database, for columns whose name is not the program's name in snake_case. */
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

/** The values of a new record: of all columns that the database does not generate. */
export type Given<C extends Columns> = {
  readonly [N in Exclude<keyof C, GeneratedName<C>>]: ColumnValue<C[N]>
}

/** A record that was built but not saved. */
export type New<T extends string, C extends Columns> = Given<C> & {
  readonly handle: Database
  readonly [newOf]?: T
}

/** The columns that can be set. */
type Settable<C extends Columns, K, R> = {
  readonly [N in Exclude<keyof C, KeyName<K> | R>]: ColumnValue<C[N]>
}

/** Edits a record, saved or new; a generated column only of a saved one. */
type Editor<T extends string, C extends Columns, K, N> = [N] extends [keyof Given<C>]
  ? <V extends Saved<T, C, K> | New<T, C>>(record: V) => V
  : <V extends Saved<T, C, K>>(record: V) => V

type Reading = DriverError | DecodeError

/** The records of a parent; `preload` reads those of many parents by one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): TaskEither<Reading, readonly V[]>
  /** Each parent, in the given order, with its records. */
  readonly preload: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => TaskEither<Reading, readonly (readonly [P, readonly V[]])[]>
}

/** A record as the decoder of rows. */
export interface Rows<V> {
  readonly [rowsOf]?: V
  /** The columns that a hand-written statement must select: `sql\`select ${notes.row} from notes\``. */
  readonly row: Sql
}

/** The columns of a definition. */
export interface Defined<C> {
  readonly [columnsOf]?: C
  /** The statements by their names. */
  readonly statements: Readonly<Record<string, Query>>
}

/** The part of a definition that does no I/O. */
export interface PureRecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends Rows<Saved<T, C, K>>,
    Defined<C> {
  readonly table: T
  /** `row` for a statement that gives the table an alias. */
  readonly rowOf: (alias: string) => Sql
  /** A column of another table that holds an id of these records. Only for a key of one column. */
  readonly reference: K extends keyof C ? Column<IdOf<T, C, K>> : never
  /** Sets a column; a value equal to the present one gives the same record. Throws an `EncodeError`. */
  readonly set: <N extends keyof Settable<C, K, R>>(
    column: N,
    value: Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
  /**
   * Replaces a column's value by `f` of it. If the value has changed at the save, `f` runs again on the stored value, so `f`
   * must be pure.
   */
  readonly update: <N extends keyof Settable<C, K, R>>(
    column: N,
    f: (value: Settable<C, K, R>[N]) => Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
}

/** A record's definition: the functions for its values. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends PureRecordOf<T, C, K, R> {
  /** An id from any value, for example from a text. */
  readonly id: (value: unknown) => Either<EncodeError, IdOf<T, C, K>>
  /** A new record, in memory until its first save. An `EncodeError` names a column that does not fit. */
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
   * Inserts a new record, or updates the edited columns; gives the record as stored. `RecordGone` if its row is gone;
   * `SaveConflict` for a set of a column that changed since, if the record has a revision.
   */
  readonly save: (record: Saved<T, C, K> | New<T, C>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Reads the row again, and keeps the unsaved edits. `RecordGone` if the row is gone. */
  readonly refresh: (record: Saved<T, C, K>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Deletes the row. A row that is gone is no error. */
  readonly destroy: (record: Saved<T, C, K>) => TaskEither<DriverError, void>
  /** The records whose `column` holds a parent's id, in the order of their keys. */
  readonly hasMany: <N extends keyof C>(column: N) => Relation<NonNullable<ColumnValue<C[N]>>, Saved<T, C, K>>
  /** The records related through the table `between`, by its columns of the parent's id and of the record's own id. */
  readonly hasManyThrough: <C2 extends Columns, N extends keyof C2>(
    between: Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, Saved<T, C, K>>
}

/** The type of a record's values: `type Note = RecordValue<typeof notes>`. */
export type RecordValue<R> = R extends { readonly refresh: (record: infer V) => unknown } ? V : never
