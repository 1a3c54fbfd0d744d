// Columns: what a database's value is in a program. Each is a codec between that value and PostgreSQL's own text of
// it, as which it travels (`$1::text::int8`): so it is the same through every driver. It is read as text too: then a
// prepared statement still fits when the column's type was widened, and a save can compare a value of any type.
import * as t from 'io-ts'
import { type DeepReadonly, deepFreeze, textProblem, toJson } from '../core/json.js'
import { problemsOf } from '../core/key.js'
import { moment } from '../db/text-format.js'

/** A column of values of type `A`, or anything else that has a type in the database, such as a parameter. */
export interface Column<A> {
  /** Its type's name in the database. */
  readonly sql: string
  /** To PostgreSQL's text of the value, and from what comes back. */
  readonly codec: t.Type<A, string | null>
  /** What comes back once the value was stored. */
  readonly wire: (value: A) => unknown
  /** What is asked for, of a column by its name; and of one that is an array of these. */
  readonly read: (column: string) => string
  readonly readArray: (column: string) => string
}

/** One that the database makes when a row is inserted: a key, a default. */
export interface Generated<A> extends Column<A> {
  readonly generated: true
}

/** Any column: what needs to be known of it where its values do not matter. */
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
// By JSON, whose reader every program has; by its elements' text, since JSON's own numbers lose digits.
const elements = (column: string): string => `to_json(${column}::text[])::text`

/** An array of what an expression makes of its elements, each called `e`. */
const each = (column: string, expression: string): string =>
  `case when ${column} is not null then to_json(array(select ${expression} from unnest(${column}) with ordinality as u (e, n) order by n))::text end`

interface Plain<A> {
  readonly sql: string
  readonly is: (value: unknown) => value is A
  /** Of the value's text, of what a driver makes of it; `undefined` for what it cannot be. */
  readonly from: (wire: unknown) => unknown
  readonly to: (value: A) => string
  readonly read?: (column: string) => string
  readonly readArray?: (column: string) => string
}

const plain = <A>({ sql, is, from, to, read = asText, readArray = elements }: Plain<A>): Column<A> => {
  const validate: t.Validate<unknown, A> = (wire, context) => {
    const value = from(wire)
    return is(value) ? t.success(value) : t.failure(wire, context, `expected ${sql}`)
  }
  return Object.freeze({
    sql,
    codec: new t.Type<A, string>(sql, is, validate, to),
    wire: to,
    read,
    readArray,
  })
}

/** Any text that PostgreSQL can store: not U+0000, nor half a surrogate pair. */
export const text: Column<string> = plain({
  sql: 'text',
  is: (value): value is string => typeof value === 'string' && textProblem(value) === undefined,
  from: (wire) => wire,
  to: (value) => value,
})

const integer = /^-?\d+$/

/** A whole number from -2^31 to 2^31 - 1. */
export const int4: Column<number> = plain({
  sql: 'int4',
  is: (value): value is number => typeof value === 'number' && (value | 0) === value,
  from: (wire) => (typeof wire === 'string' && integer.test(wire) ? Number(wire) : wire),
  to: String,
})

/** A whole number from -2^63 to 2^63 - 1, as a `bigint`. */
export const int8: Column<bigint> = plain({
  sql: 'int8',
  is: (value): value is bigint => typeof value === 'bigint' && BigInt.asIntN(64, value) === value,
  from: (wire) =>
    (typeof wire === 'string' && integer.test(wire)) || Number.isSafeInteger(wire)
      ? BigInt(wire as string | number)
      : wire,
  to: String,
})

const float = /^(-?\d+(\.\d+)?(e[+-]\d+)?|-?Infinity|NaN)$/

/** Any number, `NaN` and the infinities among them. */
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
  to: String,
})

/** A UUID as text; it comes back in lower case. */
export const uuid: Column<string> = plain({
  sql: 'uuid',
  is: (value): value is string =>
    typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value),
  from: (wire) => (typeof wire === 'string' ? wire.toLowerCase() : wire),
  to: (value) => value,
})

const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

// Not as text, which depends on the server's time zone and its style of dates.
const milliseconds = (time: string): string => `floor(extract(epoch from ${time}) * 1000)::float8`

const inRange = (date: Date): boolean => date.getTime() >= -62135596800000 && date.getTime() < 253402300800000

/**
 * A moment of the years 1 to 9999, as a `Date` whose setters throw. It is read to the millisecond; the database keeps
 * the microseconds of a column that is not edited.
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

// `E`: what a backslash means in a plain text is a setting.
const hexadecimal = (bytes: string): string => `E'\\\\x' || encode(${bytes}, 'hex')`

// Looks for one character that is none: a pattern of repeated groups exhausts the stack on some megabytes.
const isHexadecimal = (wire: string): boolean =>
  wire.startsWith('\\x') && wire.length % 2 === 0 && !/[^0-9a-f]/.test(wire.slice(2))

/** Bytes. JavaScript cannot freeze them: what is changed in place is not noticed, so set new ones. */
export const bytea: Column<Uint8Array> = plain({
  sql: 'bytea',
  is: (value) => value instanceof Uint8Array,
  from: (wire) =>
    typeof wire === 'string' && isHexadecimal(wire)
      ? Uint8Array.from(Buffer.from(wire.slice(2), 'hex'))
      : wire,
  to: (value) => `\\x${Buffer.from(value).toString('hex')}`,
  // As hexadecimal digits, whatever the server's own way is: drivers take that for granted.
  read: hexadecimal,
  readArray: (column) => each(column, hexadecimal('e')),
})

/** A type of the database's own by its text, with a codec for what the text may be: `textual('numeric', t.string)`. */
export const textual = <A>(sql: string, codec: t.Type<A, string>): Column<A> =>
  refined({ ...text, sql }, codec)

/** One of these texts: an enum of the database, by its type's name there. */
export const enumeration = <const N extends string>(sql: string, names: readonly N[]): Column<N> =>
  plain({
    sql,
    is: (value): value is N => names.some((name) => name === value),
    from: (wire) => wire,
    to: (value) => value,
  })

/** The same column with a codec on top: for a branded type, or another type of the program's. */
export const refined = <A, B>(column: Column<A>, codec: t.Type<B, A>): Column<B> =>
  Object.freeze({
    ...column,
    codec: piped(column.codec, codec),
    wire: (value: B) => column.wire(codec.encode(value)),
  })

const piped = <A, B>(outer: t.Type<A, string | null>, inner: t.Type<B, A>): t.Type<B, string | null> =>
  new t.Type<B, string | null>(
    inner.name,
    (value): value is B => inner.is(value) && outer.is(inner.encode(value)),
    (wire, context) => {
      const base = outer.validate(wire, context)
      return base._tag === 'Left' ? base : inner.validate(base.right, context)
    },
    (value) => outer.encode(inner.encode(value)),
  )

/** Any JSON that the codec makes of the program's value, or the value of it. */
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
  return Object.freeze({
    sql: 'jsonb',
    codec: new t.Type<DeepReadonly<A>, string>(codec.name, is, validate, encode),
    wire: encode,
    read: asText,
    readArray: elements,
  })
}

/** The same column where it may be null. */
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

/** The same column where the database makes the value of a new row: it is not given at the build, and known after the save. */
export const generated = <A>(column: Column<A>): Generated<A> => Object.freeze({ ...column, generated: true })
