// Records as values: what a program sees is the handle, the id and the columns, frozen; what its table was known to
// hold, and what was done since, is kept apart, and goes from value to value through the functions here alone.
import { isDeepStrictEqual } from 'node:util'
import * as O from 'fp-ts/lib/Option.js'
import { Map as HashMap } from 'immutable'
import type { ActiveRecord } from '../core/active-record.js'
import { applyEdit, composeEdit, type Edit, type Edits, setTo, updatedBy } from '../core/edits.js'
import { EncodeError } from '../core/errors.js'
import { deepFreeze } from '../core/json.js'
import { withStore } from '../core/session.js'
import type { Database, Row } from '../db/database.js'
import type { Session } from '../store/contract.js'
import { normalised, type Shape } from './table.js'

type AnyRecord = { readonly handle: Database }

export interface State {
  readonly shape: Shape
  /** By the fields' indices; `undefined` for what the database has yet to make. */
  readonly values: readonly unknown[]
  /** The row as it was last read; none before the first save. */
  readonly row: Row | undefined
  /** What was done since. */
  readonly edits: Edits<unknown>
}

/** Gives back what it is called with, so that a class can put a private field on it. */
// eslint-disable-next-line @typescript-eslint/no-extraneous-class
class Given {
  constructor(value: object) {
    // biome-ignore lint/correctness/noConstructorReturn: that is what it is for
    return value
  }
}

// A private field of the very object: nobody else can see it, and unlike a WeakMap's entries it costs the garbage
// collector nothing, where every row of every result is such an object.
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

const stateOf = (record: object): State | undefined => Stamped.stateOf(record)

/** The state of a record of this table; throws a `TypeError` for what is none. */
export const stateIn = (shape: Shape, record: object): State => {
  const state = stateOf(record)
  if (state?.shape === shape) return state
  throw new TypeError(
    state === undefined
      ? `this is no record of ${shape.table}: was it copied by a spread, or made by hand?`
      : `a record of ${state.shape.table} was given for one of ${shape.table}`,
  )
}

const hidden = (value: object, name: string, content: unknown): unknown =>
  Object.defineProperty(value, name, { value: content })

/** The id of a row with these values: of a single key its value, of a key of several columns an object of them. */
const idOf = ({ key, simple }: Shape, values: readonly unknown[]): unknown => {
  const parts = key.map(({ index }) => values[index])
  if (parts.includes(undefined)) return undefined
  return simple
    ? parts[0]
    : Object.freeze(Object.fromEntries(key.map(({ name }, index) => [name, parts[index]])))
}

export const makeRecord = (handle: Database, state: State): ActiveRecord<Database, unknown> => {
  const { shape, values } = state
  const record: Record<string, unknown> = {}
  for (const { name, index } of shape.fields) {
    const value = values[index]
    if (value === undefined) continue
    if (name === '__proto__') Object.defineProperty(record, name, { value, enumerable: true })
    else record[name] = value
  }
  // Neither shows when a record is printed, compared or spread: a handle is no data.
  hidden(record, 'handle', handle)
  const id = idOf(shape, values)
  if (id !== undefined && !(shape.simple && shape.key[0]?.name === 'id')) hidden(record, 'id', id)
  new Stamped(record, state)
  return Object.freeze(record) as unknown as ActiveRecord<Database, unknown>
}

/** The same record through another handle. */
const rehandled = (handle: Database, state: State): ActiveRecord<Database, unknown> =>
  makeRecord(handle, state)

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
  if (present === undefined) throw new EncodeError(name, [], 'the database makes it at the first save')
  const next = edit(present, field.index)
  if (next === undefined) return record
  const value = O.toUndefined(applyEdit(next, O.some(present)))
  const composed = composeEdit(state.edits.get(name), next)
  // A new record is inserted as it is: what was done to it is of no interest.
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

/** The columns of a new record, checked one by one; throws an `EncodeError` that names the first that does not fit. */
export const buildRecord = (
  shape: Shape,
  handle: Database,
  given: object,
): ActiveRecord<Database, unknown> => {
  for (const name of Object.keys(given)) {
    const field = shape.fields.find((field) => field.name === name)
    if (field === undefined) throw new EncodeError(name, [], `${shape.table} has no such column`)
    if (field.generated) throw new EncodeError(name, [], 'the database makes it at the first save')
  }
  const values = shape.fields.map(({ name, type, generated }) =>
    generated
      ? undefined
      : normalised(name, type, Object.hasOwn(given, name) ? given[name as keyof typeof given] : undefined),
  )
  return makeRecord(handle, { shape, values, row: undefined, edits: HashMap() })
}

// The same record through another handle: a transaction's, or, after it, the database's own again.

/**
 * The same record, or session, through another handle of its database: what is done to it then is part of that
 * transaction, and only a commit is told to the current session. The current session itself needs no other handle. Throws a `TypeError` for what is neither, and for a
 * session whose store is not in a database.
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
 *   pipe(
 *     saveSession(withHandle(tx)(session)),
 *     TE.map(withHandle(database)),
 *   ),
 * )
 * console.log((await result())._tag) // Right
 * await database.close()
 * ```
 */
export const withHandle =
  (handle: Database) =>
  <R extends { readonly handle: Database } | Session>(record: R): R => {
    const state = stateOf(record)
    if (state !== undefined) return rehandled(handle, state) as unknown as R
    const session = record as Session
    const { using: over } = session.handle
    if (over === undefined)
      throw new TypeError('withHandle: neither a record, nor a session whose store is in a database')
    return withStore(session, over(handle)) as R
  }
