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
  const known = new WeakMap<Database, Database>()
  const wrapped = (inner: Database): Database => known.get(inner) ?? make(inner)
  const make = (inner: Database): Database => {
    const { within, current } = inner
    const made: Database = {
      ...inner,
      ...observed(inner, observer),
      transaction: (body) => inner.transaction((tx) => body(wrapped(tx))),
      ...(within === undefined ? {} : { within: { ...within, outer: wrapped(within.outer) } }),
      ...(current === undefined ? {} : { current: () => wrappedIf(current()) }),
    }
    known.set(inner, made)
    return made
  }
  const wrappedIf = (inner: Database | undefined): Database | undefined => inner && wrapped(inner)
  return wrapped(database)
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
