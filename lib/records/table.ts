// Describes the table of a record, converts between its rows and values, and declares the types of records.

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
  /** The column's name in the program. `column` is its quoted name in the database. `alias` is its name in a result. */
  readonly name: string
  readonly column: string
  readonly alias: string
  readonly type: AnyColumn
  readonly generated: boolean
}

export interface Shape {
  /** The table's name as the program has written it. `from` is the quoted name. */
  readonly table: string
  readonly from: string
  readonly fields: readonly Field[]
  readonly key: readonly Field[]
  /** Whether `key` in the definition is one name. Otherwise an id is an object with the values of the key. */
  readonly simple: boolean
  /** The columns that a program can set. The keys of the map are the columns' names in the program. */
  readonly settable: ReadonlyMap<string, Field>
  readonly revision: Field | undefined
}

/** The definition of any record. `revision` is the name of a generated column. */
type AnyDefinition = Omit<Definition<string, Columns, Key<Columns>>, 'revision'> & {
  readonly revision?: string
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** Converts a definition to a `Shape`. Throws a `RangeError` if the definition is invalid. */
export const shapeOf = (options: AnyDefinition): Shape => {
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

/** Returns the column of this name. Throws a `RangeError` if the table has no such column. */
export const fieldOf = ({ table, fields }: Pick<Shape, 'table' | 'fields'>, name: PropertyKey): Field => {
  const field = fields.find((field) => field.name === name)
  if (field === undefined) throw new RangeError(`record ${table}: it has no column '${String(name)}'`)
  return field
}

const fieldsOf = ({ table, columns, names = {} }: AnyDefinition): readonly Field[] =>
  Object.entries(columns).map(([name, type], index) => {
    const column = quoted(Object.hasOwn(names, name) ? (names[name] ?? name) : snake(name))
    return { index, name, column, alias: aliasOf(table, index), type, generated: type.generated === true }
  })

// In the names of a result's columns, a pool of postgres.js may change underscores, the letters after them, and the
// first letter. So an alias begins with a digit and has no underscore. PostgreSQL cuts names after 63 bytes.
const aliasOf = (table: string, index: number): string =>
  `${String(index)} ${table.replaceAll(/[^a-z0-9]/g, ' ').slice(0, 40)}`

/** Splits an id into the values of the key's columns. */
export const keyValues = ({ key, simple }: Shape, id: unknown): readonly unknown[] => {
  if (simple) return [id]
  const parts = typeof id === 'object' ? (id as Readonly<Record<string, unknown>> | null) : undefined
  return key.map(({ name }) => parts?.[name])
}

/** Makes an id from the values of the key's columns. If `key` is one name, the id is the value itself. */
export const idFrom = ({ key, simple }: Shape, values: readonly unknown[]): unknown =>
  simple ? values[0] : Object.freeze(Object.fromEntries(key.map(({ name }, index) => [name, values[index]])))

/** Converts a value to an id, and decodes strings such as `'42'`. Throws an `EncodeError` for any other type. */
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

/** Returns the values of the row `found`, in the order of the fields. `row` is the index of `found` in the result. */
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

// The `decode` of a program's codec may throw. The error is then the reason why the value does not fit.
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

/** Encodes a value as text for the database. Throws an `EncodeError` that names the column. */
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

/** Returns the frozen result of a read of the stored `value`. Throws an `EncodeError` for a value of another type. */
export const normalised = (name: string, type: AnyColumn, value: unknown): unknown => {
  const wire = checked(name, type.codec, value, () => type.wire(value as never))
  const decoded = decodeWith(type.codec, wire)
  if (E.isLeft(decoded)) throw new EncodeError(name, [], reasonsOf(decoded.left).join('; '))
  return deepFreeze(decoded.right)
}

/** Returns the result of `act`, or a `Left` with the `EncodeError` that `act` throws. */
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

/** The id of a record of the table `T`. Ids of other tables, and plain values, have other types. */
export type RecordId<T extends string, A> = A & { readonly [recordId]: T }

export type Columns = Readonly<Record<string, AnyColumn>>

type Name<C> = keyof C & string

/** The name of the key's column, or a list of names for a key of several columns. */
export type Key<C> = Name<C> | readonly Name<C>[]

type KeyName<K> = K extends readonly (infer N)[] ? N : K

export type GeneratedName<C extends Columns> = {
  [N in keyof C]: C[N] extends { readonly generated: true } ? N : never
}[keyof C]

export interface Definition<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = GeneratedName<C>,
> {
  /** The table's name, or `schema.table` if its schema is not on the search path. */
  readonly table: T
  readonly columns: C
  readonly key: K
  /**
   * An integer column that counts the saves of a row, and has a default in the database. With a revision column, a save
   * fails with `SaveConflict` if it sets a column that was changed since the read.
   */
  readonly revision?: R
  /** The columns' names in the database. By default, a column's name in the program is converted to snake_case. */
  readonly names?: { readonly [N in keyof C]?: string }
}

export type IdOf<T extends string, C extends Columns, K> = RecordId<
  T,
  K extends keyof C ? ColumnValue<C[K]> : { readonly [N in Extract<KeyName<K>, keyof C>]: ColumnValue<C[N]> }
>

/** A record that has a row in the database. */
export type Saved<T extends string, C extends Columns, K> = ActiveRecord<Database, IdOf<T, C, K>> & {
  readonly [N in keyof C]: N extends K ? IdOf<T, C, K> : ColumnValue<C[N]>
}

/** The values of a new record, for all columns that the database does not generate. */
export type Given<C extends Columns> = {
  readonly [N in Exclude<keyof C, GeneratedName<C>>]: ColumnValue<C[N]>
}

/** A record that was built but not saved. */
export type New<T extends string, C extends Columns> = Given<C> & {
  readonly handle: Database
  readonly [newOf]?: T
}

type Settable<C extends Columns, K, R> = {
  readonly [N in Exclude<keyof C, KeyName<K> | R>]: ColumnValue<C[N]>
}

/** Edits a saved or a new record. A generated column can be edited only in a saved record. */
type Editor<T extends string, C extends Columns, K, N> = [N] extends [keyof Given<C>]
  ? <V extends Saved<T, C, K> | New<T, C>>(record: V) => V
  : <V extends Saved<T, C, K>>(record: V) => V

type Reading = DriverError | DecodeError

/** Reads the related records of a parent. `preload` reads the related records of many parents with one statement. */
export interface Relation<I, V> {
  (parent: ActiveRecord<Database, I>): TaskEither<Reading, readonly V[]>
  /** Returns pairs of a parent and its related records, in the order of `parents`. */
  readonly preload: <P extends ActiveRecord<Database, I>>(
    parents: readonly P[],
  ) => TaskEither<Reading, readonly (readonly [P, readonly V[]])[]>
}

/** The part of a record's definition that decodes rows. */
export interface Rows<V> {
  readonly [rowsOf]?: V
  /** The columns that a hand-written statement must select, as in `sql\`select ${notes.row} from notes\``. */
  readonly row: Sql
}

/** The part of a record's definition that has the types of the columns, and the statements. */
export interface Defined<C> {
  readonly [columnsOf]?: C
  readonly statements: Readonly<Record<string, Query>>
}

/** The part of a record's definition that does no I/O. */
export interface PureRecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends Rows<Saved<T, C, K>>,
    Defined<C> {
  readonly table: T
  /** Returns `row` for a statement in which the table has this alias. */
  readonly rowOf: (alias: string) => Sql
  /** The type of a column that refers to this table. It exists only if `key` in the definition is one name. */
  readonly reference: K extends keyof C ? Column<IdOf<T, C, K>> : never
  /** Sets a column. Returns the same record for an equal value. Throws an `EncodeError` for a value of another type. */
  readonly set: <N extends keyof Settable<C, K, R>>(
    column: N,
    value: Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
  /**
   * Replaces a column's value with the result of `f` for the current value. If the stored value has changed by the time
   * of the save, `f` runs again on the stored value. So `f` must be pure.
   */
  readonly update: <N extends keyof Settable<C, K, R>>(
    column: N,
    f: (value: Settable<C, K, R>[N]) => Settable<C, K, R>[N],
  ) => Editor<T, C, K, N>
}

/** The definition of a record. Its functions make, find, edit and save records. */
export interface RecordOf<
  T extends string,
  C extends Columns,
  K extends Key<C>,
  R extends GeneratedName<C> = never,
> extends PureRecordOf<T, C, K, R> {
  /** Makes an id from any value, for example from a string. */
  readonly id: (value: unknown) => Either<EncodeError, IdOf<T, C, K>>
  /** Makes a new record in memory. An `EncodeError` names the first column with an invalid value. */
  readonly build: (handle: Database, given: Given<C>) => Either<EncodeError, New<T, C>>
  /** Finds the record with this id, with one statement. */
  readonly find: (
    handle: Database,
    id: IdOf<T, C, K>,
  ) => TaskEither<Reading | EncodeError, Option<Saved<T, C, K>>>
  /** Finds several records with one statement. The result has one element for each id, in the order of the ids. */
  readonly findMany: (
    handle: Database,
    ids: readonly IdOf<T, C, K>[],
  ) => TaskEither<Reading | EncodeError, readonly Option<Saved<T, C, K>>[]>
  /**
   * Inserts a new record, or updates the edited columns, and returns the record as stored. Fails with `RecordGone` if
   * the row was deleted. With a revision column, fails with `SaveConflict` if another save has changed a column that
   * this save sets.
   */
  readonly save: (record: Saved<T, C, K> | New<T, C>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Reads the row again, and keeps the unsaved edits. Fails with `RecordGone` if the row was deleted. */
  readonly refresh: (record: Saved<T, C, K>) => TaskEither<RecordError, Saved<T, C, K>>
  /** Deletes the row. A missing row is not an error. */
  readonly destroy: (record: Saved<T, C, K>) => TaskEither<DriverError, void>
  /** Makes the relation to the records whose `column` has the parent's id. The records are ordered by their keys. */
  readonly hasMany: <N extends keyof C>(column: N) => Relation<NonNullable<ColumnValue<C[N]>>, Saved<T, C, K>>
  /**
   * Makes a relation of many parents to many records. Each row of the table `between` relates one parent to one record.
   * The column `parent` has the parent's id, and the column `own` has the record's id.
   */
  readonly hasManyThrough: <C2 extends Columns, N extends keyof C2>(
    between: Defined<C2>,
    parent: N,
    own: keyof C2,
  ) => Relation<NonNullable<ColumnValue<C2[N]>>, Saved<T, C, K>>
}

/** The type of the saved records of a definition, as in `type Note = RecordValue<typeof notes>`. */
export type RecordValue<R> = R extends { readonly refresh: (record: infer V) => unknown } ? V : never
