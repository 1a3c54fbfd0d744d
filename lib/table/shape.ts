// A record's table as its functions see it: its columns in order, and what goes between a row and their values.
import * as E from 'fp-ts/lib/Either.js'
import { DecodeError, EncodeError } from '../base/errors.js'
import { deepFreeze } from '../base/frozen.js'
import { problemsOf } from '../base/problems.js'
import type { Row } from '../port/database.js'
import type { AnyColumn } from '../record/column.js'

export interface Field {
  readonly index: number
  /** Its name in the program; in the database, quoted; and in a row that was asked for. */
  readonly name: string
  readonly column: string
  readonly alias: string
  readonly type: AnyColumn
  readonly generated: boolean
}

export interface Shape {
  /** The table's name as it was given, and quoted. */
  readonly table: string
  readonly from: string
  readonly fields: readonly Field[]
  readonly key: readonly Field[]
  /** The id is the key's value, or, of a key of several columns, an object of them. */
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

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** Throws a `RangeError` for what cannot be a record. */
export const shapeOf = (options: ShapeOptions): Shape => {
  const { table, key, revision } = options
  const refuse = (reason: string): never => {
    throw new RangeError(`record ${table}: ${reason}`)
  }
  const fields = fieldsOf(options)
  const field = (name: string): Field =>
    fields.find((field) => field.name === name) ?? refuse(`it has no column '${name}'`)
  const keys = (typeof key === 'string' ? [key] : key).map(field)
  if (keys.length === 0) refuse('it has no key')
  for (const { name } of fields)
    if (name === 'handle' || (name === 'id' && key !== 'id'))
      refuse(`'${name}' is every record's own: call the column otherwise (names)`)
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

const fieldsOf = ({ table, columns, names = {} }: ShapeOptions): readonly Field[] =>
  Object.entries(columns).map(([name, type], index) => {
    const column = quoted(Object.hasOwn(names, name) ? (names[name] ?? name) : snake(name))
    return { index, name, column, alias: aliasOf(table, index), type, generated: type.generated === true }
  })

// No pool's way of renaming columns does anything to such a name, and it is no longer than a name may be.
const aliasOf = (table: string, index: number): string =>
  `${String(index)} ${table.replaceAll(/[^a-z0-9]/g, ' ').slice(0, 40)}`

/** The values of a row, by the fields' indices. `row` counts the rows of a result. */
export const decodeRow = (
  { fields }: Shape,
  found: Row,
  row: number | undefined,
): E.Either<DecodeError, readonly unknown[]> => {
  const values: unknown[] = []
  for (const { name, alias, type } of fields) {
    const wire = found[alias]
    if (wire === undefined)
      return E.left(new DecodeError(name, ["it is not in the row: select the record's `row`"], row))
    const value = decodeWire(type, wire)
    if (E.isLeft(value)) return E.left(new DecodeError(name, value.left, row))
    values.push(deepFreeze(value.right))
  }
  return E.right(values)
}

// A codec is the user's code: when its `decode` throws, the value does not fit.
const decodeWire = (type: AnyColumn, wire: unknown): E.Either<readonly string[], unknown> => {
  try {
    const decoded = type.codec.decode(wire)
    return E.isLeft(decoded) ? E.left(problemsOf(decoded.left)) : decoded
  } catch (thrown) {
    return E.left([String(thrown)])
  }
}

/** A value as text for the database; throws an `EncodeError` that names the column. */
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

/** A frozen copy of the value, as it comes back once it was saved; throws an `EncodeError`. */
export const normalised = (name: string, type: AnyColumn, value: unknown): unknown => {
  const decoded = decodeWire(
    type,
    checked(name, type.codec, value, () => type.wire(value as never)),
  )
  if (E.isLeft(decoded)) throw new EncodeError(name, [], decoded.left.join('; '))
  return deepFreeze(decoded.right)
}

/** What encodes, or the `EncodeError` that it threw. */
export const attempt = <A>(act: () => A): E.Either<EncodeError, A> => {
  try {
    return E.right(act())
  } catch (error) {
    if (error instanceof EncodeError) return E.left(error)
    throw error
  }
}

export const textOf = (field: Field, value: unknown): string | null => encode(field.name, field.type, value)
