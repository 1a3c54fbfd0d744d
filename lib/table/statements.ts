// The statements of a record's table, each made whole once, when the record is defined. Parameters are text, cast to
// their columns' types; a row's columns are asked for by names that no pool renames.
//
// Why a save loses nothing: it writes the edited columns alone. Where a new value was computed from the present one,
// or the record has a revision, it is guarded: the row must still be as it was read. If it is not, it is locked,
// looked at, and then written.
import type { Query } from '../port/database.js'
import type { AnyColumn } from '../record/column.js'
import type { Field, Shape } from './shape.js'

export interface RecordStatements {
  readonly insert: Query
  readonly find: Query
  readonly findMany: Query
  readonly lock: Query
  readonly destroy: Query
  /** Sets one column, by its name: at once, or guarded. */
  readonly set: ReadonlyMap<string, Query>
  readonly swap: ReadonlyMap<string, Query>
  /** Sets any of the columns. */
  readonly setAny: Query
  readonly swapAny: Query
}

/** What selects a record from its table, or from an alias of it. */
export const rowFrom = ({ fields }: Shape, from: string): string =>
  fields.map(({ column, alias, type }) => `${type.read(`${from}.${column}`)} as "${alias}"`).join(', ')

const cast = (position: number, { sql }: AnyColumn): string => `$${String(position)}::text::${sql}`

const byKey = ({ key, from }: Shape): string =>
  key.map(({ column, type }, index) => `${from}.${column} = ${cast(index + 1, type)}`).join(' and ')

const insert = (shape: Shape): string => {
  const given = shape.fields.filter(({ generated }) => !generated)
  const values = given.map(({ type }, index) => cast(index + 1, type))
  const what =
    given.length === 0
      ? 'default values'
      : `(${given.map(({ column }) => column).join(', ')})\nvalues (${values.join(', ')})`
  return `insert into ${shape.from} ${what}\nreturning ${rowFrom(shape, shape.from)}`
}

const select = (shape: Shape): string =>
  `select ${rowFrom(shape, shape.from)}\nfrom ${shape.from}\nwhere ${byKey(shape)}`

/** What counts the keys that rows were asked for by, from 1. */
export const PLACE = '0 place'

/** Rows for many keys at once. */
export const selectEach = (shape: Shape, keys: readonly AnyColumn[], join: string, order: string): string => {
  const arrays = keys.map(({ sql }, index) => `$${String(index + 1)}::text::${sql}[]`)
  const names = keys.map((_, index) => `k${String(index)}`)
  return `select k.n::float8 as "${PLACE}", ${rowFrom(shape, shape.from)}
from unnest(${arrays.join(', ')}) with ordinality as k (${[...names, 'n'].join(', ')})
${join}
order by ${order}`
}

const selectMany = (shape: Shape): string => {
  const on = shape.key.map(({ column }, index) => `${shape.from}.${column} = k.k${String(index)}`)
  const keys = shape.key.map(({ type }) => type)
  return selectEach(shape, keys, `join ${shape.from} on ${on.join(' and ')}`, 'k.n')
}

const raised = ({ revision }: Shape): readonly string[] =>
  revision === undefined ? [] : [`${revision.column} = ${revision.column} + 1`]

const update = (shape: Shape, sets: readonly string[], guards: readonly string[]): string =>
  `update ${shape.from}
set ${[...sets, ...raised(shape)].join(', ')}
where ${[byKey(shape), ...guards].join(' and ')}
returning ${rowFrom(shape, shape.from)}`

// $… key, value, and for the guard the revision or the value that was read
const setOne = (shape: Shape, { column, type }: Field, guarded: boolean): string => {
  const first = shape.key.length + 1
  const { revision } = shape
  const guard =
    revision === undefined
      ? `${shape.from}.${column} is not distinct from ${cast(first + 1, type)}`
      : `${shape.from}.${revision.column} = ${cast(first + 1, revision.type)}`
  return update(shape, [`${column} = ${cast(first, type)}`], guarded ? [guard] : [])
}

// $… key, for each column whether it is set and its value; and for the guard the revision, or for each column
// whether it is guarded and the value that was read
const setAny = (shape: Shape, guarded: boolean): string => {
  const { revision } = shape
  const fields = [...shape.settable.values()]
  const place = (index: number): number => shape.key.length + 1 + 2 * index
  const flag = (position: number): string => `$${String(position)}::boolean`
  const sets = fields.map(
    ({ column, type }, index) =>
      `${column} = case when ${flag(place(index))} then ${cast(place(index) + 1, type)} else ${shape.from}.${column} end`,
  )
  const last = place(fields.length)
  const guards =
    revision === undefined
      ? fields.map(
          ({ column, type }, index) =>
            `(not ${flag(last + 2 * index)} or ${shape.from}.${column} is not distinct from ${cast(last + 2 * index + 1, type)})`,
        )
      : [`${shape.from}.${revision.column} = ${cast(last, revision.type)}`]
  return update(shape, sets, guarded ? guards : [])
}

export const recordStatements = (shape: Shape): RecordStatements => {
  const named = (name: string, text: string): Query => Object.freeze({ name: `${shape.table}.${name}`, text })
  const eachSettable = (name: string, text: (field: Field) => string): ReadonlyMap<string, Query> =>
    new Map([...shape.settable].map(([column, field]) => [column, named(`${name}.${column}`, text(field))]))
  return {
    insert: named('insert', insert(shape)),
    find: named('find', select(shape)),
    findMany: named('findMany', selectMany(shape)),
    lock: named('lock', `${select(shape)}\nfor update`),
    destroy: named('destroy', `delete from ${shape.from}\nwhere ${byKey(shape)}`),
    set: eachSettable('set', (field) => setOne(shape, field, false)),
    swap: eachSettable('swap', (field) => setOne(shape, field, true)),
    setAny: named('setAny', shape.settable.size === 0 ? select(shape) : setAny(shape, false)),
    swapAny: named('swapAny', shape.settable.size === 0 ? select(shape) : setAny(shape, true)),
  }
}
