// How a database comes to hold our version of the schema: by whoever comes first, once, under a lock.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type DriverError, SchemaMismatch } from '../base/errors.js'
import { RELEASE } from '../base/release.js'
import type { Database, Query, Queryable } from '../port/database.js'
import { publish } from '../port/events.js'
import { LATEST, type Migration, migrations, type Step } from './migrations.js'
import { bare, type SchemaError, type SchemaState, schemaState } from './schema-state.js'

/**
 * Makes sure that the database holds our version: makes or upgrades the tables, unless `upgrade` is false. Gives what it
 * holds then.
 */
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

/** An upgrade that was done: from version, to version; they are equal when somebody else was first. */
interface Upgraded {
  readonly from: number
  readonly to: number
}

/** Leads the schema to our version, in one transaction. */
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

// `if not exists` alone is not safe between processes that start together.
const lock: Query = {
  name: 'schema.lock',
  text: `select pg_advisory_xact_lock(hashtext('keyrow'), hashtext($1::text))`,
}

const migrate = (
  tx: Queryable,
  schema: string,
  { version, exists }: SchemaState,
): TE.TaskEither<DriverError, unknown> =>
  pipe(
    [
      // A role may have rights in the schema without the right to make one.
      ...(exists ? [] : [{ name: 'schema.create', text: `create schema ${schema}` }]),
      ...migrations.slice(version).flatMap(({ steps }) => steps(schema)),
    ],
    TE.traverseSeqArray((step) => runStep(tx, step)),
    TE.chain(() => pipe(migrations.slice(version), TE.traverseSeqArray(record(tx, schema)))),
  )

const runStep = (tx: Queryable, step: Step): TE.TaskEither<DriverError, unknown> =>
  pipe(
    tx.query(step, []),
    TE.chain((rows) => (step.byHand !== undefined && rows.length > 0 ? runStep(tx, step) : TE.right(rows))),
  )

const record =
  (tx: Queryable, schema: string) =>
  ({ version }: Migration): TE.TaskEither<DriverError, unknown> =>
    tx.query(recording(schema), [version, RELEASE])

const recording = (schema: string): Query => ({
  name: 'schema.record',
  text: `insert into ${schema}.metadata (version, made_by) values ($1::int, $2::text)`,
})

/** The SQL that leads from a version to ours, to be read, or run by hand. */
export const schemaSql = (schema: string, from: number): string => {
  const done = migrations.slice(from)
  const records = done.map(
    ({ version }) =>
      `insert into ${schema}.metadata (version, made_by) values (${String(version)}, '${RELEASE}');`,
  )
  return [
    'begin;',
    `select pg_advisory_xact_lock(hashtext('keyrow'), hashtext('${schema}'));`,
    ...(from === 0
      ? [`create schema if not exists ${schema}; -- or nothing, where you have it already`]
      : []),
    ...done.map(({ version, what, locks, steps }) =>
      [`-- version ${String(version)}: ${what}`, `-- ${locks}`, ...steps(schema).map(printed)].join('\n'),
    ),
    records.join('\n'),
    'commit;',
  ].join('\n\n')
}

const printed = ({ text, byHand }: Step): string => `${byHand ?? text};`

/** Whether the server said that a table or column of ours does not exist. */
export const saysMissing = (error: DriverError): boolean =>
  ['42P01', '42703', '3F000'].includes(error.sqlState ?? '')
