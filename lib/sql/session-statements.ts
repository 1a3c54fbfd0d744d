// The statements of a session's rows, each whole and written once. They run the same on every driver: all
// parameters are text or numbers, all results are text, float8 or boolean, and one-word column names
// survive a pool that renames columns.
//
// Why they are safe: the header's row is written first, so that saves, rotations and the destruction of one
// session queue on its row lock (a destruction fences the id before, in a statement of its own); entries are
// written in the order in which jsonb keeps its members, and only under the header's lock. `now()` is the start
// of the statement's transaction. Since no expiration is ever later than the absolute one, `expires_at > now()`
// enforces both. What writes asks for the time that it is (`clock_timestamp()`): it may have waited for a lock.

import { PRINCIPAL } from '../core/well-known-keys.js'
import { ON_PRIMARY, type Query } from '../db/database.js'
import {
  ALIVE_NOW,
  baseRevision,
  changesOfKeysSince,
  changesSince,
  epoch,
  extendedExpiry,
  FENCED,
  initialExpiry,
  isRecent,
  loadedColumns,
  loadedKeys,
  ms,
  RECENT_SAVES,
  secretMatches,
  TOMBSTONE_REVISIONS,
  touchDue,
  versionTagOf,
  withSave,
} from './fragments.js'

// The statements of a save: one that writes, where it may; and those of a transaction that looks before it writes.
// What makes them safe is said in statements.ts.

export interface SaveStatements {
  readonly save: Query
  readonly saveKeys: Query
  readonly saveTidy: Query
  readonly saveKeysTidy: Query
  readonly lock: Query
  readonly lockInTime: Query
  readonly changes: Query
  readonly changesOfKeys: Query
}

// $1 id, $2 {"set": [value], "deleted": []}, $3 idle, $4 save, $5 the revision that the edits were made on,
// $6 its mark, $7 whether the header must still be as it was then: so it must for updates, whose values were computed
// from it. No row: the session is gone, or has another revision, or this save was done before; or so many were
// since that this could no longer be told, should it be one that the network held up.
// A deletion is an upsert too: a DELETE would miss a row that was inserted by the save it waited for.
// `seen` is the header's revision in this statement's snapshot; it is known without looking where nobody has saved since
// $5. When it is not the one before ours, we waited for other saves, and what they wrote is not in `changes`. `since` is
// told by the header as it is afterwards: whoever was 63 revisions behind is one too many behind that, and looks again.
const save = (schema: string, isAlive: string): Query => ({
  name: 'session.save',
  text: saved(schema, isAlive, ofAll(schema)),
})

// The same, where only some keys are known: $8 these. Of what others changed it tells no more than those.
const saveKeys = (schema: string, isAlive: string): Query => ({
  name: 'session.saveKeys',
  text: saved(schema, isAlive, ofKeys(schema)),
})

// Both, for the few saves that also sweep deleted keys, or say whose the session is or how long it lives. At their end
// they have whether it gets another lifetime from now on, its own idle time or null, and its absolute time: the only
// case in which an expiration may move backwards.
const saveTidy = (schema: string, isAlive: string): Query => ({
  name: 'session.saveTidy',
  text: saved(schema, isAlive, ofAll(schema), ['$8', '$9', '$10']),
})

const saveKeysTidy = (schema: string, isAlive: string): Query => ({
  name: 'session.saveKeysTidy',
  text: saved(schema, isAlive, ofKeys(schema), ['$9', '$10', '$11']),
})

const ofAll = (schema: string): string => changesSince(schema, '$1::uuid', 'head.since')

const ofKeys = (schema: string): string =>
  changesOfKeysSince(schema, '$1::uuid', 'head.since', ['$8', "'{}'"])

type Begins = readonly [begins: string, idle: string, absolute: string]

const saved = (schema: string, isAlive: string, changes: string, begins?: Begins): string => `
with head as (
  update ${schema}.session s
  set revision = revision + 1, ${begins === undefined ? `expires_at = ${extendedExpiry('$3')}` : lifetimeBy(begins)},
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
)${begins === undefined ? '' : tidied(schema, begins)}
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from ${schema}.session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then ${changes} end as changes
from head`

const lifetimeBy = ([begins, idle, absolute]: Begins): string => `
      expires_at = case when ${begins}::boolean then ${initialExpiry(`coalesce(${idle}::float8, $3::float8)`, absolute)} else ${extendedExpiry('$3')} end,
      absolute_expires_at = case when ${begins}::boolean then now() + ${ms(absolute)} else absolute_expires_at end,
      idle_ms = case when ${begins}::boolean then ${idle}::float8 else idle_ms end`

// Whether to sweep is asked first, and of no row: the session's entries, however many, are then not looked at.
const tidied = (schema: string, [begins]: Begins): string => `, swept as (
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

// $1 id, $2 save, $3 the revision that is known, $4 its mark. The first of the three statements of a save that has to
// look before it writes.
const lock = (schema: string, isAlive: string): Query => ({
  name: 'session.lock',
  text: locked(schema, isAlive),
})

// The same, where the transaction is the save's own. Should its client fall silent the server ends the transaction, and
// the session is free: between statements, and from PostgreSQL 17 on also in the middle of one, when it was parsed and
// never bound.
const lockInTime = (schema: string, isAlive: string): Query => ({
  name: 'session.lock',
  text: locked(schema, isAlive, [
    atMost('idle_in_transaction_session_timeout', 'idle'),
    atMost('transaction_timeout', 'bound'),
  ]),
})

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

/** For the rest of the transaction, five seconds; a shorter time that the role or the database has stays. */
const atMost = (timeout: string, name: string): string =>
  `case when extract(epoch from current_setting('${timeout}', true)::interval) not between 0.001 and 5
            then set_config('${timeout}', '5000', true) end as ${name}`

// $1 id, $2 revision. The second: it sees all that was committed before the lock was had.
const changes = (schema: string): Query => ({
  name: 'session.changes',
  text: `select ${changesSince(schema, '$1::uuid', '$2::float8')} as changes where ${ON_PRIMARY}`,
})

// $1 id, $2 revision, $3 the keys that are wanted, $4 those of them that are not known
const changesOfKeys = (schema: string): Query => ({
  name: 'session.changesOfKeys',
  text: `select ${changesOfKeysSince(schema, '$1::uuid', '$2::float8', ['$3', '$4'])} as changes where ${ON_PRIMARY}`,
})

/** `schema` is a quoted identifier, `lives` tells whether a session still does. */
const saveStatements = (schema: string, isAlive: string): SaveStatements => ({
  save: save(schema, isAlive),
  saveKeys: saveKeys(schema, isAlive),
  saveTidy: saveTidy(schema, isAlive),
  saveKeysTidy: saveKeysTidy(schema, isAlive),
  lock: lock(schema, isAlive),
  lockInTime: lockInTime(schema, isAlive),
  changes: changes(schema),
  changesOfKeys: changesOfKeys(schema),
})

export interface SessionStatements extends SaveStatements {
  readonly create: Query
  readonly created: Query
  readonly load: Query
  readonly loadKeys: Query
  readonly touch: Query
  readonly refresh: Query
  readonly refreshKeys: Query
  readonly rotate: Query
  readonly rotated: Query
  readonly fence: Query
  readonly destroy: Query
}

// $1 id, $2 hash of the secret in hexadecimal, $3 {"key": [value]}, $4 idle, $5 absolute, $6 save. $7 is $4 where
// that is the session's own, else null.
const create = (schema: string): Query => ({
  name: 'session.create',
  text: `
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
})

// $1 id, $2 hash, $3 idle, $4 touch fraction, $5 the revision that is known, or 0, $6 its mark. One statement is one snapshot:
// header and entries fit each other.
const load = (schema: string): Query => ({
  name: 'session.load',
  text: `
select ${loadedColumns(schema, '$3', '$4')}
from ${schema}.session s cross join lateral (select ${baseRevision('s', '$5', '$6')} as since) known
where s.id = $1::uuid and ${secretMatches('$2')} and ${ON_PRIMARY}`,
})

// As `load`, of some keys: $7 those that are wanted, $8 those of them that are not known.
const loadKeys = (schema: string): Query => ({
  name: 'session.loadKeys',
  text: `
select ${loadedKeys(schema, '$1::uuid', ['$3', '$4'], ['$7', '$8'])}
from ${schema}.session s cross join lateral (select ${baseRevision('s', '$5', '$6')} as since) known
where s.id = $1::uuid and ${secretMatches('$2')} and ${ON_PRIMARY}`,
})

// $1 id, $2 idle
const touch = (schema: string, isAlive: string): Query => ({
  name: 'session.touch',
  text: `
with moved as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}
  where id = $1::uuid and ${isAlive}
  returning revision, expires_at
)
select revision::float8 as revision, ${epoch('expires_at')} as expiration from moved`,
})

// $1 id, $2 idle, $3 touch fraction, $4 the revision that is known, $5 its mark. Revision and changes come from the same
// snapshot; the update adds only time; when it was due and found no row, another request has just ended the session.
const refresh = (schema: string, isAlive: string): Query => ({
  name: 'session.refresh',
  text: refreshed(
    schema,
    isAlive,
    `case when known.revision > known.since then ${changesSince(schema, '$1::uuid', 'known.since')} end`,
  ),
})

// As `refresh`, of some keys: $6 those that are wanted, $7 those of them that are not known.
const refreshKeys = (schema: string, isAlive: string): Query => ({
  name: 'session.refreshKeys',
  text: refreshed(schema, isAlive, changesOfKeysSince(schema, '$1::uuid', 'known.since', ['$6', '$7'])),
})

const refreshed = (schema: string, isAlive: string, changes: string): string => `
with moved as (
  update ${schema}.session
  set expires_at = ${extendedExpiry('$2')}
  where id = $1::uuid and ${isAlive} and ${touchDue('$2', '$3')}
  returning expires_at
), known as (
  select revision, expires_at, ${touchDue('$2', '$3')} as "touchDue", ${versionTagOf('recent_saves')} as "versionTag",
         ${baseRevision('s', '$4', '$5')} as since
  from ${schema}.session s
  where id = $1::uuid and expires_at > now()
)
select known.revision::float8 as revision, ${epoch('coalesce(moved.expires_at, known.expires_at)')} as expiration,
       known."versionTag", known.since, ${changes} as changes
from known left join moved on true
where moved.expires_at is not null or not known."touchDue"`

// $1 id, $2 hash to replace, $3 new hash, $4 grace. Compare and swap: the row lock leaves one winner.
const rotate = (schema: string, isAlive: string): Query => ({
  name: 'session.rotate',
  text: `
update ${schema}.session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end, previous_until = now() + ${ms('$4')}
where id = $1::uuid and ${isAlive} and secret_hash = decode($2::text, 'hex')
returning true as rotated`,
})

// $1 id, $2 save. Asked when a creation finds its id taken: by itself, if its first answer was lost.
const created = (schema: string): Query => ({
  name: 'session.created',
  text: `
select revision::float8 as revision, ${epoch('expires_at')} as expiration
from ${schema}.session
where id = $1::uuid and ${isRecent('$2')} and ${ON_PRIMARY}`,
})

// $1 id, $2 new hash. Asked when a rotation found another secret: its own, if its first answer was lost.
const rotated = (schema: string): Query => ({
  name: 'session.rotated',
  text: `
select secret_hash = decode($2::text, 'hex') as rotated
from ${schema}.session
where id = $1::uuid and expires_at > now() and ${ON_PRIMARY}`,
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
export const sessionStatements = (schema: string, isAlive = ALIVE_NOW): SessionStatements => ({
  ...saveStatements(schema, isAlive),
  create: create(schema),
  created: created(schema),
  load: load(schema),
  loadKeys: loadKeys(schema),
  touch: touch(schema, isAlive),
  refresh: refresh(schema, isAlive),
  refreshKeys: refreshKeys(schema, isAlive),
  rotate: rotate(schema, isAlive),
  rotated: rotated(schema),
  fence: fence(schema),
  destroy: destroy(schema),
})
