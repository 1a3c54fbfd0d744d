// A database in which statements alike share one: many a `find` of a record, many a `save` of one column.
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../core/errors.js'
import { type BatchOptions, batchQueue, limitsOf } from './batch-queue.js'
import { type BatchableQuery, type Database, ORDINAL, type Param, type Query, type Row } from './database.js'
import { arrayText, paramText } from './text-format.js'

type Params = readonly Param[]
type Rows = E.Either<DriverError, readonly Row[]>

/**
 * The same database, in which statements that have an `each` share one when they arrive together: the `find` of a
 * record of yours, and the `save` of one column of it. A lone one is sent as before, and waits for nothing. Each gets
 * its own result or its own error; one whose row is locked by somebody else waits for it alone. What is in a
 * transaction is sent one by one. When more wait than `queue` allows, the next fails at once with a retryable
 * `DriverError`. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { int8, queryMany, record, sql, text } from 'keyrow/records'
 * import { batchedDatabase } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 * import * as t from 'io-ts'
 *
 * const database = batchedDatabase(pgliteDatabase())
 * const notes = record({ table: 'notes', key: 'id', columns: { id: int8, title: text } })
 * await queryMany(database, t.unknown, sql`create table notes (id int8 primary key, title text)`)()
 * const [one, two] = [notes.id('1'), notes.id('2')]
 * if (one._tag === 'Right' && two._tag === 'Right') {
 *   const found = await Promise.all([one, two].map(({ right }) => notes.find(database, right)())) // one statement
 *   console.log(found.length) // 2
 * }
 * await database.close()
 * ```
 */
export const batchedDatabase = (database: Database, options: BatchOptions = {}): Database => {
  const limits = limitsOf(options)
  const lines = new WeakMap<Query, (params: Params) => Promise<Rows>>()
  const queueOf = (query: Query, each: BatchableQuery) => {
    const queue = lines.get(query) ?? queueIn(database, query, each, limits)
    lines.set(query, queue)
    return queue
  }
  return {
    ...database,
    query: (query, params) =>
      query.batchable === undefined
        ? database.query(query, params)
        : () => queueOf(query, query.batchable as BatchableQuery)(params),
  }
}

const queueIn = (
  database: Database,
  query: Query,
  each: BatchableQuery,
  limits: Required<BatchOptions>,
): ((params: Params) => Promise<Rows>) => {
  const { keyParams } = each
  const one = (params: Params): Promise<Rows> => database.query(query, params)()
  let unfit = false
  const ask = batchQueue({
    what: query.name,
    limits,
    misuse: database.misuse,
    all: async (items: readonly Params[]) => {
      const rows = await database.query(each, arraysOf(items))()
      if (E.isLeft(rows) && isUnfit(rows.left)) unfit = true
      return E.isLeft(rows) ? rows : E.right(byPlace(rows.right, items.length, keyParams !== undefined))
    },
    one,
    sizeOf: (params) => params.reduce<number>((size, param) => size + String(param).length, 0),
    ...(keyParams === undefined
      ? {}
      : { lock: (params: Params) => arrayText(params.slice(0, keyParams).map(paramText)) }),
  })
  return (params) => (unfit ? one(params) : ask(params))
}

// What not every database can do: Citus cannot, nor a view that is not as simple as a table.
const UNFIT = /^(0A000|42703|42809|55000)$/

// A prepared statement whose result has changed has the same SQLSTATE, and may be tried again.
const isUnfit = ({ sqlState, retryable }: DriverError): boolean => !retryable && UNFIT.test(sqlState ?? '')

/** An array for each parameter. */
const arraysOf = (items: readonly Params[]): Params =>
  (items[0] ?? []).map((_, index) => arrayText(items.map((params) => paramText(params[index] ?? null))))

/** The rows of each; `undefined` for one who has none, if he must ask by himself then. */
const byPlace = (
  rows: readonly Row[],
  count: number,
  mustHave: boolean,
): readonly (readonly Row[] | undefined)[] => {
  const found: Row[][] = Array.from({ length: count }, () => [])
  for (const row of rows) found[Number(row[ORDINAL]) - 1]?.push(row)
  return mustHave ? found.map((own) => (own.length === 0 ? undefined : own)) : found
}
