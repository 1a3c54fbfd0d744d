// Converts parameters and values to and from PostgreSQL's text format, which every driver sends and receives. The
// server infers the type of a parameter from the statement. So a parameter has the same meaning with every driver.
import { parse as parseArray } from 'postgres-array'
import { deepFreeze, textProblem } from '../core/json.js'
import type { Param, Row } from './database.js'

/** Returns a parameter in PostgreSQL's text format, such as `'true'` for `true`. */
export const paramText = (param: Param): string | null =>
  param === null ? null : Object.is(param, -0) ? '-0' : String(param)

/** Returns the reason why a value is not a valid parameter, or `undefined` for a valid parameter. */
export const paramProblem = (param: unknown): string | undefined => {
  if (typeof param === 'string') return textProblem(param)
  if (param === undefined) return 'is undefined'
  return param === null || ['number', 'bigint', 'boolean'].includes(typeof param)
    ? undefined
    : 'is no text, number, bigint, boolean or null: `param` makes text of a value by its column'
}

// A date or a time becomes a `Date` with millisecond precision. `infinity` becomes the number `Infinity`. A date or
// time in a style other than ISO may be ambiguous, so it stays a string.
const TIME =
  /^(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?$/

type Parts = readonly [year: number, month: number, day: number, hour: number, minute: number, second: number]

interface Time {
  readonly parts: Parts
  readonly millisecond: number
  /** The offset from UTC in seconds, positive for zones east of UTC. */
  readonly offset: number
}

const timeOf = (text: string): Time | number | string => {
  if (text === 'infinity') return Number.POSITIVE_INFINITY
  if (text === '-infinity') return Number.NEGATIVE_INFINITY
  const found = TIME.exec(text)
  if (found === null) return text
  const number = (index: number): number => Number(found[index] ?? 0)
  const year = found[12] === undefined ? number(1) : 1 - number(1)
  const offset = (number(9) * 60 + number(10)) * 60 + number(11)
  return {
    parts: [year, number(2) - 1, number(3), number(4), number(5), number(6)],
    millisecond: Number((found[7] ?? '').padEnd(3, '0').slice(0, 3)),
    offset: found[8] === '-' ? -offset : offset,
  }
}

type Value = Date | number | string

const made =
  (make: (time: Time) => Date) =>
  (text: string): Value => {
    const time = timeOf(text)
    return typeof time === 'object' ? make(time) : time
  }

// `Date.UTC(year, …)` and `new Date(year, …)` treat the years 0 to 99 as 1900 to 1999.
const inUtc = ({ parts: [year, month, day, hour, minute, second], millisecond }: Time): Date => {
  const date = new Date(0)
  date.setUTCFullYear(year, month, day)
  date.setUTCHours(hour, minute, second, millisecond)
  return date
}

const dateOf = made(inUtc)

const momentOf = made((time) => new Date(inUtc(time).getTime() - time.offset * 1000))

/** Decodes a `timestamp`, which has no time zone, in the time zone of the process. */
const localTimeOf = made(({ parts: [year, month, day, hour, minute, second], millisecond }) => {
  const date = new Date(2000, 0, 1)
  date.setFullYear(year, month, day)
  date.setHours(hour, minute, second, millisecond)
  return date
})

// keyrow decodes the text of each value by the type of its column. The drivers' own decoders are not used.
export interface Column {
  readonly name: string
  readonly type: number
}

/** A value as a driver receives it: as text, as the bytes of the text, or as null. */
export type Wire = string | Uint8Array | null

type Decode = (text: string) => unknown

/** Decodes a `bytea` from hexadecimal digits or, with `bytea_output = escape`, from characters with octal escapes. */
const bytesOf: Decode = (text) =>
  Uint8Array.from(
    text.startsWith('\\x')
      ? Buffer.from(text.slice(2), 'hex')
      : Buffer.from(
          text.replaceAll(/\\(\d{3}|\\)/g, (_, code: string) =>
            code === '\\' ? code : String.fromCharCode(Number.parseInt(code, 8)),
          ),
          'latin1',
        ),
  )

const asText: Decode = (text) => text
const json: Decode = (text) => JSON.parse(text)

/** The OID of each decoded type, the OID of its arrays, and its decoder. Values of all other types stay strings. */
const types: readonly (readonly [type: number, arrays: number, decode: Decode])[] = [
  [16, 1000, (text) => text === 't'], // boolean
  [17, 1001, bytesOf],
  [20, 1016, BigInt], // int8
  [21, 1005, Number], // int2
  [23, 1007, Number], // int4
  [26, 1028, Number], // oid
  [700, 1021, Number], // float4
  [701, 1022, Number], // float8
  [114, 199, json],
  [3802, 3807, json], // jsonb
  [1082, 1182, dateOf], // date
  [1114, 1115, localTimeOf], // timestamp
  [1184, 1185, momentOf], // timestamptz
]

// The OIDs of arrays of "char", name, text, char(n), varchar(n), time, interval, timetz, numeric, uuid, inet and cidr.
const TEXT_ARRAYS = [1002, 1003, 1009, 1014, 1015, 1183, 1187, 1270, 1231, 2951, 1041, 651]

const arrayOf =
  (decode: Decode): Decode =>
  (text) =>
    parseArray(text, decode)

const decoders = new Map<number, Decode>([
  ...types.flatMap(([type, arrays, decode]) => [[type, decode] as const, [arrays, arrayOf(decode)] as const]),
  ...TEXT_ARRAYS.map((arrays) => [arrays, arrayOf(asText)] as const),
])

export const decodedRows = (
  columns: readonly Column[],
  rows: readonly (readonly (Wire | undefined)[])[],
): readonly Row[] => {
  const reads = columns.map(({ name, type }) => ({ name, decode: decoders.get(type) ?? asText }))
  const count = reads.length
  const decoded: Row[] = []
  // `forEach` skips the holes of an array, and `map` would keep them. After a failed statement or a lost connection,
  // postgres.js 3.4.9 does not reset its row count. The array of the next result then begins with a hole for each
  // counted row.
  rows.forEach((wires) => {
    const row: Record<string, unknown> = {}
    // A `for…of` loop would make an iterator for each row, and double the cost.
    for (let index = 0; index < count; index += 1) {
      const { name, decode } = reads[index] as (typeof reads)[number]
      const wire = wires[index] ?? null
      row[name] = wire === null ? null : decode(wire.toString())
    }
    decoded.push(row)
  })
  return decoded
}

// Makes immutable dates. Making a `Date` immutable costs more than decoding the rest of a row, so recent dates are
// cached. The last ten bits of a date's time are its slot in the cache.

const SLOTS = 1024

const cache: Date[] = []

/** Converts milliseconds since 1970, or an ISO 8601 date, to a `Date` whose setters throw. */
export const moment = (time: string | number): Date => {
  const date = new Date(time)
  const slot = date.getTime() & (SLOTS - 1)
  const cached = cache[slot]
  if (cached?.getTime() === date.getTime()) return cached
  cache[slot] = date
  return deepFreeze(date)
}

// keyrow quotes every element of an array, so only quotes and backslashes need an escape.
const arrayElement = (element: string | null): string =>
  element === null
    ? 'NULL'
    : element.includes('"') || element.includes('\\')
      ? `"${element.replaceAll(/["\\]/g, '\\$&')}"`
      : `"${element}"`

/** Returns a PostgreSQL array literal. Each element is a value in PostgreSQL's text format. */
export const arrayText = (elements: readonly (string | null)[]): string =>
  `{${elements.map(arrayElement).join()}}`

/** Returns a PostgreSQL array literal. Each element is a JSON text, which is escaped like a JSON string. */
export const arrayOfJson = (elements: readonly (string | null)[]): string =>
  `{${elements.map((element) => (element === null ? 'NULL' : JSON.stringify(element))).join()}}`
