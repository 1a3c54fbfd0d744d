// Defines the statements for one session, except those of a save. All parameters are text or numbers, and all results are text, float8 or
// boolean, so the statements work in the same way with every driver. The names of result columns have no underscore, so
// no pool transforms them.
//
// Concurrency: Each change of a session first writes the header. So saves, rotations and the destruction of one session
// wait for each other. Another statement fences the id before a destruction. Entries are written only under the
// header's lock, in jsonb's key order. `expires_at` is at most the absolute expiration, so one comparison enforces both
// limits. A write may have waited for a lock, so it compares `expires_at` with `clock_timestamp()`.

import { PRINCIPAL } from '../core/well-known-keys.js'
import { ON_PRIMARY } from '../db/database.js'
import {
  baseRevision,
  changesOfKeysSince,
  changesSince,
  commitParts,
  type Durability,
  epoch,
  extendedExpiry,
  FENCED,
  fence,
  initialExpiry,
  isRecent,
  keysArray,
  loadedColumns,
  loadedKeys,
  ms,
  secretMatches,
  statementsOf,
  touchDue,
  versionTagOf,
} from './fragments.js'

const refreshed = (schema: string, isAlive: string, durability: Durability, changes: string): string => `
with ${commitParts(durability).cte}extended as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}${commitParts(durability).from}
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

export type SessionStatements = ReturnType<typeof sessionStatements>

export const sessionStatements = statementsOf('session', {
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
select ${loadedKeys(schema, '$1::uuid', ['$3', '$4'], [keysArray('$7'), keysArray('$8')])}
from ${schema}.session s cross join lateral (select ${baseRevision('s', '$5', '$6')} as since) base
where s.id = $1::uuid and ${secretMatches('$2')} and ${ON_PRIMARY}`,

  // $1 id, $2 idle time
  touch: (schema, isAlive, durability) => `
with ${commitParts(durability).cte}extended as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}${commitParts(durability).from}
  where id = $1::uuid and ${isAlive}
  returning revision, expires_at
)
select revision::float8 as revision, ${epoch('expires_at')} as expiration from extended`,

  // $1 id, $2 idle time, $3 touch fraction, $4 base revision, $5 version tag of $4. The revision and the changes come
  // from one snapshot. If a touch was due and updated no row, the session has just ended, and the result has no row.
  refresh: (schema, isAlive, durability) =>
    refreshed(
      schema,
      isAlive,
      durability,
      `case when base.revision > base.since then ${changesSince(schema, '$1::uuid', 'base.since')} end`,
    ),

  // Like `refresh`, with $6 wanted keys, $7 wanted keys that are not loaded
  refreshKeys: (schema, isAlive, durability) =>
    refreshed(
      schema,
      isAlive,
      durability,
      changesOfKeysSince(schema, '$1::uuid', 'base.since', [keysArray('$6'), keysArray('$7')]),
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

  // $1 id. The foreign key of `entry` deletes the entries. The flows are deleted after the header, as in `endingOf`.
  destroy: (schema) => `
with ended as (
  delete from ${schema}.session where id = $1::uuid returning id
)
delete from ${schema}.flow where session_id = $1::uuid and (select count(*) from ended) >= 0`,
})
