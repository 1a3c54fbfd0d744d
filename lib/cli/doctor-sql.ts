// The statistics for doctor. `schema` is a quoted identifier. Rows of large tables are counted in a sample of their pages,
// and are then `estimated`.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../core/errors.js'
import type { Query, Queryable } from '../db/database.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { adminStatements } from './admin-sql.js'

const ServerRow = t.type({
  version: t.string,
  number: t.number,
  database: t.string,
  role: t.string,
  standby: t.boolean,
  readonly: t.boolean,
})

export type Server = t.TypeOf<typeof ServerRow>

const number = t.union([t.number, t.null])

const TableRow = t.type({
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

export type Table = t.TypeOf<typeof TableRow>

const IndexRow = t.type({ name: t.string, owner: t.string, main: t.boolean, valid: t.boolean })

export type Index = t.TypeOf<typeof IndexRow>

/** Settings of the database that break guarantees of keyrow. Missing tables have no hazards. */
const HazardRow = t.type({
  /** JSON of the tables of which row-level security hides rows from this role. */
  hidden: t.string,
  /** JSON of the columns whose collation treats different texts as equal. */
  merging: t.string,
  role: t.string,
  /** The setting `synchronous_commit`. */
  commits: t.string,
})

export type Hazards = t.TypeOf<typeof HazardRow>

const SampleRow = t.type({ counted: t.number, dead: t.number, orphans: t.number })

/** Rows of a table: all, the dead ones (expired sessions, tombstones), and those without a row in another table. */
export interface Rows extends t.TypeOf<typeof SampleRow> {
  readonly estimated: boolean
}

/** The offset of the database's clock from this process's, and its uncertainty, in milliseconds. */
export interface Clock {
  readonly ahead: number
  readonly uncertain: number
  readonly roundTrip: number
}

const RouteRow = t.type({ server: t.string, standby: t.boolean })

/** The servers that answered plain reads and the library's own. A server is named by its start time and its address. */
export type Routes = Readonly<Record<'plain' | 'own', readonly t.TypeOf<typeof RouteRow>[]>>

export interface Contents extends Readonly<Record<'sessions' | 'entries' | 'principals', Rows>> {
  readonly tables: readonly Table[]
  readonly indexes: readonly Index[]
  /** How long the first due session has waited for the cleanup, in milliseconds; `null` if there is none. */
  readonly waiting: number | null
}

/** The number of concurrent queries of each kind, on as many connections: a pooler may choose a server per connection. */
export const ROUTES = 8

export const statsOver = (database: Queryable, schema: string) => {
  const sql = adminStatements(schema)
  const routes = (query: Query) =>
    TE.sequenceArray(Array.from({ length: ROUTES }, () => rowAs(RouteRow)(database, query)))
  return {
    server: rowAs(ServerRow)(database, sql.server),
    hazards: rowAs(HazardRow)(database, sql.hazards, [schema]),
    routes: pipe(
      TE.Do,
      TE.bind('plain', () => routes(sql['route.plain'])),
      TE.bind('own', () => routes(sql.route)),
    ),
    /** The fastest of three measurements. An answer is as old as half its round trip. */
    clock: pipe(
      [1, 2, 3],
      TE.traverseSeqArray(() => measureClock(database, sql.clock)),
      TE.map((all) => all.reduce((best, one) => (one.roundTrip < best.roundTrip ? one : best))),
    ),
    /** The schema must have this release's version. */
    contents: pipe(
      TE.Do,
      TE.apS('tables', rowsAs(TableRow)(database, sql.tables, [schema])),
      TE.bind('indexes', () => rowsAs(IndexRow)(database, sql.indexes, [schema])),
      TE.bind('sessions', ({ tables }) => sample(database, sql.sessionSample, tables, 'session')),
      TE.bind('entries', ({ tables }) => sample(database, sql.entrySample, tables, 'entry')),
      TE.bind('principals', ({ tables }) => sample(database, sql.principalsSample, tables, 'listing')),
      TE.bind('due', () => rowAs(t.type({ waiting: number }))(database, sql.due)),
      TE.map(({ due, ...counts }): Contents => ({ ...counts, ...due })),
    ),
  }
}

const measureClock =
  (database: Queryable, query: Query): TE.TaskEither<DriverError, Clock> =>
  async () => {
    const [sent, began] = [Date.now(), performance.now()]
    const answer = await rowAs(t.type({ now: t.number }))(database, query)()
    const roundTrip = performance.now() - began
    // Plus one: `Date.now` counts whole milliseconds.
    const uncertain = roundTrip / 2 + 1
    return pipe(
      answer,
      E.map(({ now }) => ({ ahead: now - (sent + roundTrip / 2), uncertain, roundTrip })),
    )
  }

/** 16 MB: tables of some tens of thousands of rows are read whole. */
const SAMPLE_PAGES = 2048

const sample = (database: Queryable, query: Query, tables: readonly Table[], name: string) => {
  const pages = tables.find((table) => table.name === name)?.pages ?? 0
  const share = Math.min(1, SAMPLE_PAGES / Math.max(pages, 1))
  return pipe(
    rowAs(SampleRow)(database, query, [share * 100]),
    TE.map(
      ({ counted, dead, orphans }): Rows => ({
        counted: Math.round(counted / share),
        dead: Math.round(dead / share),
        orphans: Math.round(orphans / share),
        estimated: share < 1,
      }),
    ),
  )
}
