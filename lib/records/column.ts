// Columns: codecs between a program's values and PostgreSQL's text of them. Values are sent as text (`$1::text::int8`), so
// that every driver handles them alike. They are read as text too: a prepared statement survives a wider column type, and a
// save can compare values of any type.

import { type DeepReadonly, deepFreeze, textProblem, toJson } from '../core/json.js'
import { problemsOf } from '../core/key.js'
import { identity, t } from '../core/prelude.cjs'
import { arrayText, moment } from '../db/text-format.js'

/** A column of values of type `A`, or a parameter of that type. */
export interface Column<A> {
  /** The name of its type in the database. */
  readonly sql: string
  /** Encodes to PostgreSQL's text of the value; decodes what `read` selects. */
  readonly codec: t.Type<A, string | null>
  /** What `read` selects after this value was stored. */
  readonly wire: (value: A) => unknown
  /** The expression that selects the column, and one that selects an array column of these. */
  readonly read: (column: string) => string
  readonly readArray: (column: string) => string
}

/** A column whose value the database generates at the insert: a key, a default. */
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

/** The type of a column's values. */
export type ColumnValue<C extends AnyColumn> = C['codec']['_A']

const asText = (column: string): string => `${column}::text`
// As JSON, which JavaScript can parse, of the elements' texts: JSON numbers would lose digits.
const elements = (column: string): string => `to_json(${column}::text[])::text`

/** An array whose elements, named `e`, are mapped by an expression. */
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
  /** From the value's text, or from what a driver makes of it; anything else stays as it is. */
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

/** Any text that PostgreSQL can store: without U+0000 and without lone surrogates. */
export const text: Column<string> = plain({
  sql: 'text',
  is: (value): value is string => typeof value === 'string' && textProblem(value) === undefined,
})

const integer = /^-?\d+$/

/** A whole number from -2^31 to 2^31 - 1. */
export const int4: Column<number> = plain({
  sql: 'int4',
  is: (value): value is number => typeof value === 'number' && (value | 0) === value,
  from: (wire) => (typeof wire === 'string' && integer.test(wire) ? Number(wire) : wire),
})

/** A whole number from -2^63 to 2^63 - 1, as a `bigint`. */
export const int8: Column<bigint> = plain({
  sql: 'int8',
  is: (value): value is bigint => typeof value === 'bigint' && BigInt.asIntN(64, value) === value,
  from: (wire) =>
    (typeof wire === 'string' && integer.test(wire)) || Number.isSafeInteger(wire)
      ? BigInt(wire as string | number)
      : wire,
})

const float = /^(-?\d+(\.\d+)?(e[+-]\d+)?|-?Infinity|NaN)$/

/** Any number, including `NaN` and the infinities. */
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

/** A UUID as text; it is read in lower case. */
export const uuid: Column<string> = plain({
  sql: 'uuid',
  is: (value): value is string =>
    typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value),
  from: (wire) => (typeof wire === 'string' ? wire.toLowerCase() : wire),
})

const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

// A number: the text depends on the server's time zone and date style.
const milliseconds = (time: string): string => `floor(extract(epoch from ${time}) * 1000)::float8`

const inRange = (date: Date): boolean => date.getTime() >= -62135596800000 && date.getTime() < 253402300800000

/**
 * A time in the years 1 to 9999, as a `Date` whose setters throw. It is read to the millisecond; a column that is not edited
 * keeps its microseconds.
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

// `E`: the meaning of a backslash in a plain literal depends on a setting.
const hexadecimal = (bytes: string): string => `E'\\\\x' || encode(${bytes}, 'hex')`

// Searches for a wrong character: a pattern of repeated groups exhausts the stack on megabytes.
const isHexadecimal = (wire: string): boolean =>
  wire.startsWith('\\x') && wire.length % 2 === 0 && !/[^0-9a-f]/.test(wire.slice(2))

/** Bytes. JavaScript cannot freeze them, and a change in place is not detected: set new ones. */
export const bytea: Column<Uint8Array> = plain({
  sql: 'bytea',
  is: (value) => value instanceof Uint8Array,
  from: (wire) =>
    typeof wire === 'string' && isHexadecimal(wire)
      ? Uint8Array.from(Buffer.from(wire.slice(2), 'hex'))
      : wire,
  to: (value) => `\\x${Buffer.from(value).toString('hex')}`,
  // Always hexadecimal: drivers expect that, whatever the server's `bytea_output` is.
  read: hexadecimal,
  readArray: (column) => each(column, hexadecimal('e')),
})

/** Any type of the database, as its text, with a codec for the text: `textual('numeric', t.string)`. */
export const textual = <A>(sql: string, codec: t.Type<A, string>): Column<A> =>
  refined({ ...text, sql }, codec)

/** One of these texts: an enum of the database; `sql` is the name of its type. */
export const enumeration = <const N extends string>(sql: string, names: readonly N[]): Column<N> =>
  plain({ sql, is: (value): value is N => names.some((name) => name === value) })

/** The column with another codec on top: for a branded type, or another type of the program. */
export const refined = <A, B>(column: Column<A>, codec: t.Type<B, A>): Column<B> =>
  Object.freeze({
    ...column,
    codec: piped(column.codec, codec),
    wire: (value: B) => column.wire(codec.encode(value)),
  })

// The `is` of io-ts's `pipe` examines only the inner value.
const piped = <A, B>(outer: t.Type<A, string | null>, inner: t.Type<B, A>): t.Type<B, string | null> => {
  const { validate, encode } = outer.pipe(inner)
  const is = (value: unknown): value is B => inner.is(value) && outer.is(inner.encode(value))
  return new t.Type(inner.name, is, validate, encode)
}

/** Any JSON; the codec converts between it and the program's value. */
export const jsonb = <A, O>(codec: t.Type<A, O>): Column<DeepReadonly<A>> => {
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

/** The column, but nullable. */
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

/** The column, but the database generates its value in a new row: `build` does not take it, and the save gives it. */
export const generated = <A>(column: Column<A>): Generated<A> => Object.freeze({ ...column, generated: true })

// Array columns. They are written as PostgreSQL's text of an array, and read as JSON.

/** The decoded elements, or a failure for the first element that does not fit. */
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
 * A column of arrays of one dimension. Elements may be null only if their column is nullable: `array(nullable(text))`.
 * Throws a `RangeError` for an array of arrays.
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
