// Relations: the records that hang from one parent, or from many of them, by one statement made at its definition.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type DecodeError, DriverError, type EncodeError } from '../base/errors.js'
import { type Database, type Param, PLACE, type Query, type Row } from '../port/database.js'
import { runReadCommitted } from '../port/read-committed.js'
import type { ActiveRecord } from '../record/active-record.js'
import { array } from '../record/array.js'
import type { AnyColumn, Column } from '../record/column.js'
import { recordIn } from './save.js'
import { attempt, encode, type Field, type Shape } from './shape.js'
import { ASKED, selectEach } from './statements.js'

type AnyActive = ActiveRecord<Database, unknown>

/** Keys as parameters, one array for each of the key's columns; throws an `EncodeError`. */
export const arrayParams = (
  columns: readonly (readonly [string, AnyColumn])[],
  keys: readonly (readonly unknown[])[],
): readonly Param[] =>
  columns.map(([name, type], index) =>
    encode(
      name,
      array(type as Column<unknown>),
      keys.map((key) => key[index]),
    ),
  )

/** Rows with their place in what was asked for: by that place, from 0. */
export const grouped = (
  shape: Shape,
  handle: Database,
  rows: readonly Row[],
  count: number,
): E.Either<DecodeError, readonly (readonly AnyActive[])[]> => {
  const groups: AnyActive[][] = Array.from({ length: count }, () => [])
  for (const [place, row] of rows.entries()) {
    const record = recordIn(shape, handle, row, place)
    if (E.isLeft(record)) return record
    groups[Number(row[PLACE]) - 1]?.push(record.right)
  }
  return E.right(groups)
}

/** The query of a relation by a column of the records' own table. */
export const byColumn = (shape: Shape, field: Field): Query => ({
  name: `${shape.table}.by.${field.name}`,
  text: selectEach(
    shape,
    [field.type],
    `join ${shape.from} on ${shape.from}.${field.column} = ${ASKED}.k0`,
    inOrder(shape),
  ),
})

/** The query of a relation through another table. */
export const throughTable = (shape: Shape, between: Shape, parent: Field, own: Field): Query => ({
  name: `${shape.table}.through.${between.table}`,
  text: selectEach(
    shape,
    [parent.type],
    `join ${between.from} on ${between.from}.${parent.column} = ${ASKED}.k0
join ${shape.from} on ${shape.from}.${String(shape.key[0]?.column)} = ${between.from}.${own.column}`,
    inOrder(shape),
  ),
})

const inOrder = ({ key, from }: Shape): string =>
  [`${ASKED}.n`, ...key.map(({ column }) => `${from}.${column}`)].join(', ')

type Each = TE.TaskEither<DriverError | DecodeError, readonly (readonly [AnyActive, readonly AnyActive[]])[]>

export const relation = (shape: Shape, query: Query, field: Field) => {
  const each = (parents: readonly AnyActive[]): Each => {
    const [first] = parents
    if (first === undefined) return TE.right([])
    return pipe(
      TE.fromEither(
        attempt(() =>
          arrayParams(
            [[field.name, field.type]],
            parents.map(({ id }) => [id]),
          ),
        ),
      ),
      TE.mapLeft(asDriverError),
      TE.chainW((params) => runReadCommitted(first.handle, query, params)),
      TE.chainEitherKW((rows) => grouped(shape, first.handle, rows, parents.length)),
      TE.map((groups) => parents.map((parent, index) => [parent, groups[index] ?? []] as const)),
    )
  }
  const one = (parent: AnyActive): TE.TaskEither<DriverError | DecodeError, readonly AnyActive[]> =>
    pipe(
      each([parent]),
      TE.map(([found]) => found?.[1] ?? []),
    )
  return Object.freeze(Object.assign(one, { each }))
}

// A parent's id that no such column can hold: an untyped caller's.
const asDriverError = (error: EncodeError): DriverError =>
  new DriverError(error.message, { retryable: false, effect: 'none', cause: error })
