// Defines the versions of the schema in order. Each version is the SQL that upgrades the previous version. All steps
// run in one transaction. The steps only add to the schema, so that a release for the previous version continues to
// work. No step rewrites a table in use, or locks a table for long.
import type { Query } from '../db/database.js'

// One statement of a migration. A step with `byHand` does one batch of work within the deadline, and is repeated until
// it returns no row. `byHand` is the statement that a person runs in psql to do all this work at once.
export interface Step extends Query {
  readonly byHand?: string
}

export interface Migration {
  readonly version: number
  readonly what: string
  /** Says which statements the locks of this migration block, and for how long. */
  readonly locks: string
  /** `schema` is a quoted identifier. */
  readonly steps: (schema: string) => readonly Step[]
  /** The columns that this version adds, with their types. */
  readonly columns: readonly string[]
}

/** Makes the steps of a migration from their SQL texts. A text is a string, or an object that also has `byHand`. */
const stepsOf =
  (texts: (schema: string) => Readonly<Record<string, string | Omit<Step, 'name'>>>) =>
  (schema: string): readonly Step[] =>
    Object.entries(texts(schema)).map(([name, text]) => ({
      name,
      ...(typeof text === 'string' ? { text } : text),
    }))

const columns = (table: string, ...all: readonly string[]): readonly string[] =>
  all.map((column) => `${table}.${column}`)

// The fill factors leave free space in each page. So an updated row stays in its page, and no index changes.
const sessionAndEntry: Migration = {
  version: 1,
  what: 'sessions and their entries',
  locks: 'creates new tables; blocks nothing',
  steps: stepsOf((schema) => ({
    'schema.session': `
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
    'schema.entry': `
create table ${schema}.entry (
  session_id uuid not null references ${schema}.session (id) on delete cascade,
  key text not null,
  value jsonb, -- null: the key was deleted at this revision
  revision bigint not null,
  primary key (session_id, key)
) with (fillfactor = 85)`,
  })),
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

// The table `listing` indexes sessions by principal and by expiry. A save changes `expires_at` in the header, and must
// change no index. So the indexes belong to a separate table. A session cannot expire before its `collect_at`. The
// cleanup updates `collect_at`. The table has no foreign key, since the creation of a foreign key would lock the
// sessions. Releases for version 1 do not write the table, so the cleanup adds their sessions.
const listing: Migration = {
  version: 2,
  what: 'a listing of sessions by principal and by expiry; the version of the schema',
  locks:
    'reads the sessions (access share) and locks only new tables; takes about a second for 100,000 sessions',
  steps: stepsOf((schema) => ({
    'schema.listing': `
create table ${schema}.listing (
  session_id uuid primary key,
  principal text, -- whose session it is, if anybody's
  collect_at timestamptz not null -- no expiry before that time
)`,
    'schema.listing.principal': `
create index listing_principal on ${schema}.listing (principal) where principal is not null`,
    'schema.listing.collect': `
create index listing_collect_at on ${schema}.listing (collect_at)`,
    'schema.listing.rows': {
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
    'schema.metadata': `
create table ${schema}.metadata (
  version integer primary key,
  made_at timestamptz not null default now(),
  made_by text not null -- the release of keyrow
)`,
  })),
  columns: [
    'listing.session_id uuid',
    'listing.principal text',
    'listing.collect_at timestamp with time zone',
    'metadata.version integer',
    'metadata.made_at timestamp with time zone',
    'metadata.made_by text',
  ],
}

// Adding a column that is null in all rows changes only the catalogue. But it needs a lock that waits for running
// transactions and blocks new ones. So this step comes last. If the step does not get the lock within a second, the
// upgrade fails and is retried. Later rows of `metadata` get an `id_key` too, but only the key of version 3 is used.
const ownTimesAndIds: Migration = {
  version: 3,
  what: 'a lifetime of its own for a session; a key for verifiable ids',
  locks:
    'locks the sessions for a moment (access exclusive), and fails after a second if a transaction holds them longer',
  steps: stepsOf((schema) => ({
    'schema.patience': `
select set_config('lock_timeout', '1s', true)`,
    'schema.metadata.key': `
alter table ${schema}.metadata add column id_key text`,
    'schema.metadata.key.default': `
alter table ${schema}.metadata alter column id_key
  set default gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text`,
    'schema.session.idle': `
alter table ${schema}.session add column idle_ms float8`,
  })),
  columns: ['metadata.id_key text', 'session.idle_ms double precision'],
}

const flowTable = (schema: string) => ({
  'schema.flow': `
create table ${schema}.flow (
  session_id uuid not null,
  id uuid not null,
  name text not null,
  version integer not null, -- the version of the definition that began the flow
  input jsonb not null,
  seed text not null,
  principal text, -- whose flow it is, if anybody's
  caller jsonb, -- the continuation that gets the result
  idle_ms float8,
  generation integer not null, -- a cut raises it
  latest uuid, -- the last continuation
  answers integer not null,
  size integer not null, -- the characters of all records
  ended jsonb,
  used_at timestamptz not null,
  expires_at timestamptz,
  collect_at timestamptz not null, -- the session expires at this time at the latest
  primary key (session_id, id)
) with (fillfactor = 70)`,
  'schema.flow.collect': `
create index flow_collect_at on ${schema}.flow (collect_at)`,
})

const rowTables = (schema: string) => ({
  'schema.continuation': `
create table ${schema}.continuation (
  session_id uuid not null,
  flow_id uuid not null,
  id uuid not null,
  parent uuid, -- null: the first page was answered
  generation integer not null, -- it can be answered if this is the flow's generation
  depth integer not null,
  step text not null, -- the step that the flow has reached
  records jsonb not null, -- the answer to the parent's page, and the effects after it
  made text not null, -- the write that made the row
  made_at timestamptz not null,
  primary key (session_id, flow_id, id),
  foreign key (session_id, flow_id) references ${schema}.flow (session_id, id) on delete cascade
)`,
  'schema.effect': `
create table ${schema}.effect (
  session_id uuid not null,
  flow_id uuid not null,
  scope uuid not null, -- a continuation, or the flow
  name text not null,
  occurrence integer not null,
  claim uuid not null,
  claimed_until timestamptz not null,
  value jsonb, -- null: the effect has not ended
  primary key (session_id, flow_id, scope, name, occurrence),
  foreign key (session_id, flow_id) references ${schema}.flow (session_id, id) on delete cascade
)`,
})

// The tables of flows have no foreign key to `session`, since the creation of a foreign key would lock the sessions.
const flows: Migration = {
  version: 4,
  what: 'flows, with their continuations and effects',
  locks: 'creates new tables; blocks nothing',
  steps: stepsOf((schema) => ({ ...flowTable(schema), ...rowTables(schema) })),
  columns: [
    ...columns(
      'flow',
      'session_id uuid',
      'id uuid',
      'name text',
      'version integer',
      'input jsonb',
      'seed text',
    ),
    ...columns('flow', 'principal text', 'caller jsonb', 'idle_ms double precision', 'generation integer'),
    ...columns('flow', 'latest uuid', 'answers integer', 'size integer', 'ended jsonb'),
    ...columns(
      'flow',
      'used_at timestamp with time zone',
      'expires_at timestamp with time zone',
      'collect_at timestamp with time zone',
    ),
    ...columns(
      'continuation',
      'session_id uuid',
      'flow_id uuid',
      'id uuid',
      'parent uuid',
      'generation integer',
    ),
    ...columns('continuation', 'depth integer', 'step text', 'records jsonb', 'made text'),
    ...columns('continuation', 'made_at timestamp with time zone'),
    ...columns('effect', 'session_id uuid', 'flow_id uuid', 'scope uuid', 'name text', 'occurrence integer'),
    ...columns('effect', 'claim uuid', 'claimed_until timestamp with time zone', 'value jsonb'),
  ],
}

// Saves are inserted in the order of their time. So a BRIN index, which has a few pages only, finds the old ones.
const lateSaves: Migration = {
  version: 5,
  what: 'the late saves of `writeBehind`',
  locks: 'creates a new table; blocks nothing',
  steps: stepsOf((schema) => ({
    'schema.late_save': `
create table ${schema}.late_save (
  session_id uuid not null,
  save bytea not null, -- the idempotency keys of the saves that were stored together
  stored_at timestamptz not null,
  primary key (session_id, save)
)`,
    'schema.late_save_stored_at': `
create index late_save_stored_at on ${schema}.late_save using brin (stored_at) with (pages_per_range = 16)`,
  })),
  columns: columns('late_save', 'session_id uuid', 'save bytea', 'stored_at timestamp with time zone'),
}

export const migrations: readonly Migration[] = [sessionAndEntry, listing, ownTimesAndIds, flows, lateSaves]

export const LATEST = migrations.length

export const TABLES = [
  'session',
  'entry',
  'listing',
  'metadata',
  'flow',
  'continuation',
  'effect',
  'late_save',
] as const

/** The names of keyrow's tables, as a list of SQL literals. */
export const TABLE_NAMES = TABLES.map((table) => `'${table}'`).join(', ')

/** The first version that is recorded in the database. */
export const FIRST_RECORDED = 2

/** The first version with a key for verifiable ids. */
export const FIRST_WITH_IDS = 3

/** Returns the columns that every database of this version has. */
export const columnsOf = (version: number): readonly string[] =>
  migrations.slice(0, version).flatMap(({ columns }) => columns)
