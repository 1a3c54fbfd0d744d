// The statistics for doctor. Rows of large tables are counted in a sample of their pages, and are then `estimated`.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../core/errors.js'
import type { Query, Queryable } from '../db/database.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import {
  type AdminStatements,
  adminStatements,
  clockQuery,
  hazardsQuery,
  indexesQuery,
  plainRouteQuery,
  routeQuery,
  serverQuery,
  tablesQuery,
} from './admin-sql.js'

const Server = t.type({
  version: t.string,
  number: t.number,
  database: t.string,
  role: t.string,
  standby: t.boolean,
  readonly: t.boolean,
})

export type ServerStats = t.TypeOf<typeof Server>

const number = t.union([t.number, t.null])

const Table = t.type({
  name: t.string,
  /** `null` if the table was never analyzed. */
  rows: number,
  heap: t.number,
  indexes: t.number,
  total: t.number,
  pages: t.number,
  live: t.number,
  dead: t.number,
  vacuumed: number,
})

export type TableStats = t.TypeOf<typeof Table>

const Index = t.type({ name: t.string, owner: t.string, main: t.boolean, valid: t.boolean })

export type IndexStats = t.TypeOf<typeof Index>

const Hazards = t.type({ hidden: t.string, merging: t.string, role: t.string, commits: t.string })

/** Settings of the database that break guarantees of keyrow. */
export interface HazardStats {
  /** Tables of which row-level security hides rows from this role. */
  readonly hidden: readonly string[]
  /** Columns whose collation treats different texts as equal. */
  readonly merging: readonly string[]
  readonly role: string
  readonly synchronousCommit: string
}

const Sample = t.type({ counted: t.number, dead: t.number, orphans: t.number })

/** Rows of a table: all, the dead ones (expired sessions, tombstones), and those without a row in another table. */
export interface RowStats extends t.TypeOf<typeof Sample> {
  readonly estimated: boolean
}

/** The offset of the database's clock from this process's, and its uncertainty, in milliseconds. */
export interface ClockStats {
  readonly ahead: number
  readonly uncertain: number
  readonly roundTrip: number
}

const Route = t.type({ server: t.string, standby: t.boolean })

/** The servers that answered plain reads and the library's own. A server is named by its start time and its address. */
export interface RouteStats {
  readonly plain: readonly t.TypeOf<typeof Route>[]
  readonly own: readonly t.TypeOf<typeof Route>[]
}

export interface SchemaStats {
  readonly tables: readonly TableStats[]
  readonly indexes: readonly IndexStats[]
  readonly sessions: RowStats
  readonly entries: RowStats
  readonly principals: RowStats
  /** How long the first due session has waited for the cleanup, in milliseconds; `null` if there is none. */
  readonly waiting: number | null
}

export const serverStats = (database: Queryable): TE.TaskEither<DriverError, ServerStats> =>
  rowAs(Server)(database, serverQuery)

/** `schema` is a quoted identifier. Missing tables have no hazards. */
export const hazardStats = (database: Queryable, schema: string): TE.TaskEither<DriverError, HazardStats> =>
  pipe(
    rowAs(Hazards)(database, hazardsQuery, [schema]),
    TE.map(({ hidden, merging, role, commits }) => ({
      hidden: JSON.parse(hidden) as readonly string[],
      merging: JSON.parse(merging) as readonly string[],
      role,
      synchronousCommit: commits,
    })),
  )

/** The number of concurrent queries of each kind, on as many connections: a pooler may choose a server per connection. */
export const ROUTES = 8

export const routeStats = (database: Queryable): TE.TaskEither<DriverError, RouteStats> => {
  const answer = (query: Query) =>
    TE.sequenceArray(Array.from({ length: ROUTES }, () => rowAs(Route)(database, query)))
  return pipe(
    TE.Do,
    TE.bind('plain', () => answer(plainRouteQuery)),
    TE.bind('own', () => answer(routeQuery)),
  )
}

/** The fastest of three measurements. An answer is as old as half its round trip. */
export const clockStats = (database: Queryable): TE.TaskEither<DriverError, ClockStats> =>
  pipe(
    [1, 2, 3],
    TE.traverseSeqArray(() => measureClock(database)),
    TE.map((answer) => answer.reduce((best, one) => (one.roundTrip < best.roundTrip ? one : best))),
  )

const measureClock = (database: Queryable): TE.TaskEither<DriverError, ClockStats> =>
  pipe(
    TE.fromIO(() => ({ sent: Date.now(), began: performance.now() })),
    TE.chain(({ sent, began }) =>
      pipe(
        rowAs(t.type({ now: t.number }))(database, clockQuery),
        TE.map(({ now }) => {
          const roundTrip = performance.now() - began
          // Plus one: `Date.now` counts whole milliseconds.
          return { ahead: now - (sent + roundTrip / 2), uncertain: roundTrip / 2 + 1, roundTrip }
        }),
      ),
    ),
  )

/** `schema` is a quoted identifier of a schema of this release's version. */
export const schemaStats = (database: Queryable, schema: string): TE.TaskEither<DriverError, SchemaStats> => {
  const sql = adminStatements(schema)
  return pipe(
    TE.Do,
    TE.apS('tables', rowsAs(Table)(database, tablesQuery, [schema])),
    TE.bind('indexes', () => rowsAs(Index)(database, indexesQuery, [schema])),
    TE.bind('counts', ({ tables }) => counts(database, sql, tables)),
    TE.bind('due', () => rowAs(t.type({ waiting: number }))(database, sql.due)),
    TE.map(({ tables, indexes, counts, due }) => ({ tables, indexes, ...counts, ...due })),
  )
}

const counts = (database: Queryable, sql: AdminStatements, tables: readonly TableStats[]) => {
  const of = (name: string, query: Query) =>
    sample(database, query, tables.find((table) => table.name === name)?.pages ?? 0)
  return pipe(
    TE.Do,
    TE.bind('sessions', () => of('session', sql.sessionSample)),
    TE.bind('entries', () => of('entry', sql.entrySample)),
    TE.bind('principals', () => of('listing', sql.principalsSample)),
  )
}

/** 16 MB: tables of some tens of thousands of rows are read whole. */
const SAMPLE_PAGES = 2048

const sample = (database: Queryable, query: Query, pages: number): TE.TaskEither<DriverError, RowStats> => {
  const share = Math.min(1, SAMPLE_PAGES / Math.max(pages, 1))
  return pipe(
    rowAs(Sample)(database, query, [share * 100]),
    TE.map(({ counted, dead, orphans }) => ({
      counted: Math.round(counted / share),
      dead: Math.round(dead / share),
      orphans: Math.round(orphans / share),
      estimated: share < 1,
    })),
  )
}
