// The tables, and how they come to be: once for each database, whoever comes first, under a lock.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type DriverError, SchemaMismatch } from '../base/errors.js'
import type { Database, Query, Queryable } from '../port/database.js'

export const DEFAULT_SCHEMA = 'keyrow'

/** A schema's name as a quoted identifier; throws a `RangeError` for a name that would need escaping. */
export const quotedSchema = (schema: string): string => {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
    throw new RangeError(`"${schema}" cannot name a schema: use lower-case letters, digits and _, at most 63`)
  return `"${schema}"`
}

/**
 * The schema as the statements that make it. Fill factors leave room in each page, so that the update of a
 * header or of a value stays in its page and touches no index.
 */
const schemaStatements = (schema: string): readonly Query[] => [
  { name: 'schema.create', text: `create schema if not exists ${schema}` },
  {
    name: 'schema.session',
    text: `
create table if not exists ${schema}.session (
  id uuid primary key,
  secret_hash bytea not null,
  previous_hash bytea,
  previous_until timestamptz,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  absolute_expires_at timestamptz not null,
  revision bigint not null,
  recent_saves bytea not null -- the ids of the last saves, eight bytes each
) with (fillfactor = 70)`,
  },
  {
    name: 'schema.entry',
    text: `
create table if not exists ${schema}.entry (
  session_id uuid not null references ${schema}.session (id) on delete cascade,
  key text not null,
  value jsonb, -- null: the key was deleted at this revision
  revision bigint not null,
  primary key (session_id, key)
) with (fillfactor = 85)`,
  },
]

/** Makes sure that the tables are there; where they are missing, they are made, unless `create` is false. */
export const prepareSchema = (
  database: Database,
  schema: string,
  create: boolean,
): TE.TaskEither<DriverError | SchemaMismatch, void> =>
  pipe(
    isPresent(database, schema),
    TE.chainW(
      (present): TE.TaskEither<DriverError | SchemaMismatch, void> =>
        present ? TE.right(undefined) : create ? createSchema(database, schema) : absent(schema),
    ),
  )

const absent = (schema: string): TE.TaskEither<SchemaMismatch, never> =>
  TE.left(
    new SchemaMismatch(
      schema.slice(1, -1),
      'the tables session and entry are missing, and createSchema is off',
    ),
  )

const isPresent = (database: Queryable, schema: string): TE.TaskEither<DriverError, boolean> =>
  pipe(
    database.query({ name: 'schema.present', text: PRESENT }, [`${schema}.session`, `${schema}.entry`]),
    TE.map((rows) => rows[0]?.['present'] === true),
  )

const PRESENT = 'select to_regclass($1::text) is not null and to_regclass($2::text) is not null as present'

const EXISTS = 'select to_regnamespace($1::text) is not null as exists'

const createSchema = (database: Database, schema: string): TE.TaskEither<DriverError, void> =>
  database.transaction((tx) =>
    pipe(
      // `if not exists` alone is not safe between processes that start together.
      tx.query(
        { name: 'schema.lock', text: `select pg_advisory_xact_lock(hashtext('keyrow'), hashtext($1::text))` },
        [schema],
      ),
      TE.chain(() => tx.query({ name: 'schema.exists', text: EXISTS }, [schema])),
      // A role may have rights in the schema without the right to make one.
      TE.map(([row]) => schemaStatements(schema).slice(row?.['exists'] === true ? 1 : 0)),
      TE.chain(TE.traverseSeqArray((query: Query) => tx.query(query, []))),
      TE.map(() => undefined),
    ),
  )

/** Whether the server said that a table or column of ours does not exist. */
export const saysMissing = (error: DriverError): boolean =>
  ['42P01', '42703', '3F000'].includes(error.sqlState ?? '')
