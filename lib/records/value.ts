// Makes and edits records. A record is a frozen object with the handle, the id and the columns. Its hidden state has
// the row as it was read, and the edits since then. A spread does not copy this state, so the copy is not a record.

import { isDeepStrictEqual } from 'node:util'
import { applyEdit, composeEdit, type Edit, type Edits, setTo, updatedBy } from '../core/edits.js'
import { EncodeError } from '../core/errors.js'
import { deepFreeze } from '../core/json.js'
import { HashMap, O } from '../core/prelude.cjs'
import { type ActiveRecord, withStore } from '../core/session.js'
import type { Database, Row } from '../db/database.js'
import type { Session } from '../store/contract.js'
import { idFrom, normalised, type Shape } from './table.js'

type AnyRecord = { readonly handle: Database }

export type AnyActive = ActiveRecord<Database, unknown>

export interface State {
  readonly shape: Shape
  /** The values in the order of the fields. A value that the database has not generated yet is `undefined`. */
  readonly values: readonly unknown[]
  /** The row as it was last read, or `undefined` before the first save. */
  readonly row: Row | undefined
  /** The edits since the row was read. */
  readonly edits: Edits<unknown>
}

/** A class whose constructor returns its argument, so that a subclass can add a private field to the argument. */
// eslint-disable-next-line @typescript-eslint/no-extraneous-class
class Given {
  constructor(value: object) {
    // biome-ignore lint/correctness/noConstructorReturn: the purpose of the class
    return value
  }
}

// The state of a record is a private field, which no code outside of this class can read. A WeakMap would also hide the
// state. But a private field costs less than an entry of a WeakMap, and there is a record for each row of a result.
class Stamped extends Given {
  readonly #state: State

  constructor(record: object, state: State) {
    super(record)
    this.#state = state
  }

  static stateOf(record: object): State | undefined {
    return #state in record ? record.#state : undefined
  }
}

/** Returns the state of a record of this table. Throws a `TypeError` for any other object. */
export const stateIn = (shape: Shape, record: object): State => {
  const state = Stamped.stateOf(record)
  if (state?.shape === shape) return state
  throw new TypeError(
    state === undefined
      ? `this is not a record of ${shape.table}: was it copied by a spread, or made by hand?`
      : `a record of ${state.shape.table} was given for one of ${shape.table}`,
  )
}

/** Returns the id of a row with these values, or `undefined` if the database has not generated the id yet. */
const idOf = (shape: Shape, values: readonly unknown[]): unknown => {
  const parts = shape.key.map(({ index }) => values[index])
  return parts.includes(undefined) ? undefined : idFrom(shape, parts)
}

export const makeRecord = (handle: Database, state: State): AnyActive => {
  const { shape, values } = state
  const record: Record<string, unknown> = {}
  for (const { name, index } of shape.fields) {
    const value = values[index]
    if (value === undefined) continue
    if (name === '__proto__') Object.defineProperty(record, name, { value, enumerable: true })
    else record[name] = value
  }
  // The handle is not enumerable, so that a printed, compared or spread record shows only its data.
  Object.defineProperty(record, 'handle', { value: handle })
  const id = idOf(shape, values)
  if (id !== undefined && !(shape.simple && shape.key[0]?.name === 'id'))
    Object.defineProperty(record, 'id', { value: id })
  new Stamped(record, state)
  return Object.freeze(record) as unknown as AnyActive
}

type Editor = <R extends AnyRecord>(record: R) => R

const edited = <R extends AnyRecord>(
  shape: Shape,
  record: R,
  name: string,
  edit: (present: unknown, index: number) => Edit<unknown> | undefined,
): R => {
  const state = stateIn(shape, record)
  const field = shape.settable.get(name)
  if (field === undefined)
    throw new EncodeError(name, [], `${shape.table} has no such column that can be set`)
  const present = state.values[field.index]
  if (present === undefined) throw new EncodeError(name, [], 'the database generates it at the first save')
  const next = edit(present, field.index)
  if (next === undefined) return record
  const value = O.toUndefined(applyEdit(next, O.some(present)))
  const composed = composeEdit(state.edits.get(name), next)
  // A new record is inserted with all its values, so its edits are not recorded.
  const edits = state.row === undefined ? state.edits : state.edits.set(name, composed)
  return makeRecord(record.handle, {
    ...state,
    edits,
    values: state.values.with(field.index, value),
  }) as unknown as R
}

export const setColumn = (shape: Shape, name: string, value: unknown): Editor => {
  const field = shape.settable.get(name)
  const normal = field === undefined ? undefined : normalised(name, field.type, value)
  return (record) =>
    edited(shape, record, name, (present) => (isDeepStrictEqual(present, normal) ? undefined : setTo(normal)))
}

export const updateColumn = (shape: Shape, name: string, f: (value: unknown) => unknown): Editor => {
  const field = shape.settable.get(name)
  const step = (value: O.Option<unknown>): unknown =>
    field === undefined ? undefined : normalised(name, field.type, f(deepFreeze(O.toUndefined(value))))
  return (record) => edited(shape, record, name, () => updatedBy(step))
}

/** Makes a new record. Throws an `EncodeError` that names the first column with an invalid value. */
export const buildRecord = (shape: Shape, handle: Database, given: object): AnyActive => {
  for (const name of Object.keys(given)) {
    const field = shape.fields.find((field) => field.name === name)
    if (field === undefined) throw new EncodeError(name, [], `${shape.table} has no such column`)
    if (field.generated) throw new EncodeError(name, [], 'the database generates it at the first save')
  }
  const values = shape.fields.map(({ name, type, generated }) =>
    generated
      ? undefined
      : normalised(name, type, Object.hasOwn(given, name) ? given[name as keyof typeof given] : undefined),
  )
  return makeRecord(handle, { shape, values, row: undefined, edits: HashMap() })
}

/**
 * `withHandle(handle)(record)` returns the record or session with another handle: a transaction, or a database. If the
 * handle is a transaction, operations on the record or session are part of this transaction. If these operations change
 * the current session, code outside of the transaction sees the change only after the commit. `updateCurrentSession`
 * and similar functions use the running transaction without `withHandle`.
 *
 * Throws a `TypeError` for any value but a record or session, and for a session whose store is not in a database.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionSet } from 'keyrow'
 * import { transact, withHandle } from 'keyrow/records'
 * import { sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const session = sessionSet('theme', 'dark')(buildSession(sessionStore(database)))
 * const result = transact(database, (tx) =>
 *   pipe(saveSession(withHandle(tx)(session)), TE.map(withHandle(database))),
 * )
 * console.log((await result())._tag) // Right
 * await database.close()
 * ```
 */
export const withHandle =
  (handle: Database) =>
  <R extends { readonly handle: Database } | Session>(record: R): R => {
    const state = Stamped.stateOf(record)
    if (state !== undefined) return makeRecord(handle, state) as unknown as R
    const session = record as Session
    const { using } = session.handle
    if (using === undefined)
      throw new TypeError('withHandle: neither a record, nor a session whose store is in a database')
    return withStore(session, using(handle)) as R
  }
