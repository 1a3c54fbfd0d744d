// Runs the statements of admin-sql.ts, and checks the types of their results. Counts of a large table are estimates.
// `schema` is a quoted identifier. `adminOver` needs tables of this release's version.

import type { DriverError } from '../core/errors.js'
import { E, pipe, TE, t } from '../core/prelude.cjs'
import type { Query, Queryable } from '../db/database.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { adminStatements } from './admin-sql.js'

/** The sessions to count or to end. */
export type Scope =
  | { readonly kind: 'one'; readonly id: string }
  | { readonly kind: 'principal'; readonly principal: string }
  | { readonly kind: 'all' }

const text = t.union([t.string, t.null])
const number = t.union([t.number, t.null])
const header = { id: t.string, principal: text, created: t.number, expiration: t.number }

/** A session in a list. Times are milliseconds since 1970. `bytes` is the stored size of the session's values. */
export type SessionSummary = t.TypeOf<typeof SessionRow>

const SessionRow = t.type({ ...header, keys: t.number, bytes: t.number })

/**
 * One key of a session, with the header of the session. A session without keys has one row, whose `key` is null.
 * `value` is the text of the JSON value, or null if values were not requested.
 */
export type ShownRow = t.TypeOf<typeof Shown>

const Shown = t.type({
  ...header,
  absolute: t.number,
  revision: t.number,
  live: t.boolean,
  key: text,
  bytes: number,
  value: text,
})

const Counted = t.type({ count: t.number, database: t.string })

const Ended = t.type({ ended: t.number, chosen: t.number, last: text })

/** The result of one batch. If there may be more sessions, the next batch starts after the id `next`. */
export interface EndedBatch {
  readonly ended: number
  readonly next: string | undefined
}

export type Admin = ReturnType<typeof adminOver>

/** The smallest possible id. The first batch starts after this id. */
export const FIRST_ID = '00000000-0000-0000-0000-000000000000'

export const adminOver = (database: Queryable, schema: string) => {
  const sql = adminStatements(schema)
  const counts = { one: sql.countOne, principal: sql.countOf, all: sql.countAll }
  const ends = { one: sql.endOne, principal: sql.endOf, all: sql.endAll }
  return {
    /** Returns the newest live sessions. With `principal`, returns only sessions of this principal. */
    sessions: (limit: number, principal: string | undefined) =>
      principal === undefined
        ? rowsAs(SessionRow)(database, sql.sessions, [limit])
        : rowsAs(SessionRow)(database, sql.sessionsOf, [limit, principal]),
    /** Returns a session with its keys. The result has no rows if there is no such session. */
    show: (id: string, values: boolean) => rowsAs(Shown)(database, sql.show, [id, values]),
    /** Counts sessions, including expired sessions, up to `COUNT_LIMIT + 1`. Also returns the database's name. */
    count: (scope: Scope) => rowAs(Counted)(database, counts[scope.kind], paramsOf(scope)),
    endBatch: (scope: Scope, after: string, limit: number) => {
      const isOne = scope.kind === 'one'
      const params = isOne ? paramsOf(scope) : [limit, after, ...paramsOf(scope)]
      return pipe(
        rowAs(Ended)(database, ends[scope.kind], params),
        TE.map(({ ended, chosen, last }): EndedBatch => {
          const mayHaveMore = !isOne && chosen >= limit
          return { ended, next: mayHaveMore ? (last ?? undefined) : undefined }
        }),
      )
    },
  }
}

const paramsOf = (scope: Scope): readonly string[] => {
  if (scope.kind === 'one') return [scope.id]
  return scope.kind === 'principal' ? [scope.principal] : []
}

const ServerRow = t.type({
  version: t.string,
  number: t.number,
  database: t.string,
  role: t.string,
  standby: t.boolean,
  readonly: t.boolean,
})

export type Server = t.TypeOf<typeof ServerRow>

const TableRow = t.type({
  name: t.string,
  /** PostgreSQL's estimate of the number of rows, or `null` if there is no estimate. */
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

/** The settings of the database that break guarantees of keyrow. The lists are `[]` if the tables are missing. */
const HazardRow = t.type({
  /** A JSON list of the tables in which row-level security hides rows from this role. */
  hidden: t.string,
  /** A JSON list of the columns whose collation treats different texts as equal. */
  merging: t.string,
  role: t.string,
  /** The setting `synchronous_commit`. */
  commits: t.string,
})

export type Hazards = t.TypeOf<typeof HazardRow>

const SampleRow = t.intersection([
  t.type({ counted: t.number, dead: t.number, orphans: t.number }),
  t.partial({ bound: t.number }),
])

/**
 * Counts of the rows of a table. `dead` are expired sessions, or tombstones of the table `entry`. `orphans` are
 * sessions without a row in `listing`, or rows of `listing` that are due for the cleanup and have no session. `bound` are
 * the keys of sessions that are bound to a browser.
 */
export interface Rows extends t.TypeOf<typeof SampleRow> {
  readonly estimated: boolean
}

/** How far the database's clock is ahead of this process's clock, in milliseconds. `uncertain` is the maximum error. */
export interface Clock {
  readonly ahead: number
  readonly uncertain: number
  readonly roundTrip: number
}

const RouteRow = t.type({ server: t.string, standby: t.boolean })

/**
 * `plain` has the servers that answered reads without ON_PRIMARY. `own` has the servers that answered reads with
 * ON_PRIMARY, such as keyrow's own reads. A server is identified by its start time and its address.
 */
export type Routes = Readonly<Record<'plain' | 'own', readonly t.TypeOf<typeof RouteRow>[]>>

export interface Contents extends Readonly<Record<'sessions' | 'entries' | 'principals', Rows>> {
  readonly tables: readonly Table[]
  readonly indexes: readonly Index[]
  /** The longest wait for the cleanup in milliseconds: negative if no row is due, `null` if `listing` is empty. */
  readonly waiting: number | null
  /** The time since the newest late save was stored in milliseconds, or `null` if there was none for an hour. */
  readonly lateAge: number | null
}

/** How many reads of each kind (`plain`, `own`) run at once. A pooler may choose a server for each connection. */
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
    /** Measures the clock three times, and returns the measurement with the shortest round trip. */
    clock: pipe(
      [1, 2, 3],
      TE.traverseSeqArray(() => measureClock(database, sql.clock)),
      TE.map((all) => all.reduce((best, one) => (one.roundTrip < best.roundTrip ? one : best))),
    ),
    /** Reads the statistics of the tables. The schema must have this release's version. */
    contents: pipe(
      TE.Do,
      TE.apS('tables', rowsAs(TableRow)(database, sql.tables, [schema])),
      TE.bind('indexes', () => rowsAs(IndexRow)(database, sql.indexes, [schema])),
      TE.bind('sessions', ({ tables }) => sample(database, sql.sessionSample, tables, 'session')),
      TE.bind('entries', ({ tables }) => sample(database, sql.entrySample, tables, 'entry')),
      TE.bind('principals', ({ tables }) => sample(database, sql.principalsSample, tables, 'listing')),
      TE.bind('due', () => rowAs(t.type({ waiting: number }))(database, sql.due)),
      TE.bind('late', () => rowAs(t.type({ age: number }))(database, sql.late)),
      TE.map(({ due, late, ...counts }): Contents => ({ ...counts, ...due, lateAge: late.age })),
    ),
  }
}

const measureClock =
  (database: Queryable, query: Query): TE.TaskEither<DriverError, Clock> =>
  async () => {
    const [sent, began] = [Date.now(), performance.now()]
    const answer = await rowAs(t.type({ now: t.number }))(database, query)()
    const roundTrip = performance.now() - began
    // The error is at most half of the round trip, plus one millisecond because `Date.now` counts whole milliseconds.
    const uncertain = roundTrip / 2 + 1
    return pipe(
      answer,
      E.map(({ now }) => ({ ahead: now - (sent + roundTrip / 2), uncertain, roundTrip })),
    )
  }

/** The number of pages in a sample. With pages of 8 kB, this is 16 MB. A table with fewer pages is read completely. */
const SAMPLE_PAGES = 2048

const sample = (database: Queryable, query: Query, tables: readonly Table[], name: string) => {
  const pages = tables.find((table) => table.name === name)?.pages ?? 0
  const share = Math.min(1, SAMPLE_PAGES / Math.max(pages, 1))
  return pipe(
    rowAs(SampleRow)(database, query, [share * 100]),
    TE.map(
      ({ counted, dead, orphans, bound }): Rows => ({
        ...(bound === undefined ? {} : { bound: Math.round(bound / share) }),
        counted: Math.round(counted / share),
        dead: Math.round(dead / share),
        orphans: Math.round(orphans / share),
        estimated: share < 1,
      }),
    ),
  )
}
