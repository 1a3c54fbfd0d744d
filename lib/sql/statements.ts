// The statements of a session's rows, each whole and written once. They run the same on every driver: all
// parameters are text or numbers, all results are text, float8 or boolean, and one-word column names
// survive a pool that renames columns.
//
// Why they are safe: the header's row is written first, so that saves, rotations and the destruction of one
// session queue on its row lock (a destruction fences the id before, in a statement of its own); entries are
// written in the order in which jsonb keeps its members, and only under the header's lock. `now()` is the start
// of the statement's transaction. Since no expiration is ever later than the absolute one, `expires_at > now()`
// enforces both. What writes asks for the time that it is (`clock_timestamp()`): it may have waited for a lock.
import type { Query } from '../port/database.js'
import { PRINCIPAL } from '../session/principal.js'
import { epoch, FENCED, ms, STILL_LIVES } from './expressions.js'

export interface SessionStatements {
  readonly create: Query
  readonly created: Query
  readonly load: Query
  readonly save: Query
  readonly lock: Query
  readonly changes: Query
  readonly touch: Query
  readonly refresh: Query
  readonly rotate: Query
  readonly rotated: Query
  readonly fence: Query
  readonly destroy: Query
}

/**
 * A deleted key leaves a row without a value, which is kept for at least this many revisions: whoever read
 * the session so many revisions ago or fewer can be told what has changed since.
 */
export const GRAVE_REVISIONS = 256

/** A header remembers so many saves, so that one whose answer was lost is not done twice. */
export const REMEMBERED_SAVES = 64

const remembered = (save: string): string =>
  `substring(recent_saves from greatest(1, length(recent_saves) - ${String((REMEMBERED_SAVES - 1) * 8 - 1)})) || decode(${save}::text, 'hex')`
const isRecent = (save: string): string => `position(decode(${save}::text, 'hex') in recent_saves) > 0`

// {"set": [value], "deleted": []}: what was written after a revision.
const writtenAfter = (schema: string, revision: string): string => `
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from ${schema}.entry e
        where e.session_id = $1::uuid and e.revision > ${revision})`

// Not greatest(now() + idle, …) alone: an expiration never moves backwards, nor past the absolute one.
const moved = (idle: string): string =>
  `greatest(expires_at, least(now() + ${ms(idle)}, absolute_expires_at))`

// Worth a write: it can still move, and by at least this much.
const due = (idle: string, worth: string): string =>
  `(expires_at < absolute_expires_at and now() + ${ms(idle)} - expires_at >= ${ms(worth)})`

// $1 id, $2 hash of the secret in hexadecimal, $3 {"key": [value]}, $4 idle, $5 absolute, $6 save
const create = (schema: string): Query => ({
  name: 'session.create',
  text: `
with head as (
  insert into ${schema}.session
         (id, secret_hash, created_at, expires_at, absolute_expires_at, revision, recent_saves)
  values ($1::uuid, decode($2::text, 'hex'), now(),
          now() + least(${ms('$4')}, ${ms('$5')}), now() + ${ms('$5')}, 1, decode($6::text, 'hex'))
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
})

// $1 id, $2 hash, $3 idle, $4 worth. One statement is one snapshot: header and entries fit each other.
// An expired session is told from one that never was, but nothing of it is shown.
const load = (schema: string): Query => ({
  name: 'session.load',
  text: `
select s.revision::float8 as revision, ${epoch('s.expires_at')} as expiration, ${due('$3', '$4')} as due,
       s.expires_at <= now() as expired,
       case when s.expires_at > now() then
         (select json_object_agg(e.key, e.value)::text
          from ${schema}.entry e
          where e.session_id = $1::uuid and e.value is not null) end as entries
from ${schema}.session s
where s.id = $1::uuid
  and (s.secret_hash = decode($2::text, 'hex')
       or (s.previous_hash = decode($2::text, 'hex') and s.previous_until > now()))`,
})

// $1 id, $2 {"set": [value], "deleted": []}, $3 idle, $4 save, $5 the revision that the edits were made on,
// $6 whether the header must still be at that revision: so it must for updates, whose values were computed
// from it. No row: the session is gone, or has another revision, or this save was done before; or so many were
// since that this could no longer be told, should it be one that the network held up.
// A deletion is an upsert too: a DELETE would miss a row that was inserted by the save it waited for.
// \`seen\` is the header's revision in this statement's snapshot. When it is not the one before ours, we waited
// for other saves, and what they wrote is not in \`changes\`.
const save = (schema: string, lives: string): Query => ({
  name: 'session.save',
  text: `
with head as (
  update ${schema}.session
  set revision = revision + 1, expires_at = ${moved('$3')}, recent_saves = ${remembered('$4')}
  where id = $1::uuid and ${lives}
    and (not $6::boolean or revision = $5::float8) and not ${isRecent('$4')}
    and revision - $5::float8 < ${String(REMEMBERED_SAVES)}
  returning revision, expires_at
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), swept as (
  delete from ${schema}.entry e using head
  where head.revision % ${String(GRAVE_REVISIONS)} = 0
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= head.revision - ${String(GRAVE_REVISIONS)}
    and not $2::text::jsonb ? e.key
), listed as (
  insert into ${schema}.listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> '${PRINCIPAL}' ->> 0, head.expires_at
  from head where $2::text::jsonb ? '${PRINCIPAL}'
  on conflict (session_id) do update set principal = excluded.principal
)
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration,
       before.revision::float8 as seen,
       case when before.revision > $5::float8 then ${writtenAfter(schema, '$5::float8')} end as changes
from head cross join (select revision from ${schema}.session where id = $1::uuid) as before`,
})

// $1 id, $2 save. The first of the three statements of a save that has to look before it writes. Should its client
// fall silent the server ends the transaction, and the session is free: between statements, and from PostgreSQL 17
// on also in the middle of one, when it was parsed and never bound.
const lock = (schema: string, lives: string): Query => ({
  name: 'session.lock',
  text: `
select revision::float8 as revision, ${epoch('expires_at')} as expiration, ${isRecent('$2')} as done,
       set_config('idle_in_transaction_session_timeout', '5000', true) as idle,
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '5000', true) end as bound
from ${schema}.session
where id = $1::uuid and ${lives}
for update`,
})

// $1 id, $2 revision. The second: it sees all that was committed before the lock was had.
const changes = (schema: string): Query => ({
  name: 'session.changes',
  text: `select ${writtenAfter(schema, '$2::float8')} as changes`,
})

// $1 id, $2 idle
const touch = (schema: string, lives: string): Query => ({
  name: 'session.touch',
  text: `
with moved as (
  update ${schema}.session
  set expires_at = ${moved('$2')}
  where id = $1::uuid and ${lives}
  returning revision, expires_at
)
select revision::float8 as revision, ${epoch('expires_at')} as expiration from moved`,
})

// $1 id, $2 idle, $3 worth, $4 the revision that is known. Revision and changes come from the same snapshot;
// the update adds only time; when it was due and found no row, another request has just ended the session.
// Where graves may have been swept since, all is read again (since 0).
const refresh = (schema: string, lives: string): Query => ({
  name: 'session.refresh',
  text: `
with moved as (
  update ${schema}.session
  set expires_at = ${moved('$2')}
  where id = $1::uuid and ${lives} and ${due('$2', '$3')}
  returning expires_at
), known as (
  select id, revision, expires_at, ${due('$2', '$3')} as due,
         case when revision - $4::float8 < ${String(GRAVE_REVISIONS)} then $4::float8 else 0 end as since
  from ${schema}.session
  where id = $1::uuid and expires_at > now()
)
select known.revision::float8 as revision, ${epoch('coalesce(moved.expires_at, known.expires_at)')} as expiration,
       known.since, ${writtenAfter(schema, 'known.since')} as changes
from known left join moved on true
where moved.expires_at is not null or not known.due`,
})

// $1 id, $2 hash to replace, $3 new hash, $4 grace. Compare and swap: the row lock leaves one winner.
const rotate = (schema: string, lives: string): Query => ({
  name: 'session.rotate',
  text: `
update ${schema}.session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end, previous_until = now() + ${ms('$4')}
where id = $1::uuid and ${lives} and secret_hash = decode($2::text, 'hex')
returning true as rotated`,
})

// $1 id, $2 save. Asked when a creation finds its id taken: by itself, if its first answer was lost.
const created = (schema: string): Query => ({
  name: 'session.created',
  text: `
select revision::float8 as revision, ${epoch('expires_at')} as expiration
from ${schema}.session
where id = $1::uuid and ${isRecent('$2')}`,
})

// $1 id, $2 new hash. Asked when a rotation found another secret: its own, if its first answer was lost.
const rotated = (schema: string): Query => ({
  name: 'session.rotated',
  text: `
select secret_hash = decode($2::text, 'hex') as rotated
from ${schema}.session
where id = $1::uuid and expires_at > now()`,
})

// $1 id. The first of the two statements of a destruction: the listing keeps the id for a while. From its commit on
// no creation can commit, however long the network held it up: it finds the id taken. One that was under way is
// waited for, and the second statement sees it.
const fence = (schema: string): Query => ({
  name: 'session.fence',
  text: `
insert into ${schema}.listing (session_id, collect_at) values ($1::uuid, ${FENCED})
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at`,
})

// $1 id. Entries go with it (on delete cascade).
const destroy = (schema: string): Query => ({
  name: 'session.destroy',
  text: `
delete from ${schema}.session where id = $1::uuid`,
})

/** `schema` is a quoted identifier, `lives` tells whether a session still does. */
export const sessionStatements = (schema: string, lives = STILL_LIVES): SessionStatements => ({
  create: create(schema),
  created: created(schema),
  load: load(schema),
  save: save(schema, lives),
  lock: lock(schema, lives),
  changes: changes(schema),
  touch: touch(schema, lives),
  refresh: refresh(schema, lives),
  rotate: rotate(schema, lives),
  rotated: rotated(schema),
  fence: fence(schema),
  destroy: destroy(schema),
})
