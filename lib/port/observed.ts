// A database that tells of every statement it runs: for counts, logs and specs.
import * as E from 'fp-ts/lib/Either.js'
import type { Database, Queryable, QueryEvent } from './database.js'

/**
 * The same database; `observer` is called after each statement, in the statement's async context. What it
 * throws is the statement's caller's to see, so it should not.
 *
 * @example
 * ```ts
 * import { observedDatabase, sessionStore } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = observedDatabase(pgliteDatabase(), ({ query, milliseconds }) => {
 *   console.log(query.name, Math.round(milliseconds))
 * })
 * const store = sessionStore(database)
 * await store.prepare()
 * await database.close()
 * ```
 */
export const observedDatabase = (database: Database, observer: (event: QueryEvent) => void): Database => {
  const outer: Database = {
    ...database,
    ...observed(database, observer),
    transaction: (body) =>
      database.transaction((tx) =>
        body(
          observedDatabase(
            tx.within === undefined ? tx : { ...tx, within: { ...tx.within, outer } },
            observer,
          ),
        ),
      ),
  }
  return outer
}

const observed = (inner: Queryable, observer: (event: QueryEvent) => void): Queryable => ({
  query: (query, params) => async () => {
    const start = performance.now()
    const result = await inner.query(query, params)()
    const rows = E.isRight(result) ? result.right : undefined
    observer({ query, milliseconds: performance.now() - start, rows })
    return result
  },
})
