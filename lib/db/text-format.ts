// A parameter on its way to the database. Every driver sends PostgreSQL's own text of it and leaves the type to the
// server, which takes it from the statement as it does for a quoted literal: so a parameter means the same everywhere.

import { parse as parseArray } from 'postgres-array'
import { deepFreeze, textProblem } from '../core/json.js'
import type { Param, Row } from './database.js'

/** The text that is sent: of `true` it is `true`, of a number its shortest form. */
export const paramText = (param: Param): string | null =>
  param === null ? null : Object.is(param, -0) ? '-0' : String(param)

/** Why a value is no parameter, if so. */
export const paramProblem = (param: unknown): string | undefined => {
  if (typeof param === 'string') return textProblem(param)
  if (param === undefined) return 'is undefined'
  return param === null || ['number', 'bigint', 'boolean'].includes(typeof param)
    ? undefined
    : 'is no text, number, bigint, boolean or null: `param` makes text of a value by its column'
}

// PostgreSQL's text of dates and times as a `Date`, to the millisecond. `infinity` is the number. Text of another style
// than ISO (a setting of the role) stays text: it may mean two dates.

const TIME =
  /^(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?$/

type Parts = readonly [year: number, month: number, day: number, hour: number, minute: number, second: number]

interface Time {
  readonly parts: Parts
  readonly millisecond: number
  /** East of Greenwich, in seconds. */
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

// Not `Date.UTC(year, …)`, nor `new Date(year, …)`, to which the years from 0 to 99 are of the twentieth century.
const inUtc = ({ parts: [year, month, day, hour, minute, second], millisecond }: Time): Date => {
  const date = new Date(0)
  date.setUTCFullYear(year, month, day)
  date.setUTCHours(hour, minute, second, millisecond)
  return date
}

/** Midnight in UTC. */
const dateOf = made(inUtc)

const momentOf = made((time) => new Date(inUtc(time).getTime() - time.offset * 1000))

/** A time without a zone is one of the process's own. */
const localTimeOf = made(({ parts: [year, month, day, hour, minute, second], millisecond }) => {
  const date = new Date(2000, 0, 1)
  date.setFullYear(year, month, day)
  date.setHours(hour, minute, second, millisecond)
  return date
})

// What a row holds. Both drivers give each value as PostgreSQL's text of it, which becomes here what its type says,
// whatever the driver or the program's own pool would make of it.

export interface Column {
  readonly name: string
  /** The type's number in the database. */
  readonly type: number
}

/** A value's text, or the bytes of that. */
export type Wire = string | Uint8Array | null

type Decode = (text: string) => unknown

/** Bytes as hexadecimal digits, or, by the older setting of `bytea_output`, as characters with octal escapes. */
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

/** By the type's number, with that of its arrays. Of all other types a value is its text. */
const known: readonly (readonly [type: number, arrays: number, decode: Decode])[] = [
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
  [18, 1002, asText], // "char"
  [19, 1003, asText], // name
  [25, 1009, asText], // text
  [1042, 1014, asText], // char(n)
  [1043, 1015, asText], // varchar(n)
  [1083, 1183, asText], // time
  [1186, 1187, asText], // interval
  [1266, 1270, asText], // timetz
  [1700, 1231, asText], // numeric
  [2950, 2951, asText], // uuid
  [869, 1041, asText], // inet
  [650, 651, asText], // cidr
]

const decoders: ReadonlyMap<number, Decode> = new Map(
  known.flatMap(([type, arrays, decode]) => [
    [type, decode] as const,
    [arrays, (text: string) => parseArray(text, decode)] as const,
  ]),
)

/** Rows of texts as objects by their columns' names. A loop by index: this is done for each value of each row. */
export const decodedRows = (
  columns: readonly Column[],
  rows: readonly (readonly (Wire | undefined)[])[],
): readonly Row[] => {
  const reads = columns.map(({ name, type }) => ({ name, decode: decoders.get(type) ?? asText }))
  const count = reads.length
  const decoded: Row[] = []
  // Not `map`, which keeps holes: postgres.js 3.4.9 goes on counting rows where it was when a statement failed, or its
  // connection was lost, and the next result begins with as many holes.
  rows.forEach((wires) => {
    const row: Record<string, unknown> = {}
    // Counted: an iterator for each row costs as much as the rest.
    for (let index = 0; index < count; index += 1) {
      const { name, decode } = reads[index] as (typeof reads)[number]
      const wire = wires[index] ?? null
      row[name] = wire === null ? null : decode(wire.toString())
    }
    decoded.push(row)
  })
  return decoded
}

// Moments of time as values that cannot be changed. Locking a `Date` takes longer than all else of a row: of rows that
// are read again and again, the last ones are kept, each in the place that its milliseconds give it.

const PLACES = 1024

const kept: Date[] = []

/** Milliseconds since 1970, or an ISO 8601 date, as a `Date` whose setters throw. */
export const moment = (time: string | number): Date => {
  const date = new Date(time)
  const slot = date.getTime() & (PLACES - 1)
  const known = kept[slot]
  if (known?.getTime() === date.getTime()) return known
  kept[slot] = date
  return deepFreeze(date)
}

// Quoted always: then only the quote and the backslash mean anything.
const arrayElement = (element: string | null): string =>
  element === null
    ? 'NULL'
    : element.includes('"') || element.includes('\\')
      ? `"${element.replaceAll(/["\\]/g, '\\$&')}"`
      : `"${element}"`

/** An array in PostgreSQL's text, of its elements' texts. */
export const arrayText = (elements: readonly (string | null)[]): string =>
  `{${elements.map(arrayElement).join()}}`

/** The same, of texts of JSON: those have no character that JSON would write in another way than the array. */
export const arrayOfJson = (elements: readonly (string | null)[]): string =>
  `{${elements.map((element) => (element === null ? 'NULL' : JSON.stringify(element))).join()}}`
