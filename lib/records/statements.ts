// Makes the SQL statements for a definition of records. Parameters are text, cast to the types of their columns.
//
// A guarded statement writes only if the revision is unchanged since the read. Without a revision column, the guard
// compares the guarded columns with their values at the read (see save.ts). This guard compares texts byte by byte,
// because some types have no `=`, and the `=` of many types treats different values as equal (`1 day` and `24:00:00`,
// 1.0 and 1.00, texts by collation).

import {
  type BatchableQuery,
  ON_PRIMARY,
  ONCE_ON_PRIMARY,
  ORDINAL,
  type Query,
  unnested,
} from '../db/database.js'
import type { AnyColumn } from './column.js'
import type { Field, Shape } from './table.js'

/**
 * The statement `set.title`, for example, sets only the column `title`. `setAny` sets any number of columns. The
 * statements whose names begin with `swap` are guarded.
 */
export interface RecordStatements extends Readonly<Record<string, Query>> {
  readonly insert: Query
  readonly find: Query
  readonly findMany: Query
  readonly lock: Query
  readonly destroy: Query
  readonly setAny: Query
  readonly swapAny: Query
}

/** Returns the select list that reads a record from its table, or from an alias of the table. */
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
  `select ${rowFrom(shape, shape.from)}\nfrom ${shape.from}\nwhere ${byKey(shape)} and ${ON_PRIMARY}`

/** The alias of the rows that `arrays` makes. It must differ from the names of the program's tables. */
export const SELECTED = '"00 keys"'

/** Turns array parameters, one for each column, into rows. */
const arrays = (columns: readonly Pick<AnyColumn, 'sql'>[]): string => {
  const texts = columns.map(({ sql }, index) => [`$${String(index + 1)}`, sql] as const)
  const names = columns.map((_, index) => `k${String(index)}`)
  return `${unnested(...texts)} with ordinality as ${SELECTED} (${[...names, 'n'].join(', ')})`
}

/** Selects the rows that `join` finds for each value of an array, ordered by the value's index and the row's key. */
export const selectEach = (shape: Shape, type: AnyColumn, join: string): string =>
  `select ${SELECTED}.n::float8 as "${ORDINAL}", ${rowFrom(shape, shape.from)}
from ${arrays([type])}
${join}
where ${ONCE_ON_PRIMARY}
order by ${[`${SELECTED}.n`, ...shape.key.map(({ column }) => `${shape.from}.${column}`)].join(', ')}`

/** Returns the condition that a column still has the text that was read. `wire` is the SQL expression for that text. */
const isAsRead = ({ column, type }: Field, from: string, wire: string): string =>
  `(${type.read(`${from}.${column}`)})::text collate "C" is not distinct from ${wire}`

const bySameKey = ({ key }: Shape, table: string): string =>
  key.map(({ column }, index) => `${table}.${column} = ${SELECTED}.k${String(index)}`).join(' and ')

// `lateral` with `limit` makes the planner look up each key in the index, instead of scanning a small table.
const selectMany = (shape: Shape): string => `select ${SELECTED}.n::float8 as "${ORDINAL}", r.*
from ${arrays(shape.key.map(({ type }) => type))} cross join lateral (
  select ${rowFrom(shape, shape.from)} from ${shape.from} where ${bySameKey(shape, shape.from)} limit 1
) as r
where ${ONCE_ON_PRIMARY}`

// Does the work of several `setOne` statements, with an array for each parameter. The statement skips locked rows, and
// rows that another save changes meanwhile (their `ctid` changes). Each skipped row is then saved alone.
const setEach = (shape: Shape, field: Field, guarded: boolean): string => {
  const { key, from, revision } = shape
  const value = (index: number): string => `${SELECTED}.k${String(key.length + index)}`
  const guard =
    revision === undefined
      ? { type: { sql: 'text' }, holds: isAsRead(field, from, value(1)) }
      : { type: revision.type, holds: `${from}.${revision.column} = ${value(1)}` }
  const types = [...[...key, field].map(({ type }) => type), ...(guarded ? [guard.type] : [])]
  return `update ${from}
set ${[`${field.column} = ${value(0)}`, ...raised(shape)].join(', ')}
from (
  select ${SELECTED}.*, t.at
  from ${arrays(types)} cross join lateral (
    select t.ctid as at from ${from} as t where ${bySameKey(shape, 't')} limit 1 for no key update skip locked
  ) as t
) as ${SELECTED}
where ${[bySameKey(shape, from), `${from}.ctid = ${SELECTED}.at`, ...(guarded ? [guard.holds] : [])].join(' and ')}
returning ${SELECTED}.n::float8 as "${ORDINAL}", ${rowFrom(shape, from)}`
}

const raised = ({ revision, from }: Shape): readonly string[] =>
  revision === undefined ? [] : [`${revision.column} = ${from}.${revision.column} + 1`]

const update = (shape: Shape, sets: readonly string[], guards: readonly string[]): string =>
  `update ${shape.from}
set ${[...sets, ...raised(shape)].join(', ')}
where ${[byKey(shape), ...guards].join(' and ')}
returning ${rowFrom(shape, shape.from)}`

// The parameters are the key and the new value. A guarded statement also has the revision or the text that was read.
const setOne = (shape: Shape, field: Field, guarded: boolean): string => {
  const { column, type } = field
  const first = shape.key.length + 1
  const { revision } = shape
  const guard =
    revision === undefined
      ? isAsRead(field, shape.from, `$${String(first + 1)}::text`)
      : `${shape.from}.${revision.column} = ${cast(first + 1, revision.type)}`
  return update(shape, [`${column} = ${cast(first, type)}`], guarded ? [guard] : [])
}

// The first parameters are the key. Two parameters for each column follow: whether the column is set, and its new
// value. A guarded statement then has the revision or, without a revision column, two more parameters for each column:
// whether the column is guarded, and the text that was read.
const setAny = (shape: Shape, guarded: boolean): string => {
  const { revision } = shape
  const fields = [...shape.settable.values()]
  const ordinal = (index: number): number => shape.key.length + 1 + 2 * index
  const flag = (position: number): string => `$${String(position)}::boolean`
  const sets = fields.map(
    ({ column, type }, index) =>
      `${column} = case when ${flag(ordinal(index))} then ${cast(ordinal(index) + 1, type)} else ${shape.from}.${column} end`,
  )
  const last = ordinal(fields.length)
  const guards =
    revision === undefined
      ? fields.map(
          (field, index) =>
            `(not ${flag(last + 2 * index)} or ${isAsRead(field, shape.from, `$${String(last + 2 * index + 1)}::text`)})`,
        )
      : [`${shape.from}.${revision.column} = ${cast(last, revision.type)}`]
  return update(shape, sets, guarded ? guards : [])
}

export const recordStatements = (shape: Shape): RecordStatements => {
  const namedQuery = (name: string, text: string): Query =>
    Object.freeze({ name: `${shape.table}.${name}`, text })
  const eachSettable = (kind: 'set' | 'swap') =>
    [...shape.settable].map(([column, field]): readonly [string, Query] => {
      const name = `${kind}.${column}`
      const one = namedQuery(name, setOne(shape, field, kind === 'swap'))
      // A batch needs an array for each column, and PostgreSQL has no arrays of arrays. So a statement with an array
      // column cannot be batched.
      if ([...shape.key, field].some(({ type }) => type.sql.endsWith('[]'))) return [name, one]
      const batchable: BatchableQuery = Object.freeze({
        ...namedQuery(`${name}.each`, setEach(shape, field, kind === 'swap')),
        keyParams: shape.key.length,
      })
      return [name, Object.freeze({ ...one, batchable })]
    })
  const findMany = namedQuery('findMany', selectMany(shape))
  return Object.freeze({
    insert: namedQuery('insert', insert(shape)),
    find: Object.freeze({ ...namedQuery('find', select(shape)), batchable: findMany }),
    findMany,
    lock: namedQuery('lock', `${select(shape)}\nfor update`),
    destroy: namedQuery('destroy', `delete from ${shape.from}\nwhere ${byKey(shape)}`),
    setAny: namedQuery('setAny', shape.settable.size === 0 ? select(shape) : setAny(shape, false)),
    swapAny: namedQuery('swapAny', shape.settable.size === 0 ? select(shape) : setAny(shape, true)),
    ...Object.fromEntries([...eachSettable('set'), ...eachSettable('swap')]),
  })
}
