// What doctor makes of its figures: each check is ok, a warning, or a problem, with what to do about it.
import type {
  ClockFigures,
  HazardFigures,
  IndexFigures,
  RouteFigures,
  RowFigures,
  SchemaFigures,
  ServerFigures,
  TableFigures,
} from '../sql/figures.js'
import type { SchemaState } from '../sql/schema-state.js'
import { duration, plural, size, time } from './text.js'

export interface Check {
  readonly check: string
  readonly state: 'ok' | 'warning' | 'problem'
  readonly says: string
}

const MINUTE = 60_000

export const serverChecks = (server: ServerFigures, roundTripMs: number): readonly Check[] => [
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

const writable = ({ standby, readonly }: ServerFigures): Check =>
  standby || readonly
    ? {
        check: 'writing',
        state: 'problem',
        says: standby ? 'this is a standby: it saves nothing' : 'transactions are read only here',
      }
    : { check: 'writing', state: 'ok', says: 'it is a primary, and transactions may write' }

/** Whether one server answers all: a pooler may balance reads, and one address may lead to several servers. */
export const routeCheck = ({ plain, own }: RouteFigures): Check => {
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
export const clockCheck = ({ ahead, uncertain }: ClockFigures): Check => {
  const off = Math.max(0, Math.abs(ahead) - uncertain)
  const says = `the database's clock is ${duration(Math.abs(ahead))} ${ahead < 0 ? 'behind' : 'ahead'} (± ${duration(uncertain)})`
  if (off < 2_000) return { check: 'clock', state: 'ok', says }
  return {
    check: 'clock',
    state: off < MINUTE ? 'warning' : 'problem',
    says: `${says}: set one of them right`,
  }
}

export const hazardChecks = ({ hidden, merging, role, commits }: HazardFigures): readonly Check[] => [
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
  commits === 'off'
    ? {
        check: 'durability',
        state: 'warning',
        says: 'synchronous_commit is off: a crash of the server can lose the last saves that were answered',
      }
    : {
        check: 'durability',
        state: 'ok',
        says: `an answered save is on disk (synchronous_commit: ${commits})`,
      },
]

export const schemaCheck = ({ version, made }: SchemaState): Check => {
  const last = made.at(-1)
  const by = last === undefined ? '' : `, made ${time(last.madeAt)} by keyrow ${last.madeBy}`
  return { check: 'schema', state: 'ok', says: `version ${String(version)}${by}` }
}

export const figureChecks = (figures: SchemaFigures): readonly Check[] => [
  indexCheck(figures.indexes),
  collectionCheck(figures.waiting),
  garbageCheck(figures.sessions),
  listingCheck(figures.sessions, figures.listing),
  keysCheck(figures.entries),
  ...figures.tables.map(vacuumCheck),
]

const TABLES = ['session', 'entry', 'listing', 'metadata']
const NAMED = ['listing_principal', 'listing_collect_at']

const indexCheck = (indexes: readonly IndexFigures[]): Check => {
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

const collectionCheck = (waiting: number | null): Check => {
  if (waiting === null || waiting <= 0)
    return { check: 'collection', state: 'ok', says: 'nothing waits for a collector' }
  const says = `the longest wait for a collector is ${duration(waiting)}`
  return waiting < 60 * MINUTE
    ? { check: 'collection', state: 'ok', says }
    : {
        check: 'collection',
        state: 'warning',
        says: `${says}: is one running? (startCollector, keyrow collect)`,
      }
}

const about = ({ estimated }: RowFigures): string => (estimated ? 'about ' : '')

const percent = (part: number, whole: number): string =>
  `${String(Math.round((100 * part) / Math.max(whole, 1)))} %`

const garbageCheck = (rows: RowFigures): Check => {
  const { counted, dead } = rows
  const says = `${about(rows)}${plural(counted - dead, 'live session')}, ${about(rows)}${plural(dead, 'expired session')} (garbage: ${percent(dead, counted)})`
  return dead > 1_000 && dead > counted / 2
    ? { check: 'sessions', state: 'warning', says: `${says}: keyrow collect deletes them` }
    : { check: 'sessions', state: 'ok', says }
}

const listingCheck = (sessions: RowFigures, listing: RowFigures): Check => {
  if (sessions.alone === 0 && listing.alone === 0)
    return { check: 'listing', state: 'ok', says: 'it has all sessions, and no others' }
  const missing = `it lacks ${about(sessions)}${plural(sessions.alone, 'session')}`
  const extra = `has ${about(listing)}${plural(listing.alone, 'row')} without a session`
  return {
    check: 'listing',
    state: 'warning',
    says: `${missing}, ${extra}: keyrow collect mends that in time`,
  }
}

const keysCheck = (rows: RowFigures): Check => ({
  check: 'keys',
  state: 'ok',
  says: `${about(rows)}${plural(rows.counted - rows.dead, 'key')}, ${about(rows)}${String(rows.dead)} deleted but kept for a while (${percent(rows.dead, rows.counted)})`,
})

const vacuumCheck = ({ name, live, dead, vacuumed }: TableFigures): Check => {
  const when = vacuumed === null ? 'never vacuumed' : `vacuumed ${time(vacuumed)}`
  const says = `${name}: ${plural(dead, 'dead tuple')}, ${when}`
  return dead > 10_000 && dead > live / 2
    ? { check: 'vacuum', state: 'warning', says: `${says}: autovacuum lags behind` }
    : { check: 'vacuum', state: 'ok', says }
}

export const sizesOf = (tables: readonly TableFigures[]): readonly (readonly string[])[] =>
  tables.map(({ name, rows, heap, indexes, total }) => [
    name,
    rows === null ? 'not counted' : `about ${rows.toLocaleString('en-US')}`,
    size(heap),
    size(indexes),
    size(total),
  ])
