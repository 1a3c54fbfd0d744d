// Prints one log line for each request, with its status, its duration and its SQL statements. The async context of each
// request has its own list of statements.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { RequestListener } from 'node:http'
import { type Database, observedDatabase, type QueryEvent } from 'keyrow/store'
import { pathOf } from './exchange.js'

const costs = new AsyncLocalStorage<QueryEvent[]>()

/** Returns a database that adds each statement to the list of its request. */
export const counted = (database: Database): Database =>
  observedDatabase(database, (event) => void costs.getStore()?.push(event))

/** Returns a listener that keeps a list for each request. It prints the list when the response ends. */
export const logged =
  (listener: RequestListener): RequestListener =>
  (req, res) => {
    const statements: QueryEvent[] = []
    const start = performance.now()
    res.once('close', () => {
      const status = res.writableFinished ? String(res.statusCode) : 'aborted'
      const took = `${(performance.now() - start).toFixed(1)} ms`
      console.log(req.method, pathOf(req), status, took, bill(statements))
    })
    costs.run(statements, () => listener(req, res))
  }

const bill = (statements: readonly QueryEvent[]): string =>
  statements.length === 0 ? '(no statement)' : `(${statements.map(item).join(', ')})`

const item = ({ query, rows }: QueryEvent): string =>
  `${query.name}: ${rows === undefined ? 'failed' : rows.length === 1 ? '1 row' : `${rows.length} rows`}`
