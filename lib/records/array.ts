// Array columns. They are written as PostgreSQL's text of an array, and read as JSON.
import * as t from 'io-ts'
import { problemsOf } from '../core/key.js'
import { arrayText } from '../db/text-format.js'
import type { Column } from './column.js'

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
  return Object.freeze({
    sql: `${of.sql}[]`,
    codec: new t.Type<readonly A[], string>(`array of ${codec.name}`, is, elementsOf(of), encode),
    wire: (values: readonly A[]) => values.map((value) => of.wire(value)),
    read: of.readArray,
    readArray: of.readArray,
  })
}
