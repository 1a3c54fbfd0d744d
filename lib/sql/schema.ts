// Finds the version of the schema, and upgrades the schema under a lock. Analyzes the tables of a new store while they
// grow.

import { DriverError, SchemaMismatch } from '../core/errors.js'
import { constVoid, E, pipe, TE, t } from '../core/prelude.cjs'
import { neutral, RELEASE } from '../core/process.js'
import { type Database, ON_PRIMARY, type Query, type Queryable } from '../db/database.js'
import { publish } from '../store/events.js'
import {
  columnsOf,
  FIRST_RECORDED,
  FIRST_WITH_IDS,
  LATEST,
  migrations,
  type Step,
  TABLE_NAMES,
} from './migrations.js'
import { rowAs, rowsAs } from './rows.js'

export const DEFAULT_SCHEMA = 'keyrow'

/** Returns a schema's name as a quoted identifier. Throws a `RangeError` for a name that would need escaping. */
export const quotedSchema = (schema: string): string => {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
    throw new RangeError(`"${schema}" cannot name a schema: use lower-case letters, digits and _, at most 63`)
  return `"${schema}"`
}

/** A version of the schema, as recorded in the table `metadata`. */
export interface MadeVersion {
  readonly version: number
  /** Milliseconds since 1970. */
  readonly madeAt: number
  /** The release of keyrow that made the version. */
  readonly madeBy: string
}

export interface SchemaState {
  /** The version, or 0 if keyrow's tables do not exist. */
  readonly version: number
  readonly exists: boolean
  readonly made: readonly MadeVersion[]
  /** The key of verifiable ids. Versions before 3 have none. */
  readonly ids?: IdKey
  /** Those of the tables `session` and `flow` that have less than 8 MiB, and that the role owns. */
  readonly small: readonly string[]
}

type Recorded = Omit<SchemaState, 'small'>

/** The key of verifiable ids, its age in milliseconds, and the database's time in milliseconds since 1970. */
interface IdKey {
  readonly key: string
  readonly age: number
  readonly now: number
}

export type SchemaError = DriverError | SchemaMismatch

/** Returns a quoted identifier without its quotes. */
export const bare = (schema: string): string => schema.slice(1, -1)

// `format_type` quotes the names of types if `quote_all_identifiers` is on. So the statement removes the quotes.
const found: Query = {
  name: 'schema.found',
  text: `
select to_regnamespace($1::text) is not null as exists, current_setting('session_replication_role') as replication,
       coalesce((select json_agg(c.relname || '.' || a.attname || ' ' || replace(format_type(a.atttypid, a.atttypmod), '"', ''))
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c', 'S', 'i')
                   and c.relname in (${TABLE_NAMES})), '[]')::text as columns,
       coalesce((select json_agg(c.relname) from pg_class c
                 where c.relnamespace = to_regnamespace($1::text) and c.relname in ('session', 'flow')
                   and pg_relation_size(c.oid) < 8388608 and pg_has_role(c.relowner, 'USAGE')), '[]')::text as small
where ${ON_PRIMARY}`,
}

const FoundRow = t.type({ exists: t.boolean, replication: t.string, columns: t.string, small: t.string })

// The column `id_key` is read through `to_jsonb`, since version 2 does not have this column.
const versions = (schema: string): Query => ({
  name: 'schema.versions',
  text: `
select version, (extract(epoch from made_at) * 1000)::float8 as made, made_by as by,
       (extract(epoch from now() - made_at) * 1000)::float8 as age,
       case when version = ${String(FIRST_WITH_IDS)} then to_jsonb(m) ->> 'id_key' end as key
from ${schema}.metadata m
where ${ON_PRIMARY}
order by version`,
})

/** Returns the state of the schema. Fails with `SchemaMismatch` if its tables are incomplete or are not keyrow's. */
export const schemaState = (database: Queryable, schema: string): TE.TaskEither<SchemaError, SchemaState> =>
  pipe(
    columnsIn(database, schema),
    TE.chainW(({ exists, present, small }) =>
      pipe(
        present.some((column) => column.startsWith('metadata.'))
          ? recorded(database, schema, present)
          : TE.fromEither(unrecorded(schema, exists, present)),
        TE.map((state) => ({ ...state, small })),
      ),
    ),
  )

const columnsIn = (database: Queryable, schema: string) =>
  pipe(
    rowAs(FoundRow)(database, found, [schema]),
    TE.filterOrElseW(({ replication }) => replication !== 'replica', noForeignKeys),
    TE.map(({ exists, columns, small }) => ({
      exists,
      present: JSON.parse(columns) as readonly string[],
      small: JSON.parse(small) as readonly string[],
    })),
  )

const noForeignKeys = (): DriverError =>
  new DriverError(
    'session_replication_role of the role or the database is replica: foreign keys have no effect, and entries would ' +
      'outlive their sessions; set it to origin (alter role … set …), and connect again',
    { kind: 'setting', retryable: false, effect: 'none' },
  )

// Version 1 has no table `metadata`, so this version is recognised by the columns of its tables.
const unrecorded = (
  schema: string,
  exists: boolean,
  present: readonly string[],
): E.Either<SchemaMismatch, Recorded> => {
  const version = FIRST_RECORDED - 1
  if (present.length === 0) return E.right({ version: 0, exists, made: [] })
  return lacking(version, present) === undefined && !present.some((column) => column.startsWith('listing.'))
    ? E.right({ version, exists, made: [] })
    : E.left(foreign(schema, `it lacks ${lacking(version, present) ?? 'metadata.version integer'}`))
}

const recorded = (
  database: Queryable,
  schema: string,
  present: readonly string[],
): TE.TaskEither<SchemaError, Recorded> => {
  const strange = columnsOf(FIRST_RECORDED).find(
    (column) => column.startsWith('metadata.') && !present.includes(column),
  )
  if (strange !== undefined) return TE.left(foreign(schema, `it lacks ${strange}`))
  return pipe(
    rowsAs(VersionRow)(database, versions(schema)),
    TE.chainW((rows) => {
      const made = rows.map(({ version, made, by }) => ({ version, madeAt: made, madeBy: by }))
      const state = (columns: readonly string[]) =>
        pipe(
          whole(schema, columns, made),
          E.map((found) => ({ ...found, ...idsOf(rows) })),
        )
      // An upgrade may have committed after the first read of the columns, so the columns are read again.
      return pipe(
        TE.fromEither(state(present)),
        TE.orElse(() =>
          pipe(
            columnsIn(database, schema),
            TE.chainEitherKW((retry) => state(retry.present)),
          ),
        ),
      )
    }),
  )
}

const VersionRow = t.type({
  version: t.number,
  made: t.number,
  by: t.string,
  age: t.number,
  key: t.union([t.string, t.null]),
})

type VersionRow = t.TypeOf<typeof VersionRow>

const idsOf = (rows: readonly VersionRow[]): Pick<SchemaState, 'ids'> => {
  for (const { key, age, made } of rows) if (key !== null) return { ids: { key, age, now: made + age } }
  return {}
}

const whole = (
  schema: string,
  present: readonly string[],
  made: readonly MadeVersion[],
): E.Either<SchemaMismatch, Recorded> => {
  const version = made.at(-1)?.version ?? 0
  if (version < FIRST_RECORDED) return E.left(foreign(schema, 'its table metadata names no version'))
  const other = laterTable(version, present)
  if (other !== undefined)
    return E.left(foreign(schema, `its version ${String(version)} has no table ${other}`))
  const lacks = lacking(version, present)
  return version <= LATEST && lacks !== undefined
    ? E.left(foreign(schema, `its metadata says version ${String(version)}, but it lacks ${lacks}`))
    : E.right({ version, exists: true, made })
}

/** Returns a present table that only a later version has. Such a table is not keyrow's. */
const laterTable = (version: number, present: readonly string[]): string | undefined => {
  const tableOf = (column: string): string => column.replace(/\..*/, '')
  const own = new Set(columnsOf(version).map(tableOf))
  return version > LATEST ? undefined : present.map(tableOf).find((table) => !own.has(table))
}

const lacking = (version: number, present: readonly string[]): string | undefined =>
  columnsOf(version).find((column) => !present.includes(column))

const foreign = (schema: string, why: string): SchemaMismatch =>
  new SchemaMismatch(
    bare(schema),
    `it has tables of these names (${TABLE_NAMES.replaceAll("'", '')}) that are not keyrow's, or incomplete: ${why}; ` +
      `they were not changed. Choose another schema, or repair this one`,
  )

/** Returns the schema's state. Fails if its version is not this release's. `upgrade` permits changes of the tables. */
export const prepareSchema = (
  database: Database,
  schema: string,
  upgrade: boolean,
): TE.TaskEither<SchemaError, SchemaState> => {
  const found = pipe(schemaState(database, schema), TE.chainEitherKW(notNewer(schema)))
  return pipe(
    found,
    TE.chainW((state): TE.TaskEither<SchemaError, SchemaState> => {
      if (state.version === LATEST) return TE.right(state)
      return upgrade
        ? pipe(
            upgradeSchema(database, schema),
            TE.chainW(() => found),
          )
        : TE.left(tooOld(schema, state.version))
    }),
  )
}

const notNewer =
  (schema: string) =>
  (state: SchemaState): E.Either<SchemaMismatch, SchemaState> =>
    state.version <= LATEST
      ? E.right(state)
      : E.left(
          new SchemaMismatch(
            bare(schema),
            `it has version ${String(state.version)}, made by keyrow ${state.made.at(-1)?.madeBy ?? ''}; ` +
              `keyrow ${RELEASE} works with version ${String(LATEST)}: install a newer one (npm install keyrow@latest)`,
            { found: state.version, wanted: LATEST },
          ),
        )

const tooOld = (schema: string, version: number): SchemaMismatch =>
  new SchemaMismatch(
    bare(schema),
    `${version === 0 ? 'its tables are missing' : `it has version ${String(version)}`}; ` +
      `keyrow ${RELEASE} works with version ${String(LATEST)}: run npx keyrow schema upgrade --schema ${bare(schema)}`,
    { found: version, wanted: LATEST },
  )

/** The result of an upgrade. `from` equals `to` if another process has done the upgrade. */
interface Upgraded {
  readonly from: number
  readonly to: number
}

/** Upgrades the schema to this release's version, in one transaction. */
export const upgradeSchema = (database: Database, schema: string): TE.TaskEither<SchemaError, Upgraded> => {
  const start = performance.now()
  return pipe(
    database.transaction((tx) =>
      pipe(
        tx.query(lock, [schema]),
        TE.chainW(() => schemaState(tx, schema)),
        TE.chainEitherKW(notNewer(schema)),
        TE.chainFirstW((state) => migrate(tx, schema, state)),
      ),
    ),
    TE.map(({ version }) => ({ from: version, to: LATEST })),
    TE.tapIO(({ from, to }) => () => {
      if (from !== to)
        publish('upgraded', { schema: bare(schema), from, to, durationMs: performance.now() - start })
    }),
  )
}

// Processes that start together need this lock, since `if not exists` alone is not safe for concurrent statements.
const lock: Query = {
  name: 'schema.lock',
  text: `select pg_advisory_xact_lock(hashtext('keyrow'), hashtext($1::text))`,
}

const migrate = (
  tx: Queryable,
  schema: string,
  { version, exists }: SchemaState,
): TE.TaskEither<DriverError, unknown> => {
  const pending = migrations.slice(version)
  return pipe(
    [
      // `create schema if not exists` needs the right to create schemas, even if the schema exists.
      ...(exists ? [] : [{ name: 'schema.create', text: `create schema ${schema}` }]),
      ...pending.flatMap(({ steps }) => steps(schema)),
    ],
    TE.traverseSeqArray((step) => runStep(tx, step)),
    TE.map(() => pending),
    TE.chain(TE.traverseSeqArray((done) => tx.query(recording(schema), [done.version, RELEASE]))),
  )
}

const runStep = (tx: Queryable, step: Step): TE.TaskEither<DriverError, unknown> =>
  pipe(
    tx.query(step, []),
    TE.chain((rows) => (step.byHand !== undefined && rows.length > 0 ? runStep(tx, step) : TE.right(rows))),
  )

const recording = (schema: string): Query => ({
  name: 'schema.record',
  text: `insert into ${schema}.metadata (version, made_by) values ($1::int, $2::text)`,
})

/** Returns a script for psql. The script upgrades the schema from the version `from` to this release's version. */
export const schemaSql = (schema: string, from: number): string => {
  const done = migrations.slice(from)
  const records = done.map(
    ({ version }) =>
      `insert into ${schema}.metadata (version, made_by) values (${String(version)}, '${RELEASE}');`,
  )
  return [
    'begin;',
    `select pg_advisory_xact_lock(hashtext('keyrow'), hashtext('${schema}'));`,
    ...(from === 0 ? [`create schema if not exists ${schema}; -- not needed if the schema exists`] : []),
    ...done.map(({ version, what, locks, steps }) =>
      [`-- version ${String(version)}: ${what}`, `-- ${locks}`, ...steps(schema).map(printed)].join('\n'),
    ),
    records.join('\n'),
    'commit;',
  ].join('\n\n')
}

const printed = ({ text, byHand }: Step): string => `${byHand ?? text};`

/** Whether the error says that a table or column of keyrow does not exist. */
export const isMissing = (error: DriverError): boolean =>
  ['42P01', '42703', '3F000'].includes(error.sqlState ?? '')

// PostgreSQL keeps the plan of a prepared statement, or of the check of a foreign key, until it analyzes the table. A plan
// for a small table reads the whole table, even after the table has grown. Autovacuum analyzes a new table after a minute.
// So while small tables grow, the store analyzes them itself, after these numbers of new rows.
const ANALYZED_AT = new Set([100, 300, 1_000, 3_000, 10_000, 30_000])

// The tables that grow with a table. Tables that may stay empty are not analyzed, since their next plans would be bad too.
const GROWING = {
  session: ['session (id)', 'entry (session_id)', 'listing (session_id)'],
  flow: ['flow (session_id)', 'continuation (session_id)'],
} as const

type Growing = keyof typeof GROWING

// The analysis waits for no lock, and the server reports no table that it has skipped because of a lock.
const analysisOf = (schema: string, table: Growing): string => `
do $$ begin
  perform set_config('client_min_messages', 'error', true);
  analyze (skip_locked) ${GROWING[table].map((columns) => `${schema}.${columns}`).join(', ')};
end $$`

/** Counts the new rows of small tables, and analyzes the tables while they grow. */
export class TableGrowth {
  readonly #rows = new Map<string, number>()
  readonly #analyze: (table: Growing) => void

  constructor({ query, isEmbedded = false, transactionScope }: Database, schema: string) {
    // PGlite plans each statement again. An analysis in a program's transaction would keep its locks until the commit.
    const isPossible = !isEmbedded && transactionScope === undefined
    this.#analyze = (table) => {
      const analysis = { name: 'schema.analyze', text: analysisOf(schema, table) }
      // An error, such as a missed deadline, changes nothing. An observer of the database may throw.
      if (isPossible) neutral(async () => query(analysis, [])()).catch(constVoid)
    }
  }

  /** Names the tables that are small and may be analyzed. The rows of other tables are not counted. */
  begin(small: readonly string[]): void {
    this.#rows.clear()
    for (const table of small) this.#rows.set(table, 0)
  }

  /** Wraps an operation that inserts a row. */
  counting<P extends readonly unknown[], L, A>(
    table: Growing,
    operation: (...params: P) => TE.TaskEither<L, A>,
  ): (...params: P) => TE.TaskEither<L, A> {
    const inserted = () => (): void => {
      const before = this.#rows.get(table)
      if (before === undefined) return
      this.#rows.set(table, before + 1)
      if (ANALYZED_AT.has(before + 1)) this.#analyze(table)
    }
    return (...params) => pipe(operation(...params), TE.tapIO(inserted))
  }
}
