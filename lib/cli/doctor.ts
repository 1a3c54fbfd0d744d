// `keyrow doctor` checks the database, and changes nothing. Without a connection, the command prints only an error.

import { type DriverError, SchemaMismatch } from '../core/errors.js'
import { pipe, TE } from '../core/prelude.cjs'
import { TABLES } from '../sql/migrations.js'
import { bare, prepareSchema, type SchemaState } from '../sql/schema.js'
import type * as stats from './admin.js'
import { statsOver } from './admin.js'
import type { Context, Task } from './open.js'
import { duration, EXIT, iso, joined, type Output, plural, size, table, time } from './terminal.js'

interface Check {
  readonly check: string
  readonly state: 'ok' | 'warning' | 'problem'
  readonly says: string
}

const stated =
  (state: Check['state']) =>
  (check: string, says: string): Check => ({ check, state, says })

const [ok, warning, problem] = [stated('ok'), stated('warning'), stated('problem')]

const MINUTE = 60_000

const serverChecks = (server: stats.Server, roundTripMs: number): readonly Check[] => [
  (roundTripMs > 250 ? warning : ok)(
    'connection',
    `database "${server.database}" answers "${server.role}" in ${duration(roundTripMs)}`,
  ),
  server.number < 130_000
    ? problem('server', `PostgreSQL ${server.version}: keyrow needs 13 or later`)
    : ok('server', `PostgreSQL ${server.version}`),
  server.standby || server.readonly
    ? problem('writing', server.standby ? 'this is a standby: it cannot write' : 'transactions are read only')
    : ok('writing', 'this is a primary, and transactions can write'),
]

/** Checks that one server answers all statements. A pooler or an address may lead to several servers. */
const routeCheck = ({ plain, own }: stats.Routes): Check => {
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

/** Compares the database's clock, which decides when sessions expire, with the clock of this process. */
const clockCheck = ({ ahead, uncertain }: stats.Clock): Check => {
  const off = Math.max(0, Math.abs(ahead) - uncertain)
  const says = `the database's clock is ${duration(Math.abs(ahead))} ${ahead < 0 ? 'behind' : 'ahead'} (± ${duration(uncertain)})`
  if (off < 2_000) return ok('clock', says)
  return (off < MINUTE ? warning : problem)('clock', `${says}: correct one of the clocks`)
}

const listed = (json: string): string => (JSON.parse(json) as readonly string[]).join(', ')

const hazardChecks = ({ hidden, merging, role, commits }: stats.Hazards): readonly Check[] => {
  const [tables, columns] = [listed(hidden), listed(merging)]
  return [
    tables === ''
      ? ok('row security', `no policy hides rows from "${role}"`)
      : problem(
          'row security',
          `row-level security hides rows of ${tables} from "${role}": disable it for these tables (alter table … disable row level security), or let the role see all rows (alter role … bypassrls)`,
        ),
    columns === ''
      ? ok('collation', 'different keys are distinct')
      : problem(
          'collation',
          `the collation of ${columns} treats different texts as equal: use a deterministic one (alter table … alter column … type text collate "C")`,
        ),
    commits === 'off'
      ? warning('durability', 'synchronous_commit is off: a crash of the server can lose the latest saves')
      : ok(
          'durability',
          `a save is on disk when it is answered, unless the store is relaxed (synchronous_commit: ${commits})`,
        ),
  ]
}

const schemaCheck = ({ version, made }: SchemaState): Check => {
  const last = made.at(-1)
  const by = last === undefined ? '' : `, made ${time(last.madeAt)} by keyrow ${last.madeBy}`
  return ok('schema', `version ${String(version)}${by}`)
}

const INDEXES = ['listing_principal', 'listing_collect_at', 'flow_collect_at']

const indexCheck = (indexes: readonly stats.Index[]): Check => {
  const withoutKey = TABLES.filter((table) => !indexes.some(({ owner, main }) => main && owner === table))
  const missing = [
    ...INDEXES.filter((wanted) => !indexes.some(({ name }) => name === wanted)),
    ...withoutKey.map((table) => `the primary key of ${table}`),
  ]
  const invalid = indexes.filter(({ valid }) => !valid).map(({ name }) => name)
  if (missing.length + invalid.length === 0) return ok('indexes', `${String(indexes.length)}, all valid`)
  const problems = [
    ...(missing.length > 0 ? [`missing: ${missing.join(', ')} (see keyrow schema print)`] : []),
    ...(invalid.length > 0 ? [`invalid: ${invalid.join(', ')} (reindex or drop)`] : []),
  ]
  return problem('indexes', problems.join('; '))
}

const backlogCheck = (waiting: number | null): Check => {
  if (waiting === null || waiting <= 0) return ok('cleanup', 'no session waits for the cleanup')
  const says = `the longest wait for the cleanup is ${duration(waiting)}`
  return waiting < 60 * MINUTE
    ? ok('cleanup', says)
    : warning('cleanup', `${says}: is it running? (startCleanup, keyrow cleanup)`)
}

const about = ({ estimated }: stats.Rows): string => (estimated ? 'about ' : '')

const deadPercent = ({ counted, dead }: stats.Rows): string =>
  `${String(Math.round((100 * dead) / Math.max(counted, 1)))} %`

const expiredCheck = (rows: stats.Rows): Check => {
  const { counted, dead } = rows
  const says = `${about(rows)}${plural(counted - dead, 'live session')}, ${about(rows)}${plural(dead, 'expired session')} (expired: ${deadPercent(rows)})`
  return dead > 1_000 && dead > counted / 2
    ? warning('sessions', `${says}: keyrow cleanup deletes them`)
    : ok('sessions', says)
}

const principalsCheck = (sessions: stats.Rows, principals: stats.Rows): Check => {
  if (sessions.orphans === 0 && principals.orphans === 0)
    return ok('listing', 'it has exactly the sessions that exist')
  const missing = `it lacks ${about(sessions)}${plural(sessions.orphans, 'session')}`
  const extra = `has ${about(principals)}${plural(principals.orphans, 'row')} without a session`
  return warning('listing', `${missing}, ${extra}: keyrow cleanup repairs that in time`)
}

const keysCheck = (rows: stats.Rows): Check =>
  ok(
    'keys',
    `${about(rows)}${plural(rows.counted - rows.dead, 'key')}, ${about(rows)}${String(rows.dead)} tombstones (${deadPercent(rows)})`,
  )

const boundCheck = (rows: stats.Rows): Check => {
  const { bound = 0 } = rows
  const says = `${about(rows)}${plural(bound, 'session')} ${bound === 1 ? 'is' : 'are'} bound to a browser`
  return ok('bound', says)
}

const lateCheck = (age: number | null): Check =>
  ok(
    'late saves',
    age === null || age > 60 * MINUTE
      ? 'none was stored in the last hour'
      : `the newest was stored ${duration(age)} ago: some process uses writeBehind`,
  )

const vacuumCheck = ({ name, live, dead, vacuumed }: stats.Table): Check => {
  const when = vacuumed === null ? 'never vacuumed' : `vacuumed ${time(vacuumed)}`
  const says = `${name}: ${plural(dead, 'dead tuple')}, ${when}`
  return dead > 10_000 && dead > live / 2
    ? warning('vacuum', `${says}: autovacuum lags behind`)
    : ok('vacuum', says)
}

export const doctor = (context: Context): Task => {
  const found = statsOver(context.database, context.schema)
  return pipe(
    TE.Do,
    TE.apS('server', found.server),
    TE.bind('clock', () => found.clock),
    TE.bind('routes', () => found.routes),
    // The hazards are read even if the schema seems to have another version, because hidden rows may be the reason.
    TE.bind('hazards', () => found.hazards),
    TE.bind('schema', () => schemaDiagnosis(context, found.contents)),
    TE.map(({ server, clock, routes, hazards, schema: { checks, contents } }) => {
      const ofServer = [...serverChecks(server, clock.roundTrip), routeCheck(routes), clockCheck(clock)]
      return outputOf(bare(context.schema), [...ofServer, ...hazardChecks(hazards), ...checks], contents)
    }),
  )
}

interface Diagnosis {
  readonly checks: readonly Check[]
  /** The statistics of the tables, if the schema has this release's version. */
  readonly contents?: stats.Contents
}

const schemaDiagnosis = (
  { database, schema }: Context,
  contents: TE.TaskEither<DriverError, stats.Contents>,
): TE.TaskEither<DriverError, Diagnosis> =>
  pipe(
    prepareSchema(database, schema, false),
    TE.bindTo('state'),
    TE.bindW('contents', () => contents),
    TE.map(({ state, contents }): Diagnosis => {
      const { indexes, waiting, sessions, principals, entries, tables, lateAge } = contents
      const checks = [
        schemaCheck(state),
        indexCheck(indexes),
        backlogCheck(waiting),
        expiredCheck(sessions),
        principalsCheck(sessions, principals),
        keysCheck(entries),
        boundCheck(entries),
        lateCheck(lateAge),
        ...tables.map(vacuumCheck),
      ]
      return { checks, contents }
    }),
    TE.orElse((error) =>
      error instanceof SchemaMismatch
        ? TE.right<DriverError, Diagnosis>({ checks: [problem('schema', error.problem)] })
        : TE.left(error),
    ),
  )

const outputOf = (schema: string, checks: readonly Check[], contents?: stats.Contents): Output => {
  const tables = contents?.tables.map((one) => ({
    ...one,
    vacuumed: one.vacuumed === null ? null : iso(one.vacuumed),
  }))
  return {
    data: { schema, checks, stats: contents && { ...contents, tables } },
    text: () =>
      joined(
        table(
          ['STATE', 'CHECK', ''],
          checks.map(({ state, check, says }) => [state, check, says]),
        ),
        contents && `\n${sizes(contents)}`,
      ),
    exitCode: checks.some(({ state }) => state === 'problem') ? EXIT.problem : EXIT.done,
  }
}

const sizes = ({ tables }: stats.Contents): string => {
  const rows = tables.map(({ name, rows, heap, indexes, total }) => [
    name,
    rows === null ? 'not counted' : `about ${rows.toLocaleString('en-US')}`,
    size(heap),
    size(indexes),
    size(total),
  ])
  const all = tables.reduce((sum, { total }) => sum + total, 0)
  return `${table(['TABLE', 'ROWS', 'ROW SIZE', 'INDEX SIZE', 'TOTAL'], rows)}\nTotal: ${size(all)}`
}
