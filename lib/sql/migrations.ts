// The versions of the schema, in order, each as the plain SQL that leads to it from the one before. All of a
// version's steps run in one transaction. They only add, so that a release that knows the version before goes
// on serving while they run and afterwards; and none of them rewrites a table that is in use, nor locks one for long.
import type { Query } from '../db/database.js'

/**
 * One statement of a migration. One that does a part of its work at a time, so that it is answered within any
 * deadline, is run until it gives no row; `byHand` does the same at once.
 */
export interface Step extends Query {
  readonly byHand?: string
}

export interface Migration {
  readonly version: number
  readonly what: string
  /** What its locks keep waiting, and how long. */
  readonly locks: string
  /** `schema` is a quoted identifier. */
  readonly steps: (schema: string) => readonly Step[]
  /** The columns that a database of this version has, with their types; of later versions too. */
  readonly columns: readonly string[]
}

/**
 * Fill factors leave room in each page, so that the update of a header or of a value stays in its page and
 * touches no index.
 */
const sessionAndEntry: Migration = {
  version: 1,
  what: 'sessions and their entries',
  locks: 'makes new tables; nothing waits',
  steps: (schema) => [
    {
      name: 'schema.session',
      text: `
create table ${schema}.session (
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
create table ${schema}.entry (
  session_id uuid not null references ${schema}.session (id) on delete cascade,
  key text not null,
  value jsonb, -- null: the key was deleted at this revision
  revision bigint not null,
  primary key (session_id, key)
) with (fillfactor = 85)`,
    },
  ],
  columns: [
    'session.id uuid',
    'session.secret_hash bytea',
    'session.previous_hash bytea',
    'session.previous_until timestamp with time zone',
    'session.created_at timestamp with time zone',
    'session.expires_at timestamp with time zone',
    'session.absolute_expires_at timestamp with time zone',
    'session.revision bigint',
    'session.recent_saves bytea',
    'entry.session_id uuid',
    'entry.key text',
    'entry.value jsonb',
    'entry.revision bigint',
  ],
}

/**
 * Where sessions are found otherwise than by their id. It is a table of its own so that a save, which moves
 * `expires_at` each time, has no index to keep. For the same reason `collect_at` is not the expiration but a
 * time before which it is not worth looking; whoever looks moves it. No foreign key: making one would lock
 * the sessions, and releases of version 1 do not know the table. What they leave out, the collector mends.
 */
const listing: Migration = {
  version: 2,
  what: 'a listing of sessions, by principal and by when to collect them; the schema knows its version',
  locks:
    'reads the sessions (access share) and locks only what is new; takes about a second for 100,000 sessions',
  steps: (schema) => [
    {
      name: 'schema.listing',
      text: `
create table ${schema}.listing (
  session_id uuid primary key,
  principal text, -- whose session it is, if anybody's
  collect_at timestamptz not null -- no expiry before that time
)`,
    },
    {
      name: 'schema.listing.principal',
      text: `
create index listing_principal on ${schema}.listing (principal) where principal is not null`,
    },
    {
      name: 'schema.listing.collect',
      text: `
create index listing_collect_at on ${schema}.listing (collect_at)`,
    },
    {
      name: 'schema.listing.rows',
      text: `
with listed as (
  insert into ${schema}.listing (session_id, collect_at)
  select id, expires_at
  from ${schema}.session
  where id > coalesce((select session_id from ${schema}.listing order by session_id desc limit 1),
                      '00000000-0000-0000-0000-000000000000')
  order by id
  limit 10000
  returning true
)
select count(*)::int as listed from listed having count(*) > 0`,
      byHand: `
insert into ${schema}.listing (session_id, collect_at) select id, expires_at from ${schema}.session`,
    },
    {
      name: 'schema.metadata',
      text: `
create table ${schema}.metadata (
  version integer primary key,
  made_at timestamptz not null default now(),
  made_by text not null -- the release of keyrow
)`,
    },
  ],
  columns: [
    'listing.session_id uuid',
    'listing.principal text',
    'listing.collect_at timestamp with time zone',
    'metadata.version integer',
    'metadata.made_at timestamp with time zone',
    'metadata.made_by text',
  ],
}

/**
 * A column that is null in all rows that are there is an entry in the catalogue, and no row is written. But it takes
 * the lock that waits for everybody, and for which everybody then waits: so it gives up soon, to be tried again, and
 * comes last. Of the defaults of the key only that of this version's row is used.
 */
const ownTimesAndIds: Migration = {
  version: 3,
  what: 'a lifetime of its own for a session; a key by which the ids that were made here are known',
  locks:
    'locks the sessions for a moment (access exclusive), and gives up after a second when a transaction has them for longer',
  steps: (schema) => [
    {
      name: 'schema.patience',
      text: `
select set_config('lock_timeout', '1s', true)`,
    },
    {
      name: 'schema.metadata.key',
      text: `
alter table ${schema}.metadata add column id_key text`,
    },
    {
      name: 'schema.metadata.key.default',
      text: `
alter table ${schema}.metadata alter column id_key
  set default gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text`,
    },
    {
      name: 'schema.session.idle',
      text: `
alter table ${schema}.session add column idle_ms float8`,
    },
  ],
  columns: ['metadata.id_key text', 'session.idle_ms double precision'],
}

export const migrations: readonly Migration[] = [sessionAndEntry, listing, ownTimesAndIds]

/** The version that this release works with. */
export const LATEST = migrations.length

/** The first version that says in the database which one it is. */
export const FIRST_RECORDED = 2

/** The first version that keeps a key for ids. */
export const FIRST_WITH_IDS = 3

/** What every database of a version has. */
export const columnsOf = (version: number): readonly string[] =>
  migrations.slice(0, version).flatMap(({ columns }) => columns)
