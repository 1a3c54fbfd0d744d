// Saves the edited columns of a record with one statement. The statement is guarded if the record has a revision
// column, or if one of the edits is an `Update`. With a revision column, a guarded statement writes only if the
// revision is unchanged since the read. Without a revision column, it writes only if the columns with an `Update` are
// unchanged. If a guarded statement writes nothing, a transaction locks the row, applies the edits to the current
// values, and writes the results. For a record with a revision column, this transaction fails with `SaveConflict` if
// the column of a `Set` edit has changed since the read.

import { isDeepStrictEqual } from 'node:util'
import { applyEdit, type Edits, hasUpdates } from '../core/edits.js'
import {
  type DecodeError,
  type DriverError,
  type EncodeError,
  type RecordError,
  RecordGone,
  SaveConflict,
  tagged,
} from '../core/errors.js'
import { A, E, HashMap, O, pipe, TE } from '../core/prelude.cjs'
import { type Database, type Param, type Row, runReadCommitted } from '../db/database.js'
import { paramText } from '../db/text-format.js'
import type { RecordStatements } from './statements.js'
import { attempt, decodeRow, type Field, keyValues, type Shape, textOf } from './table.js'
import { type AnyActive, makeRecord, type State, stateIn } from './value.js'

export interface Table {
  readonly shape: Shape
  readonly sql: RecordStatements
}

const textAt = (field: Field, values: readonly unknown[]): string | null => textOf(field, values[field.index])

const keyOf = ({ key }: Shape, values: readonly unknown[]): readonly (string | null)[] =>
  key.map((field) => textAt(field, values))

const idText = (shape: Shape, values: readonly unknown[]): string => keyOf(shape, values).join(', ')

/** Decodes a row of a result to a record. `ordinal` is the row's index in the result. */
export const recordIn = (shape: Shape, handle: Database, row: Row, ordinal?: number) =>
  pipe(
    decodeRow(shape, row, ordinal),
    E.map((values) => makeRecord(handle, { shape, values, row, edits: HashMap() })),
  )

const gone = ({ shape, values }: State): RecordGone => new RecordGone(shape.table, idText(shape, values))

export const saveRecord = (table: Table, record: AnyActive): TE.TaskEither<RecordError, AnyActive> => {
  const state = stateIn(table.shape, record)
  if (state.row === undefined) return insert(table, record.handle, state)
  return state.edits.isEmpty() ? TE.right(record) : tagged(update(table, record.handle, state))
}

const insert = ({ shape, sql }: Table, handle: Database, { values }: State) => {
  const given = shape.fields.filter(({ generated }) => !generated)
  return pipe(
    runReadCommitted(
      handle,
      sql.insert,
      given.map((field) => textAt(field, values)),
    ),
    TE.chainEitherKW(([row]) => recordIn(shape, handle, row ?? {})),
  )
}

// `update` and `findRecord` are `async` functions, since a `pipe` for each record would slow down a busy program.
const update =
  (table: Table, handle: Database, state: State): TE.TaskEither<RecordError, AnyActive> =>
  async () => {
    const { shape } = table
    const guarded = shape.revision !== undefined || hasUpdates(state.edits)
    const written = await write(table, handle, state, state.values, guarded)()
    if (E.isLeft(written)) return written
    if (O.isSome(written.right)) return recordIn(shape, handle, written.right.value)
    if (!guarded) return E.left(gone(state))
    const row = await handle.transaction((tx) => lockAndReapply(table, tx, state))()
    return E.isLeft(row) ? row : recordIn(shape, handle, row.right)
  }

/** Writes the edited columns, and returns the new row. Returns `None` if the row is missing or the guard is false. */
const write = (
  { shape, sql }: Table,
  handle: Database,
  { edits, values: read, row }: State,
  values: readonly unknown[],
  guarded: boolean,
): TE.TaskEither<DriverError, O.Option<Row>> => {
  const key = keyOf(shape, read)
  const guard = ({ alias }: Field): Param =>
    shape.revision === undefined ? paramText(row?.[alias] as Param) : textAt(shape.revision, read)
  const [only] = edits.keys()
  const field = edits.size === 1 && only !== undefined ? shape.settable.get(only) : undefined
  const kind = guarded ? 'swap' : 'set'
  const query = field === undefined ? sql[`${kind}Any`] : sql[`${kind}.${field.name}`]
  const params =
    field === undefined
      ? anyParams(shape, edits, values, guarded ? guard : undefined)
      : [textAt(field, values), ...(guarded ? [guard(field)] : [])]
  return pipe(runReadCommitted(handle, query ?? sql.setAny, [...key, ...params]), TE.map(A.head))
}

const anyParams = (
  shape: Shape,
  edits: Edits<unknown>,
  values: readonly unknown[],
  guard: ((field: Field) => Param) | undefined,
): readonly Param[] => {
  const fields = [...shape.settable.values()]
  const sets = fields.flatMap((field) =>
    edits.has(field.name) ? [true, textAt(field, values)] : [false, null],
  )
  if (guard === undefined) return sets
  if (shape.revision !== undefined) return [...sets, guard(shape.revision)]
  const guards = fields.flatMap((field) =>
    edits.get(field.name)?._tag === 'Update' ? [true, guard(field)] : [false, null],
  )
  return [...sets, ...guards]
}

/** Locks the row, applies the edits to its current values, and writes the results. */
const lockAndReapply = (table: Table, tx: Database, state: State): TE.TaskEither<RecordError, Row> => {
  const { shape, sql } = table
  return pipe(
    tx.query(sql.lock, keyOf(shape, state.values)),
    TE.chainEitherKW((rows) => reapplied(shape, state, rows)),
    TE.chainW(({ values }) => write(table, tx, state, values, false)),
    TE.chainW(TE.fromOption(() => gone(state))),
  )
}

/** Applies the edits of `state` to the values of the current row, and returns the new state. */
const reapplied = (
  shape: Shape,
  state: State,
  [row]: readonly Row[],
): E.Either<DecodeError | SaveConflict | RecordGone, State> => {
  if (row === undefined) return E.left(gone(state))
  const present = decodeRow(shape, row)
  if (E.isLeft(present)) return present
  const values = [...present.right]
  for (const [name, edit] of state.edits) {
    const field = shape.settable.get(name)
    if (field === undefined) continue
    const changed = !isDeepStrictEqual(row[field.alias], state.row?.[field.alias])
    if (edit._tag === 'Set' && changed && shape.revision !== undefined)
      return E.left(new SaveConflict(idText(shape, state.values), name, shape.table))
    values[field.index] = O.toUndefined(applyEdit(edit, O.some(values[field.index])))
  }
  return E.right({ ...state, row, values })
}

export const findRecord = (
  { shape, sql }: Table,
  handle: Database,
  id: unknown,
): TE.TaskEither<DriverError | DecodeError | EncodeError, O.Option<AnyActive>> => {
  const parts = keyValues(shape, id)
  const key = attempt(() => shape.key.map((field, index) => textOf(field, parts[index])))
  return async () => {
    if (E.isLeft(key)) return key
    const rows = await runReadCommitted(handle, sql.find, key.right)()
    if (E.isLeft(rows)) return rows
    const [row] = rows.right
    return row === undefined ? E.right(O.none) : E.map(O.some<AnyActive>)(recordIn(shape, handle, row))
  }
}

export const refreshRecord = (table: Table, record: AnyActive): TE.TaskEither<RecordError, AnyActive> => {
  const { shape, sql } = table
  const state = stateIn(shape, record)
  if (state.row === undefined) return TE.right(record)
  return tagged(
    pipe(
      runReadCommitted(record.handle, sql.find, keyOf(shape, state.values)),
      TE.chainEitherKW((rows) => reapplied({ ...shape, revision: undefined }, state, rows)),
      TE.map((now) => makeRecord(record.handle, now)),
    ),
  )
}

export const destroyRecord = ({ shape, sql }: Table, record: AnyActive): TE.TaskEither<DriverError, void> => {
  const { row, values } = stateIn(shape, record)
  if (row === undefined) return TE.right(undefined)
  return TE.asUnit(runReadCommitted(record.handle, sql.destroy, keyOf(shape, values)))
}
