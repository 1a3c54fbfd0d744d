// Wraps a database so that it sends several statements of the same kind as one.

import type { DriverError } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { batchQueue, unmerged } from './batch-queue.js'
import { type BatchOptions, limitsOf } from './batch-scheduler.js'
import { type BatchableQuery, type Database, ORDINAL, type Param, type Query, type Row } from './database.js'
import { arrayText, paramText } from './text-format.js'

type Params = readonly Param[]
type Rows = E.Either<DriverError, readonly Row[]>

/**
 * Wraps a database so that concurrent statements of the same kind are sent as one statement. Only statements with a
 * `batchable` form are batched, such as the `find` of a record, or a `save` that sets one column. A statement that
 * arrives alone is sent at once. Each caller gets its own result or error. If the row of a statement is locked, keyrow
 * sends this statement again alone, and the statement waits for the lock. Statements in a transaction are not batched.
 * If `maxQueueSize` statements wait, the next one fails at once with a retryable `DriverError`.
 *
 * @throws `RangeError` for an option that is out of range
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
  const queues = new WeakMap<Query, (params: Params) => Promise<Rows>>()
  const queueOf = (query: Query, batchable: BatchableQuery) => {
    const queue = queues.get(query) ?? queueIn(database, query, batchable, limits)
    queues.set(query, queue)
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
  batchable: BatchableQuery,
  limits: Required<BatchOptions>,
): ((params: Params) => Promise<Rows>) => {
  const { keyParams } = batchable
  const one = (params: Params): Promise<Rows> => database.query(query, params)()
  let unsupported = false
  const request = batchQueue({
    what: query.name,
    limits,
    misuse: database.misuse,
    all: async (items: readonly Params[]) => {
      const rows = await database.query(batchable, arraysOf(items))()
      if (E.isLeft(rows) && isUnsupported(rows.left)) unsupported = true
      return E.isLeft(rows) ? rows : E.right(byItem(rows.right, items.length, keyParams !== undefined))
    },
    one,
    merge: unmerged,
    sizeOf: (params) => params.reduce<number>((size, param) => size + String(param).length, 0),
    ...(keyParams === undefined
      ? {}
      : { keyOf: (params: Params) => arrayText(params.slice(0, keyParams).map(paramText)) }),
  })
  return (params) => (unsupported ? one(params) : request(params))
}

// Citus and some views reject a `batchable` statement with one of these SQLSTATEs.
const UNSUPPORTED = /^(0A000|42703|42809|55000)$/

// A stale prepared statement may fail with one of these SQLSTATEs too, but its error is retryable.
const isUnsupported = ({ sqlState, retryable }: DriverError): boolean =>
  !retryable && UNSUPPORTED.test(sqlState ?? '')

const arraysOf = (items: readonly Params[]): Params =>
  (items[0] ?? []).map((_, index) => arrayText(items.map((params) => paramText(params[index] ?? null))))

// Groups the rows by their items. With `mustHave`, an item without rows gets `undefined`, and is sent again alone.
const byItem = (
  rows: readonly Row[],
  count: number,
  mustHave: boolean,
): readonly (readonly Row[] | undefined)[] => {
  const found: Row[][] = Array.from({ length: count }, () => [])
  for (const row of rows) found[Number(row[ORDINAL]) - 1]?.push(row)
  return mustHave ? found.map((own) => (own.length === 0 ? undefined : own)) : found
}
