// Counts the SQL statements of each request, prints a log line for each request, and keeps the bill of each visitor's
// last click. The async context of each request has its own list of statements.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { IncomingMessage, RequestListener } from 'node:http'
import { type Database, observedDatabase, type QueryEvent } from 'keyrow/store'

/** Returns the path without the query. A query may contain data that do not belong in a log. */
export const pathOf = (req: IncomingMessage): string => (req.url ?? '/').replace(/\?.*$/s, '')

interface Costs {
  readonly statements: QueryEvent[]
  /** The id of the session of the request. */
  visitor?: string
}

const costs = new AsyncLocalStorage<Costs>()

/** Returns a database that adds each statement to the list of its request. */
export const counted = (database: Database): Database =>
  observedDatabase(database, (event) => void costs.getStore()?.statements.push(event))

/** Runs a part of a request, and returns its statements, too. The statements also count for the request. */
export const statementsOf = async <A>(
  act: () => Promise<A>,
): Promise<{ readonly result: A; readonly statements: readonly QueryEvent[] }> => {
  const own: Costs = { statements: [] }
  const result = await costs.run(own, act)
  costs.getStore()?.statements.push(...own.statements)
  return { result, statements: own.statements }
}

/** What a form has cost. */
export interface Bill {
  readonly path: string
  readonly ms: string
  readonly statements: readonly QueryEvent[]
}

const MOST_BILLS = 1000

const bills = new Map<string, Bill>()

/** Notes the id of the session of the running request. */
export const noteVisitor = (id: string): void => {
  const own = costs.getStore()
  if (own !== undefined) own.visitor = id
}

/** Returns the bill of the last form that was sent in a session. */
export const lastBill = (id: string): Bill | undefined => bills.get(id)

const keepBill = (id: string, bill: Bill): void => {
  bills.delete(id)
  bills.set(id, bill)
  const [oldest] = bills.keys()
  if (bills.size > MOST_BILLS && oldest !== undefined) bills.delete(oldest)
}

/** Returns a listener that keeps a list for each request. It prints the list when the response ends. */
export const logged =
  (listener: RequestListener): RequestListener =>
  (req, res) => {
    const own: Costs = { statements: [] }
    const start = performance.now()
    // The bill must be there when the browser follows a redirect.
    res.once('finish', () => {
      const ms = (performance.now() - start).toFixed(1)
      if (req.method === 'POST' && own.visitor !== undefined)
        keepBill(own.visitor, { path: pathOf(req), ms, statements: own.statements })
    })
    res.once('close', () => {
      const status = res.writableFinished ? String(res.statusCode) : 'aborted'
      const took = `${(performance.now() - start).toFixed(1)} ms`
      console.log(req.method, pathOf(req), status, took, listOf(own.statements))
    })
    costs.run(own, () => listener(req, res))
  }

const listOf = (statements: readonly QueryEvent[]): string =>
  statements.length === 0 ? '(no statement)' : `(${statements.map(item).join(', ')})`

/** Returns a statement and its rows, as text. */
export const item = ({ query, rows }: QueryEvent): string =>
  `${query.name}: ${rows === undefined ? 'failed' : rows.length === 1 ? '1 row' : `${rows.length} rows`}`
