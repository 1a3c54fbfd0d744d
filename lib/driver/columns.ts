// What the drivers return for a type differs; here it becomes the same, by the type's number.
import type { Row } from '../port/database.js'

const BYTEA = 17
const INT8 = 20

type Convert = (value: unknown) => unknown

const converters: Readonly<Record<number, Convert>> = {
  [INT8]: (value) => (value === null ? null : BigInt(value as string | number | bigint)),
  // A Buffer is a Uint8Array of its own class, often a window on a larger one.
  [BYTEA]: (value) => (value instanceof Uint8Array ? Uint8Array.from(value) : value),
}

export interface Column {
  readonly name: string
  readonly type: number
}

/** The rows with the values of `int8` and `bytea` columns converted; the very same rows when there are none. */
export const convertRows = (columns: readonly Column[], rows: readonly Row[]): readonly Row[] => {
  if (!columns.some(({ type }) => type === INT8 || type === BYTEA)) return rows
  const converted = columns.flatMap(({ name, type }) => {
    const convert = converters[type]
    return convert === undefined ? [] : [{ name, convert }]
  })
  return rows.map((row) => convertRow(converted, row))
}

const convertRow = (
  columns: readonly { readonly name: string; readonly convert: Convert }[],
  row: Row,
): Row => ({
  ...row,
  ...Object.fromEntries(columns.map(({ name, convert }) => [name, convert(row[name])])),
})
