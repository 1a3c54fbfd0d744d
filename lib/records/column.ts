// A column converts between a program's values and PostgreSQL's text format. Values are sent as text
// (`$1::text::int8`), so that every driver handles them in the same way. A time is read as a number, and any other
// value as text. So a result keeps its types when a column gets a wider type, and prepared statements stay valid. A
// guarded save compares the stored value with the value that was read. It compares both as text.

import { type DeepReadonly, deepFreeze, textProblem, toJson } from '../core/json.js'
import { problemsOf } from '../core/key.js'
import { identity, t } from '../core/prelude.cjs'
import { codecOf, type Schema } from '../core/schema.js'
import { arrayText, moment } from '../db/text-format.js'

/** The type of a column, or of a parameter that `param` makes. `A` is the type of its values in the program. */
export interface Column<A> {
  /** The name of the type in the database. */
  readonly sql: string
  /** Encodes a value in PostgreSQL's text format, and decodes a value that `read` has selected. */
  readonly codec: t.Type<A, string | null>
  /** Returns what the expression of `read` would select after `value` was stored. */
  readonly wire: (value: A) => unknown
  /** Returns the SQL expression that reads a column of this type. `readArray` is for arrays of this type. */
  readonly read: (column: string) => string
  readonly readArray: (column: string) => string
}

/** A column whose value the database generates at the insert, such as a serial key or a default. */
export interface Generated<A> extends Column<A> {
  readonly generated: true
}

/** Any column, for code that does not depend on the type of its values. */
export interface AnyColumn {
  readonly sql: string
  readonly codec: {
    readonly _A: unknown
    readonly name: string
    readonly is: (value: unknown) => boolean
    readonly encode: (value: never) => string | null
    readonly decode: (wire: unknown) => t.Validation<unknown>
  }
  readonly wire: (value: never) => unknown
  readonly read: (column: string) => string
  readonly readArray: (column: string) => string
  readonly generated?: true
}

export type ColumnValue<C extends AnyColumn> = C['codec']['_A']

const asText = (column: string): string => `${column}::text`
// An array is read as JSON. The elements are read as texts, because JSON numbers would lose digits.
const elements = (column: string): string => `to_json(${column}::text[])::text`

/** Returns the SQL expression for an array column, in which `expression` maps each element `e`. */
const each = (column: string, expression: string): string =>
  `case when ${column} is not null then to_json(array(select ${expression} from unnest(${column}) with ordinality as u (e, n) order by n))::text end`

type Reading<A> = Partial<Pick<Column<A>, 'wire' | 'read' | 'readArray'>>

const columnOf = <A>(
  sql: string,
  codec: t.Type<A, string>,
  { wire = codec.encode, read = asText, readArray = elements }: Reading<A> = {},
): Column<A> => Object.freeze({ sql, codec, wire, read, readArray })

interface Plain<A> extends Reading<A> {
  readonly sql: string
  readonly is: (value: unknown) => value is A
  /** Converts a value that `read` has selected. Returns the value unchanged if it does not fit the type. */
  readonly from?: (wire: unknown) => unknown
  readonly to?: (value: A) => string
}

const plain = <A>({ sql, is, from = identity, to = String, ...reading }: Plain<A>): Column<A> => {
  const validate: t.Validate<unknown, A> = (wire, context) => {
    const value = from(wire)
    return is(value) ? t.success(value) : t.failure(wire, context, `expected ${sql}`)
  }
  return columnOf(sql, new t.Type<A, string>(sql, is, validate, to), reading)
}

/** A column of any text that PostgreSQL can store. U+0000 and lone surrogates cannot be stored. */
export const text: Column<string> = plain({
  sql: 'text',
  is: (value): value is string => typeof value === 'string' && textProblem(value) === undefined,
})

const integer = /^-?\d+$/

/** A column of whole numbers from -2^31 to 2^31 - 1. */
export const int4: Column<number> = plain({
  sql: 'int4',
  is: (value): value is number => typeof value === 'number' && (value | 0) === value,
  from: (wire) => (typeof wire === 'string' && integer.test(wire) ? Number(wire) : wire),
})

/** A column of whole numbers from -2^63 to 2^63 - 1, as values of the type `bigint`. */
export const int8: Column<bigint> = plain({
  sql: 'int8',
  is: (value): value is bigint => typeof value === 'bigint' && BigInt.asIntN(64, value) === value,
  from: (wire) =>
    (typeof wire === 'string' && integer.test(wire)) || Number.isSafeInteger(wire)
      ? BigInt(wire as string | number)
      : wire,
})

const float = /^(-?\d+(\.\d+)?(e[+-]\d+)?|-?Infinity|NaN)$/

/** A column of any numbers, including `NaN` and the infinities. */
export const float8: Column<number> = plain({
  sql: 'float8',
  is: (value) => typeof value === 'number',
  from: (wire) => (typeof wire === 'string' && float.test(wire) ? Number(wire) : wire),
  to: (value) => (Object.is(value, -0) ? '-0' : String(value)),
})

export const boolean: Column<boolean> = plain({
  sql: 'boolean',
  is: (value) => typeof value === 'boolean',
  from: (wire) => (wire === 'true' ? true : wire === 'false' ? false : wire),
})

/** A column of UUIDs as text. A UUID is read in lower case. */
export const uuid: Column<string> = plain({
  sql: 'uuid',
  is: (value): value is string =>
    typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value),
  from: (wire) => (typeof wire === 'string' ? wire.toLowerCase() : wire),
})

const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

// A time is read as a number, because its text depends on the settings for the time zone and the date style.
const milliseconds = (time: string): string => `floor(extract(epoch from ${time}) * 1000)::float8`

const inRange = (date: Date): boolean => date.getTime() >= -62135596800000 && date.getTime() < 253402300800000

/**
 * A column of times in the years 1 to 9999. A time is a `Date` whose setters throw. A time is read with a precision of
 * milliseconds. A column that is not edited keeps its microseconds in the database.
 */
export const timestamptz: Column<Date> = plain({
  sql: 'timestamptz',
  is: (value): value is Date => value instanceof Date && inRange(value),
  from: (wire) =>
    typeof wire === 'number' || (typeof wire === 'string' && isoTime.test(wire)) ? moment(wire) : wire,
  to: (value) => value.toISOString(),
  read: milliseconds,
  readArray: (column) => each(column, milliseconds('e')),
})

// The literal is `E'…'`, since the setting `standard_conforming_strings` changes the meaning of a backslash in `'…'`.
const hexadecimal = (bytes: string): string => `E'\\\\x' || encode(${bytes}, 'hex')`

// A pattern of repeated groups would exhaust the stack on a long text. So this pattern looks for an invalid character.
const isHexadecimal = (wire: string): boolean =>
  wire.startsWith('\\x') && wire.length % 2 === 0 && !/[^0-9a-f]/.test(wire.slice(2))

/** A column of bytes. A change of a byte array in place is not detected, so set a new array instead. */
export const bytea: Column<Uint8Array> = plain({
  sql: 'bytea',
  is: (value) => value instanceof Uint8Array,
  from: (wire) =>
    typeof wire === 'string' && isHexadecimal(wire)
      ? Uint8Array.from(Buffer.from(wire.slice(2), 'hex'))
      : wire,
  to: (value) => `\\x${Buffer.from(value).toString('hex')}`,
  // Bytes are read as hexadecimal text, so that the server's setting `bytea_output` has no effect.
  read: hexadecimal,
  readArray: (column) => each(column, hexadecimal('e')),
})

/** A column of any database type. The codec converts the type's text format, as in `textual('numeric', t.string)`. */
export const textual = <A>(sql: string, codec: t.Type<A, string>): Column<A> =>
  refined({ ...text, sql }, codec)

/** A column of the enum type `sql` of the database, whose values are `names`. */
export const enumeration = <const N extends string>(sql: string, names: readonly N[]): Column<N> =>
  plain({ sql, is: (value): value is N => names.some((name) => name === value) })

/** Adds to a column a second codec, which converts the values to a branded type or another type of the program. */
export const refined = <A, B>(column: Column<A>, codec: t.Type<B, A>): Column<B> =>
  Object.freeze({
    ...column,
    codec: piped(column.codec, codec),
    wire: (value: B) => column.wire(codec.encode(value)),
  })

// The codec that `pipe` of io-ts returns has the `is` of `inner`. The new `is` also checks the encoded value.
const piped = <A, B>(outer: t.Type<A, string | null>, inner: t.Type<B, A>): t.Type<B, string | null> => {
  const { validate, encode } = outer.pipe(inner)
  const is = (value: unknown): value is B => inner.is(value) && outer.is(inner.encode(value))
  return new t.Type(inner.name, is, validate, encode)
}

/** A column of JSON. The codec or schema converts between the JSON and the program's value, as in `sessionKey`. */
export const jsonb = <A>(schema: Schema<A>): Column<DeepReadonly<A>> => {
  const codec = codecOf(schema)
  const is = (value: unknown): value is DeepReadonly<A> => codec.is(value)
  const validate: t.Validate<unknown, DeepReadonly<A>> = (wire, context) => {
    if (typeof wire !== 'string') return t.failure(wire, context, 'expected the text of jsonb')
    const decoded = codec.decode(JSON.parse(wire))
    return decoded._tag === 'Right'
      ? t.success(deepFreeze(decoded.right))
      : t.failures(decoded.left.map((error) => ({ ...error, message: problemsOf([error]).join() })))
  }
  const encode = (value: DeepReadonly<A>): string => JSON.stringify(toJson('', codec.encode(value as A)))
  return columnOf('jsonb', new t.Type(codec.name, is, validate, encode))
}

/** Makes a column whose values may also be null. */
export const nullable = <A>(column: Column<A>): Column<A | null> =>
  Object.freeze({
    ...column,
    codec: new t.Type<A | null, string | null>(
      `${column.codec.name} or null`,
      (value): value is A | null => value === null || column.codec.is(value),
      (wire, context) => (wire === null ? t.success(null) : column.codec.validate(wire, context)),
      (value) => (value === null ? null : column.codec.encode(value)),
    ),
    wire: (value: A | null) => (value === null ? null : column.wire(value)),
  })

/** Makes a column whose value the database generates at the first save. `build` takes no value for this column. */
export const generated = <A>(column: Column<A>): Generated<A> => Object.freeze({ ...column, generated: true })

// Array columns are written as PostgreSQL's array literals (`{a,b}`), and read as JSON.

/** Returns the decoded elements, or a failure for the first element that does not fit the column. */
const elementsOf =
  <A>({ codec }: Column<A>): t.Validate<unknown, readonly A[]> =>
  (wire, context) => {
    const found: unknown = typeof wire === 'string' ? JSON.parse(wire) : wire
    if (!Array.isArray(found)) return t.failure(wire, context, `expected array of ${codec.name}`)
    const values: A[] = []
    for (const [index, element] of found.entries()) {
      const value = codec.decode(element)
      if (value._tag === 'Left')
        return t.failure(wire, context, `element ${String(index)}: ${problemsOf(value.left).join('; ')}`)
      values.push(value.right)
    }
    return t.success(values)
  }

/**
 * A column of arrays of one dimension. Its elements may be null only if `of` is nullable, as in
 * `array(nullable(text))`. Throws a `RangeError` for an array of arrays.
 */
export const array = <A>(of: Column<A>): Column<readonly A[]> => {
  if (of.sql.endsWith('[]')) throw new RangeError('an array of arrays is not supported: keep it as jsonb')
  const { codec } = of
  const is = (value: unknown): value is readonly A[] =>
    Array.isArray(value) && Array.from(value).every(codec.is)
  const encode = (values: readonly A[]): string => arrayText(values.map((value) => codec.encode(value)))
  return columnOf(`${of.sql}[]`, new t.Type(`array of ${codec.name}`, is, elementsOf(of), encode), {
    wire: (values) => values.map((value) => of.wire(value)),
    read: of.readArray,
    readArray: of.readArray,
  })
}
