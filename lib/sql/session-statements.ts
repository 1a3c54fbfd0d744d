// Defines the statements for one session. All parameters are text or numbers, and all results are text, float8 or
// boolean, so the statements work in the same way with every driver. The names of result columns have no underscore, so
// no pool transforms them.
//
// Concurrency: Each change of a session first writes the header. So saves, rotations and the destruction of one session
// wait for each other. Another statement fences the id before a destruction. Entries are written only under the
// header's lock, in jsonb's key order. `expires_at` is at most the absolute expiration, so one comparison enforces both
// limits. A write may have waited for a lock, so it compares `expires_at` with `clock_timestamp()`.

import { PRINCIPAL } from '../core/well-known-keys.js'
import { ON_PRIMARY, unplanned } from '../db/database.js'
import {
  baseRevision,
  changesOfKeysSince,
  changesSince,
  epoch,
  extendedExpiry,
  FENCED,
  fence,
  initialExpiry,
  isRecent,
  loadedColumns,
  loadedKeys,
  ms,
  RECENT_SAVES,
  secretMatches,
  statementsOf,
  TOMBSTONE_REVISIONS,
  touchDue,
  versionTagOf,
  withSave,
} from './fragments.js'

// `changes` is the SQL for the changes of all or some keys. A full save, which has `lifetime`, also deletes old
// tombstones, and writes the principal and the lifetime. `lifetime` names three parameters: whether the session gets a
// new lifetime, its own idle time or null, and its absolute time. Only a new lifetime may make an expiration earlier.
interface SaveParts {
  readonly changes: string
  readonly lifetime?: Lifetime
}

type Lifetime = readonly [begins: string, idle: string, absolute: string]

const saved = (schema: string, isAlive: string, { changes, lifetime }: SaveParts): string => `
with head as (
  update ${schema}.session s
  set revision = revision + 1, ${lifetime === undefined ? `expires_at = ${extendedExpiry('$3')}` : newLifetime(lifetime)},
      recent_saves = ${withSave('$4')}
  where id = $1::uuid and ${isAlive}
    and (not $7::boolean or ${baseRevision('s', '$5', '$6')} = revision) and not ${isRecent('$4')}
    and revision - $5::float8 < ${String(RECENT_SAVES)}
  returning revision, expires_at, ${baseRevision('s', '$5', '$6')} as since
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)${lifetime === undefined ? '' : maintenance(schema, lifetime)}
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from ${schema}.session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then ${changes} end as changes
from head`

const newLifetime = ([begins, idle, absolute]: Lifetime): string => `
      expires_at = case when ${begins}::boolean then ${initialExpiry(`coalesce(${idle}::float8, $3::float8)`, absolute)} else ${extendedExpiry('$3')} end,
      absolute_expires_at = case when ${begins}::boolean then now() + ${ms(absolute)} else absolute_expires_at end,
      idle_ms = case when ${begins}::boolean then ${idle}::float8 else idle_ms end`

// The condition on the revision is checked before the scan. In most full saves it is false, and no entry is read.
const maintenance = (schema: string, [begins]: Lifetime): string => `, tombstones as (
  delete from ${schema}.entry e
  where (select head.revision % ${String(TOMBSTONE_REVISIONS)} = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - ${String(TOMBSTONE_REVISIONS)}
    and not $2::text::jsonb ? e.key
), listed as (
  insert into ${schema}.listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> '${PRINCIPAL}' ->> 0, head.expires_at
  from head where $2::text::jsonb ? '${PRINCIPAL}' or ${begins}::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? '${PRINCIPAL}' then excluded.principal else listing.principal end,
      collect_at = case when ${begins}::boolean then excluded.collect_at else listing.collect_at end
)`

const changesOfAll = (schema: string): string => changesSince(schema, '$1::uuid', 'head.since')

const changesOfSome = (schema: string): string =>
  changesOfKeysSince(schema, '$1::uuid', 'head.since', [keysOf('$8'), "'{}'"])

const locked = (schema: string, isAlive: string, more: readonly string[] = []): string => `
select ${[
  'revision::float8 as revision',
  `${epoch('expires_at')} as expiration`,
  `${isRecent('$2')} as done`,
  `${baseRevision('s', '$3', '$4')} as since`,
  ...more,
].join(',\n       ')}
from ${schema}.session s
where id = $1::uuid and ${isAlive}
for update`

/** Limits a timeout to five seconds for the rest of the transaction. A shorter timeout is not changed. */
const atMost = (timeout: string, name: string): string =>
  `case when extract(epoch from current_setting('${timeout}', true)::interval) not between 0.001 and 5
            then set_config('${timeout}', '5000', true) end as ${name}`

const refreshed = (schema: string, isAlive: string, changes: string): string => `
with extended as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}
  where id = $1::uuid and ${isAlive} and ${touchDue('$2', '$3')}
  returning expires_at
), base as (
  select revision, expires_at, ${touchDue('$2', '$3')} as "touchDue", ${versionTagOf('recent_saves')} as "versionTag",
         ${baseRevision('s', '$4', '$5')} as since
  from ${schema}.session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, ${epoch('coalesce(extended.expires_at, base.expires_at)')} as expiration,
       base."versionTag", base.since, ${changes} as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"`

/** A parameter with keys, as an array. */
const keysOf = (parameter: string): string => unplanned(`${parameter}::text::text[]`)

export type SessionStatements = ReturnType<typeof sessionStatements>

export const sessionStatements = statementsOf('session', {
  // $1 id, $2 `{"key": [value], "deletedKey": []}`, $3 idle time, $4 idempotency key, $5 base revision, $6 version tag
  // of $5, $7 whether the header must still have revision $5. $7 is true in a save of updates without the row lock,
  // since the new values were computed from the base revision. The result has no row if the session is gone, has
  // another revision although $7 is true, or already has this save. There is also no row if the base revision is so old
  // that the header may have lost the idempotency key of this save. A deletion is an upsert too, since a DELETE would
  // miss a row that a concurrent save inserted. `changes` and the revision `seen` come from the statement's snapshot.
  // If this save waited for other saves, `seen` is not the revision before this save, and `changes` lacks their writes.
  // `since` is computed after this save, so 63 other saves after the base revision make it 0.
  save: (schema, isAlive) => saved(schema, isAlive, { changes: changesOfAll(schema) }),

  // Like `save`, with $8 loaded keys. `changes` has only these keys.
  saveKeys: (schema, isAlive) => saved(schema, isAlive, { changes: changesOfSome(schema) }),

  saveFull: (schema, isAlive) =>
    saved(schema, isAlive, { changes: changesOfAll(schema), lifetime: ['$8', '$9', '$10'] }),

  saveKeysFull: (schema, isAlive) =>
    saved(schema, isAlive, { changes: changesOfSome(schema), lifetime: ['$9', '$10', '$11'] }),

  // $1 id, $2 idempotency key, $3 base revision, $4 version tag of $3. This statement begins the transaction of a save
  // under the row lock. If the client then sends nothing for five seconds, the server ends the transaction. Since
  // PostgreSQL 17, five seconds are also the limit of the whole transaction.
  lock: (schema, isAlive) =>
    locked(schema, isAlive, [
      atMost('idle_in_transaction_session_timeout', 'idle'),
      atMost('transaction_timeout', 'bound'),
    ]),

  // Like `lock`, but in a transaction of the program. The timeouts of this transaction are not changed.
  lockInTransaction: locked,

  // $1 id, $2 revision. The second statement of a save under the row lock. It sees every commit that preceded the lock.
  changes: (schema) =>
    `select ${changesSince(schema, '$1::uuid', '$2::float8')} as changes where ${ON_PRIMARY}`,

  // $1 id, $2 revision, $3 wanted keys, $4 wanted keys that are not loaded
  changesOfKeys: (schema) =>
    `select ${changesOfKeysSince(schema, '$1::uuid', '$2::float8', [keysOf('$3'), keysOf('$4')])} as changes where ${ON_PRIMARY}`,

  // $1 id, $2 hash of the secret in hexadecimal, $3 `{"key": [value]}`, $4 idle time, $5 absolute time, $6 idempotency
  // key, $7 the session's own idle time or null
  create: (schema) => `
with head as (
  insert into ${schema}.session
         (id, secret_hash, created_at, expires_at, absolute_expires_at, idle_ms, revision, recent_saves)
  values ($1::uuid, decode($2::text, 'hex'), now(), ${initialExpiry('$4', '$5')}, now() + ${ms('$5')},
          $7::float8, 1, decode($6::text, 'hex'))
  returning revision, expires_at
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, 1
  from jsonb_each($3::text::jsonb) as e
), listed as (
  insert into ${schema}.listing (session_id, principal, collect_at)
  select $1::uuid, $3::text::jsonb -> '${PRINCIPAL}' ->> 0, head.expires_at
  from head
)
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration
from head`,

  // $1 id, $2 idempotency key. Returns a row if an earlier attempt of the same creation inserted the session.
  created: (schema) => `
select revision::float8 as revision, ${epoch('expires_at')} as expiration
from ${schema}.session
where id = $1::uuid and ${isRecent('$2')} and ${ON_PRIMARY}`,

  // $1 id, $2 hash of the secret, $3 idle time, $4 touch fraction, $5 base revision or 0, $6 version tag of $5. The
  // statement reads the header and the entries from one snapshot.
  load: (schema) => `
select ${loadedColumns(schema, '$3', '$4')}
from ${schema}.session s cross join lateral (select ${baseRevision('s', '$5', '$6')} as since) base
where s.id = $1::uuid and ${secretMatches('$2')} and ${ON_PRIMARY}`,

  // Like `load`, with $7 wanted keys, $8 wanted keys that are not loaded
  loadKeys: (schema) => `
select ${loadedKeys(schema, '$1::uuid', ['$3', '$4'], [keysOf('$7'), keysOf('$8')])}
from ${schema}.session s cross join lateral (select ${baseRevision('s', '$5', '$6')} as since) base
where s.id = $1::uuid and ${secretMatches('$2')} and ${ON_PRIMARY}`,

  // $1 id, $2 idle time
  touch: (schema, isAlive) => `
with extended as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}
  where id = $1::uuid and ${isAlive}
  returning revision, expires_at
)
select revision::float8 as revision, ${epoch('expires_at')} as expiration from extended`,

  // $1 id, $2 idle time, $3 touch fraction, $4 base revision, $5 version tag of $4. The revision and the changes come
  // from one snapshot. If a touch was due and updated no row, the session has just ended, and the result has no row.
  refresh: (schema, isAlive) =>
    refreshed(
      schema,
      isAlive,
      `case when base.revision > base.since then ${changesSince(schema, '$1::uuid', 'base.since')} end`,
    ),

  // Like `refresh`, with $6 wanted keys, $7 wanted keys that are not loaded
  refreshKeys: (schema, isAlive) =>
    refreshed(
      schema,
      isAlive,
      changesOfKeysSince(schema, '$1::uuid', 'base.since', [keysOf('$6'), keysOf('$7')]),
    ),

  // $1 id, $2 hash to replace, $3 new hash, $4 grace time. The row lock makes the statement a compare-and-swap. So only
  // one of several concurrent rotations succeeds.
  rotate: (schema, isAlive) => `
update ${schema}.session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end, previous_until = now() + ${ms('$4')}
where id = $1::uuid and ${isAlive} and secret_hash = decode($2::text, 'hex')
returning true as rotated`,

  // $1 id, $2 new hash. Returns true if an earlier attempt of the same rotation set the new hash.
  rotated: (schema) => `
select secret_hash = decode($2::text, 'hex') as rotated
from ${schema}.session
where id = $1::uuid and expires_at > now() and ${ON_PRIMARY}`,

  // $1 id. This is the first statement of a destruction. After its commit, a delayed creation with this id fails. The
  // fence waits for a creation in progress, so the second statement sees the created session.
  fence: (schema) => fence(schema, `values ($1::uuid, ${FENCED})`),

  // $1 id. The foreign key of `entry` deletes the entries.
  destroy: (schema) => `
delete from ${schema}.session where id = $1::uuid`,
})
