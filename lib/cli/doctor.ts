// `doctor`: checks the database, and changes nothing. A database that cannot be reached is a failure, not a problem.

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
import type { Context, Task } from './open.js'
import { duration, EXIT, iso, plural, size, type Terminal, table, time } from './terminal.js'

export interface Check {
  readonly check: string
  readonly state: 'ok' | 'warning' | 'problem'
  readonly says: string
}

const stated =
  (state: Check['state']) =>
  (check: string, says: string): Check => ({ check, state, says })

const [ok, warning, problem] = [stated('ok'), stated('warning'), stated('problem')]

const MINUTE = 60_000

const serverChecks = (server: ServerStats, roundTripMs: number): readonly Check[] => [
  {
    check: 'connection',
    state: roundTripMs > 250 ? 'warning' : 'ok',
    says: `database "${server.database}" answers "${server.role}" in ${duration(roundTripMs)}`,
  },
  server.number < 130_000
    ? problem('server', `PostgreSQL ${server.version}: keyrow needs 13 or later`)
    : ok('server', `PostgreSQL ${server.version}`),
  writable(server),
]

const writable = ({ standby, readonly }: ServerStats): Check =>
  standby || readonly
    ? problem('writing', standby ? 'this is a standby: it cannot write' : 'transactions are read only')
    : ok('writing', 'this is a primary, and transactions can write')

/** Whether one server answers all statements: a pooler may balance reads, and an address may have several servers. */
const routeCheck = ({ plain, own }: RouteStats): Check => {
  const [first] = own
  const isAnother = ({ server }: { readonly server: string }): boolean => server !== first?.server
  if (own.some(isAnother))
    return problem(
      'routing',
      'several servers answer at this address: connect to the primary (target_session_attrs=primary)',
    )
  const others = plain.filter(isAnother)
  if (others.length === 0) return ok('routing', 'one server answers all statements')
  const other = others.some(({ standby }) => standby) ? 'a standby' : 'another server'
  return warning(
    'routing',
    `a pooler sends plain reads to ${other} (${String(others.length)} of ${String(plain.length)}), which may lag behind. ` +
      "keyrow's own reads go to the primary; your own reads do so only if they call a volatile function",
  )
}

/** Sessions expire by the database's clock; logs and cookies use other clocks. */
const clockCheck = ({ ahead, uncertain }: ClockStats): Check => {
  const off = Math.max(0, Math.abs(ahead) - uncertain)
  const says = `the database's clock is ${duration(Math.abs(ahead))} ${ahead < 0 ? 'behind' : 'ahead'} (± ${duration(uncertain)})`
  if (off < 2_000) return ok('clock', says)
  return {
    check: 'clock',
    state: off < MINUTE ? 'warning' : 'problem',
    says: `${says}: correct one of the clocks`,
  }
}

const hazardChecks = ({ hidden, merging, role, synchronousCommit }: HazardStats): readonly Check[] => [
  hidden.length === 0
    ? ok('row security', `no policy hides rows from "${role}"`)
    : problem(
        'row security',
        `row-level security hides rows of ${hidden.join(', ')} from "${role}": disable it for these tables (alter table … disable row level security), or let the role see all rows (alter role … bypassrls)`,
      ),
  merging.length === 0
    ? ok('collation', 'different keys are distinct')
    : problem(
        'collation',
        `the collation of ${merging.join(', ')} treats different texts as equal: use a deterministic one (alter table … alter column … type text collate "C")`,
      ),
  synchronousCommit === 'off'
    ? warning('durability', 'synchronous_commit is off: a crash of the server can lose the latest saves')
    : ok('durability', `a save is on disk when it is answered (synchronous_commit: ${synchronousCommit})`),
]

const schemaCheck = ({ version, made }: SchemaState): Check => {
  const last = made.at(-1)
  const by = last === undefined ? '' : `, made ${time(last.madeAt)} by keyrow ${last.madeBy}`
  return ok('schema', `version ${String(version)}${by}`)
}

const schemaChecks = (stats: SchemaStats): readonly Check[] => [
  indexCheck(stats.indexes),
  backlogCheck(stats.waiting),
  expiredCheck(stats.sessions),
  principalsCheck(stats.sessions, stats.principals),
  keysCheck(stats.entries),
  ...stats.tables.map(vacuumCheck),
]

const TABLES = ['session', 'entry', 'listing', 'metadata']
const INDEXES = ['listing_principal', 'listing_collect_at']

const indexCheck = (indexes: readonly IndexStats[]): Check => {
  const missing = [
    ...INDEXES.filter((wanted) => !indexes.some(({ name }) => name === wanted)),
    ...TABLES.filter((table) => !indexes.some(({ owner, main }) => main && owner === table)).map(
      (table) => `the primary key of ${table}`,
    ),
  ]
  const invalid = indexes.filter(({ valid }) => !valid).map(({ name }) => name)
  const problems = [
    ...(missing.length > 0 ? [`missing: ${missing.join(', ')} (see keyrow schema print)`] : []),
    ...(invalid.length > 0 ? [`invalid: ${invalid.join(', ')} (reindex or drop)`] : []),
  ]
  return problems.length === 0
    ? ok('indexes', `${String(indexes.length)}, all valid`)
    : problem('indexes', problems.join('; '))
}

const backlogCheck = (waiting: number | null): Check => {
  if (waiting === null || waiting <= 0) return ok('cleanup', 'no session waits for the cleanup')
  const says = `the longest wait for the cleanup is ${duration(waiting)}`
  return waiting < 60 * MINUTE
    ? ok('cleanup', says)
    : warning('cleanup', `${says}: is it running? (startCleanup, keyrow cleanup)`)
}

const about = ({ estimated }: RowStats): string => (estimated ? 'about ' : '')

const percent = (part: number, whole: number): string =>
  `${String(Math.round((100 * part) / Math.max(whole, 1)))} %`

const expiredCheck = (rows: RowStats): Check => {
  const { counted, dead } = rows
  const says = `${about(rows)}${plural(counted - dead, 'live session')}, ${about(rows)}${plural(dead, 'expired session')} (expired: ${percent(dead, counted)})`
  return dead > 1_000 && dead > counted / 2
    ? warning('sessions', `${says}: keyrow cleanup deletes them`)
    : ok('sessions', says)
}

const principalsCheck = (sessions: RowStats, principals: RowStats): Check => {
  if (sessions.orphans === 0 && principals.orphans === 0)
    return ok('listing', 'it has exactly the sessions that exist')
  const missing = `it lacks ${about(sessions)}${plural(sessions.orphans, 'session')}`
  const extra = `has ${about(principals)}${plural(principals.orphans, 'row')} without a session`
  return warning('listing', `${missing}, ${extra}: keyrow cleanup repairs that in time`)
}

const keysCheck = (rows: RowStats): Check =>
  ok(
    'keys',
    `${about(rows)}${plural(rows.counted - rows.dead, 'key')}, ${about(rows)}${String(rows.dead)} tombstones (${percent(rows.dead, rows.counted)})`,
  )

const vacuumCheck = ({ name, live, dead, vacuumed }: TableStats): Check => {
  const when = vacuumed === null ? 'never vacuumed' : `vacuumed ${time(vacuumed)}`
  const says = `${name}: ${plural(dead, 'dead tuple')}, ${when}`
  return dead > 10_000 && dead > live / 2
    ? warning('vacuum', `${says}: autovacuum lags behind`)
    : ok('vacuum', says)
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
  /** Missing if the schema is not this release's. */
  readonly stats?: SchemaStats
}

export const doctor = ({ database, schema, terminal }: Context): Task =>
  pipe(
    TE.Do,
    TE.apS('server', serverDiagnosis(database, schema)),
    TE.bind('schema', () => schemaDiagnosis(database, schema)),
    TE.map(({ server, schema: { checks, stats } }) => {
      const all = [...server, ...checks]
      printDiagnosis(terminal, schema, all, stats)
      return all.some(({ state }) => state === 'problem') ? EXIT.problem : EXIT.done
    }),
  )

const serverDiagnosis = (database: Database, schema: string): TE.TaskEither<DriverError, readonly Check[]> =>
  pipe(
    TE.Do,
    TE.apS('server', serverStats(database)),
    TE.bind('clock', () => clockStats(database)),
    TE.bind('routes', () => routeStats(database)),
    // Before the schema: hidden rows make the schema look like another version.
    TE.bind('hazards', () => hazardStats(database, schema)),
    TE.map(({ server, clock, routes, hazards }) => [
      ...serverChecks(server, clock.roundTrip),
      routeCheck(routes),
      clockCheck(clock),
      ...hazardChecks(hazards),
    ]),
  )

const schemaDiagnosis = (database: Database, schema: string): TE.TaskEither<DriverError, Diagnosis> =>
  pipe(
    prepareSchema(database, schema, false),
    TE.chainW(() => schemaState(database, schema)),
    TE.bindTo('state'),
    TE.bindW('stats', () => schemaStats(database, schema)),
    TE.map(({ state, stats }): Diagnosis => {
      return { checks: [schemaCheck(state), ...schemaChecks(stats)], stats }
    }),
    TE.orElse((error) =>
      error instanceof SchemaMismatch
        ? TE.right<DriverError, Diagnosis>({
            checks: [problem('schema', error.problem)],
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
  return `${table(['TABLE', 'ROWS', 'ROW SIZE', 'INDEX SIZE', 'TOTAL'], sizesOf(tables))}\nTotal: ${size(all)}`
}
