// What a row holds. Both drivers give each value as PostgreSQL's text of it, which becomes here what its type says,
// whatever the driver or the program's own pool would make of it.
import { parse as parseArray } from 'postgres-array'
import type { Row } from '../port/database.js'
import { dateOf, localTimeOf, momentOf } from './times.js'

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
