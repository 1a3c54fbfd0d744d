// `doctor`: looks, and changes nothing. A database that is not reached is no finding but a failure.

import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type DriverError, SchemaMismatch } from '../core/errors.js'
import type { Database } from '../db/database.js'
import { bare, prepareSchema, type SchemaState, schemaState } from '../sql/schema.js'
import {
  type ClockStats,
  clockStats,
  type HazardStats,
  hazardStats,
  type IndexStats,
  type RouteStats,
  type RowStats,
  routeStats,
  type SchemaStats,
  type ServerStats,
  schemaStats,
  serverStats,
  type TableStats,
} from './doctor-sql.js'
import type { Context, Ending } from './open.js'
import { duration, EXIT, iso, plural, size, type Terminal, table, time } from './terminal.js'

// What doctor makes of its figures: each check is ok, a warning, or a problem, with what to do about it.

export interface Check {
  readonly check: string
  readonly state: 'ok' | 'warning' | 'problem'
  readonly says: string
}

const MINUTE = 60_000

const serverChecks = (server: ServerStats, roundTripMs: number): readonly Check[] => [
  {
    check: 'connection',
    state: roundTripMs > 250 ? 'warning' : 'ok',
    says: `database "${server.database}" answers "${server.role}" in ${duration(roundTripMs)}`,
  },
  server.number < 130_000
    ? { check: 'server', state: 'problem', says: `PostgreSQL ${server.version}: keyrow needs 13 or later` }
    : { check: 'server', state: 'ok', says: `PostgreSQL ${server.version}` },
  writable(server),
]

const writable = ({ standby, readonly }: ServerStats): Check =>
  standby || readonly
    ? {
        check: 'writing',
        state: 'problem',
        says: standby ? 'this is a standby: it saves nothing' : 'transactions are read only here',
      }
    : { check: 'writing', state: 'ok', says: 'it is a primary, and transactions may write' }

/** Whether one server answers all: a pooler may balance reads, and one address may lead to several servers. */
const routeCheck = ({ plain, own }: RouteStats): Check => {
  const [first] = own
  const isAnother = ({ server }: { readonly server: string }): boolean => server !== first?.server
  if (own.some(isAnother))
    return {
      check: 'routing',
      state: 'problem',
      says: 'several servers answer at this address: ask for the primary (target_session_attrs=primary)',
    }
  const others = plain.filter(isAnother)
  if (others.length === 0) return { check: 'routing', state: 'ok', says: 'one server answers all statements' }
  const who = others.some(({ standby }) => standby) ? 'a standby' : 'another server'
  return {
    check: 'routing',
    state: 'warning',
    says:
      `a pooler has plain reads answered by ${who} (${String(others.length)} of ${String(plain.length)}), which may lag ` +
      "behind. keyrow's own go to the primary; reads of your own need a volatile function in them for that",
  }
}

/** Expirations are by the database's clock; logs and cookies are by the clocks of others. */
const clockCheck = ({ ahead, uncertain }: ClockStats): Check => {
  const off = Math.max(0, Math.abs(ahead) - uncertain)
  const says = `the database's clock is ${duration(Math.abs(ahead))} ${ahead < 0 ? 'behind' : 'ahead'} (± ${duration(uncertain)})`
  if (off < 2_000) return { check: 'clock', state: 'ok', says }
  return {
    check: 'clock',
    state: off < MINUTE ? 'warning' : 'problem',
    says: `${says}: set one of them right`,
  }
}

const hazardChecks = ({ hidden, merging, role, synchronousCommit }: HazardStats): readonly Check[] => [
  hidden.length === 0
    ? { check: 'row security', state: 'ok', says: `no policy hides rows from "${role}"` }
    : {
        check: 'row security',
        state: 'problem',
        says: `row-level security hides rows of ${hidden.join(', ')} from "${role}": switch it off for these tables (alter table … disable row level security), or let the role see all rows (alter role … bypassrls)`,
      },
  merging.length === 0
    ? { check: 'collation', state: 'ok', says: 'different keys are different' }
    : {
        check: 'collation',
        state: 'problem',
        says: `the collation of ${merging.join(', ')} takes different texts for the same: use a deterministic one (alter table … alter column … type text collate "C")`,
      },
  synchronousCommit === 'off'
    ? {
        check: 'durability',
        state: 'warning',
        says: 'synchronous_commit is off: a crash of the server can lose the last saves that were answered',
      }
    : {
        check: 'durability',
        state: 'ok',
        says: `an answered save is on disk (synchronous_commit: ${synchronousCommit})`,
      },
]

const schemaCheck = ({ version, made }: SchemaState): Check => {
  const last = made.at(-1)
  const by = last === undefined ? '' : `, made ${time(last.madeAt)} by keyrow ${last.madeBy}`
  return { check: 'schema', state: 'ok', says: `version ${String(version)}${by}` }
}

const figureChecks = (stats: SchemaStats): readonly Check[] => [
  indexCheck(stats.indexes),
  backlogCheck(stats.waiting),
  cleanupCheck(stats.sessions),
  principalsCheck(stats.sessions, stats.principals),
  keysCheck(stats.entries),
  ...stats.tables.map(vacuumCheck),
]

const TABLES = ['session', 'entry', 'listing', 'metadata']
const NAMED = ['listing_principal', 'listing_collect_at']

const indexCheck = (indexes: readonly IndexStats[]): Check => {
  const missing = [
    ...NAMED.filter((wanted) => !indexes.some(({ name }) => name === wanted)),
    ...TABLES.filter((table) => !indexes.some(({ owner, main }) => main && owner === table)).map(
      (table) => `the primary key of ${table}`,
    ),
  ]
  const invalid = indexes.filter(({ valid }) => !valid).map(({ name }) => name)
  const faults = [
    ...(missing.length > 0 ? [`missing: ${missing.join(', ')} (see keyrow schema print)`] : []),
    ...(invalid.length > 0 ? [`invalid: ${invalid.join(', ')} (reindex or drop)`] : []),
  ]
  return faults.length === 0
    ? { check: 'indexes', state: 'ok', says: `${String(indexes.length)}, all valid` }
    : { check: 'indexes', state: 'problem', says: faults.join('; ') }
}

const backlogCheck = (waiting: number | null): Check => {
  if (waiting === null || waiting <= 0)
    return { check: 'collection', state: 'ok', says: 'nothing waits for a collector' }
  const says = `the longest wait for a collector is ${duration(waiting)}`
  return waiting < 60 * MINUTE
    ? { check: 'collection', state: 'ok', says }
    : {
        check: 'collection',
        state: 'warning',
        says: `${says}: is one running? (startCleanup, keyrow collect)`,
      }
}

const about = ({ estimated }: RowStats): string => (estimated ? 'about ' : '')

const percent = (part: number, whole: number): string =>
  `${String(Math.round((100 * part) / Math.max(whole, 1)))} %`

const cleanupCheck = (rows: RowStats): Check => {
  const { counted, dead } = rows
  const says = `${about(rows)}${plural(counted - dead, 'live session')}, ${about(rows)}${plural(dead, 'expired session')} (garbage: ${percent(dead, counted)})`
  return dead > 1_000 && dead > counted / 2
    ? { check: 'sessions', state: 'warning', says: `${says}: keyrow collect deletes them` }
    : { check: 'sessions', state: 'ok', says }
}

const principalsCheck = (sessions: RowStats, principals: RowStats): Check => {
  if (sessions.single === 0 && principals.single === 0)
    return { check: 'listing', state: 'ok', says: 'it has all sessions, and no others' }
  const missing = `it lacks ${about(sessions)}${plural(sessions.single, 'session')}`
  const extra = `has ${about(principals)}${plural(principals.single, 'row')} without a session`
  return {
    check: 'listing',
    state: 'warning',
    says: `${missing}, ${extra}: keyrow collect mends that in time`,
  }
}

const keysCheck = (rows: RowStats): Check => ({
  check: 'keys',
  state: 'ok',
  says: `${about(rows)}${plural(rows.counted - rows.dead, 'key')}, ${about(rows)}${String(rows.dead)} deleted but kept for a while (${percent(rows.dead, rows.counted)})`,
})

const vacuumCheck = ({ name, live, dead, vacuumed }: TableStats): Check => {
  const when = vacuumed === null ? 'never vacuumed' : `vacuumed ${time(vacuumed)}`
  const says = `${name}: ${plural(dead, 'dead tuple')}, ${when}`
  return dead > 10_000 && dead > live / 2
    ? { check: 'vacuum', state: 'warning', says: `${says}: autovacuum lags behind` }
    : { check: 'vacuum', state: 'ok', says }
}

const sizesOf = (tables: readonly TableStats[]): readonly (readonly string[])[] =>
  tables.map(({ name, rows, heap, indexes, total }) => [
    name,
    rows === null ? 'not counted' : `about ${rows.toLocaleString('en-US')}`,
    size(heap),
    size(indexes),
    size(total),
  ])

interface Diagnosis {
  readonly checks: readonly Check[]
  /** None when the schema is not ours. */
  readonly stats?: SchemaStats
}

export const doctor = ({ database, schema, terminal }: Context): Ending =>
  pipe(
    TE.Do,
    TE.apS('server', examineServer(database, schema)),
    TE.bind('schema', () => examineSchema(database, schema)),
    TE.map(({ server, schema: { checks, stats } }) => {
      const all = [...server, ...checks]
      printDiagnosis(terminal, schema, all, stats)
      return all.some(({ state }) => state === 'problem') ? EXIT.problem : EXIT.done
    }),
  )

const examineServer = (database: Database, schema: string): TE.TaskEither<DriverError, readonly Check[]> =>
  pipe(
    TE.Do,
    TE.apS('server', serverStats(database)),
    TE.bind('clock', () => clockStats(database)),
    TE.bind('routes', () => routeStats(database)),
    // Before the schema is looked at: rows that are hidden make it look like another one.
    TE.bind('hazards', () => hazardStats(database, schema)),
    TE.map(({ server, clock, routes, hazards }) => [
      ...serverChecks(server, clock.roundTrip),
      routeCheck(routes),
      clockCheck(clock),
      ...hazardChecks(hazards),
    ]),
  )

const examineSchema = (database: Database, schema: string): TE.TaskEither<DriverError, Diagnosis> =>
  pipe(
    prepareSchema(database, schema, false),
    TE.chainW(() => schemaState(database, schema)),
    TE.bindTo('state'),
    TE.bindW('stats', () => schemaStats(database, schema)),
    TE.map(({ state, stats }): Diagnosis => {
      return { checks: [schemaCheck(state), ...figureChecks(stats)], stats }
    }),
    TE.orElse((error) =>
      error instanceof SchemaMismatch
        ? TE.right<DriverError, Diagnosis>({
            checks: [{ check: 'schema', state: 'problem', says: error.problem }],
          })
        : TE.left(error),
    ),
  )

const printDiagnosis = (
  terminal: Terminal,
  schema: string,
  checks: readonly Check[],
  stats: SchemaStats | undefined,
): void => {
  terminal.print({ schema: bare(schema), checks, ...dataOf(stats) }, () =>
    [
      table(
        ['STATE', 'CHECK', ''],
        checks.map(({ state, check, says }) => [state, check, says]),
      ),
      ...(stats === undefined ? [] : ['', sizes(stats)]),
    ].join('\n'),
  )
}

const dataOf = (stats: SchemaStats | undefined) =>
  stats === undefined
    ? {}
    : {
        stats: {
          ...stats,
          tables: stats.tables.map((one) => ({
            ...one,
            vacuumed: one.vacuumed === null ? null : iso(one.vacuumed),
          })),
        },
      }

const sizes = ({ tables }: SchemaStats): string => {
  const all = tables.reduce((sum, { total }) => sum + total, 0)
  return `${table(['TABLE', 'ROWS', 'ROWS TAKE', 'INDEXES TAKE', 'IN ALL'], sizesOf(tables))}\nIn all: ${size(all)}`
}
