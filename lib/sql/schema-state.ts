// Which version of the schema a database holds: told by itself, or, before it had a place to say it, by its tables.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import { type DriverError, SchemaMismatch } from '../base/errors.js'
import type { Query, Queryable, Row } from '../port/database.js'
import { ON_PRIMARY } from '../port/primary.js'
import { columnsOf, FIRST_RECORDED, LATEST } from './migrations.js'
import { decodedRow } from './rows.js'

export const DEFAULT_SCHEMA = 'keyrow'

/** A schema's name as a quoted identifier; throws a `RangeError` for a name that would need escaping. */
export const quotedSchema = (schema: string): string => {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
    throw new RangeError(`"${schema}" cannot name a schema: use lower-case letters, digits and _, at most 63`)
  return `"${schema}"`
}

/** A version as the database remembers it. */
export interface MadeVersion {
  readonly version: number
  /** Milliseconds since 1970. */
  readonly madeAt: number
  /** The release of keyrow. */
  readonly madeBy: string
}

export interface SchemaState {
  /** 0: nothing of ours is there. */
  readonly version: number
  /** Whether the PostgreSQL schema is there. */
  readonly exists: boolean
  readonly made: readonly MadeVersion[]
}

export type SchemaError = DriverError | SchemaMismatch

/** A quoted identifier without its quotes. */
export const bare = (schema: string): string => schema.slice(1, -1)

const FOUND = `
select to_regnamespace($1::text) is not null as exists,
       coalesce((select json_agg(c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod))
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c', 'S', 'i')
                   and c.relname in ('session', 'entry', 'listing', 'metadata')), '[]')::text as columns
where ${ON_PRIMARY}`

const found: Query = { name: 'schema.found', text: FOUND }

const foundRow = decodedRow(t.type({ exists: t.boolean, columns: t.string }), found)

const versions = (schema: string): Query => ({
  name: 'schema.versions',
  text: `
select version, (extract(epoch from made_at) * 1000)::float8 as made, made_by as by
from ${schema}.metadata
where ${ON_PRIMARY}
order by version`,
})

/**
 * What the database holds. A `SchemaMismatch` for tables of our names that are not ours, or not whole: they
 * are left alone.
 */
export const schemaState = (database: Queryable, schema: string): TE.TaskEither<SchemaError, SchemaState> =>
  pipe(
    database.query(found, [schema]),
    TE.chainEitherKW(([row]) => foundRow(row ?? {})),
    TE.chainW(({ exists, columns }) => {
      const present = JSON.parse(columns) as readonly string[]
      return present.some((column) => column.startsWith('metadata.'))
        ? recorded(database, schema, present)
        : TE.fromEither(unrecorded(schema, exists, present))
    }),
  )

// Before there was a place to say it: told by the tables themselves.
const unrecorded = (
  schema: string,
  exists: boolean,
  present: readonly string[],
): E.Either<SchemaMismatch, SchemaState> => {
  const version = FIRST_RECORDED - 1
  if (present.length === 0) return E.right({ version: 0, exists, made: [] })
  return lacking(version, present) === undefined && !present.some((column) => column.startsWith('listing.'))
    ? E.right({ version, exists, made: [] })
    : E.left(notOurs(schema, `it lacks ${lacking(version, present) ?? 'metadata.version integer'}`))
}

const recorded = (
  database: Queryable,
  schema: string,
  present: readonly string[],
): TE.TaskEither<SchemaError, SchemaState> => {
  const strange = columnsOf(FIRST_RECORDED).find(
    (column) => column.startsWith('metadata.') && !present.includes(column),
  )
  if (strange !== undefined) return TE.left(notOurs(schema, `it lacks ${strange}`))
  return pipe(
    database.query(versions(schema), []),
    TE.chainEitherKW(E.traverseArray(versionRow(schema))),
    TE.chainEitherKW((made) => whole(schema, present, made)),
  )
}

const VersionRow = t.type({ version: t.number, made: t.number, by: t.string })

const versionRow = (schema: string) => (row: Row) =>
  pipe(
    decodedRow(VersionRow, versions(schema))(row),
    E.map(({ version, made, by }): MadeVersion => ({ version, madeAt: made, madeBy: by })),
  )

const whole = (
  schema: string,
  present: readonly string[],
  made: readonly MadeVersion[],
): E.Either<SchemaMismatch, SchemaState> => {
  const version = made.at(-1)?.version ?? 0
  if (version < FIRST_RECORDED) return E.left(notOurs(schema, 'its table metadata names no version'))
  const lacks = lacking(version, present)
  return version <= LATEST && lacks !== undefined
    ? E.left(notOurs(schema, `its metadata say version ${String(version)}, but it lacks ${lacks}`))
    : E.right({ version, exists: true, made })
}

const lacking = (version: number, present: readonly string[]): string | undefined =>
  columnsOf(version).find((column) => !present.includes(column))

const notOurs = (schema: string, why: string): SchemaMismatch =>
  new SchemaMismatch(
    bare(schema),
    `it has tables of our names (session, entry, listing, metadata) that are not ours, or not whole: ${why}; ` +
      `they were left alone. Choose another schema, or repair this one`,
  )
