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
import { ON_PRIMARY } from '../port/primary.js'
import { PRINCIPAL } from '../session/principal.js'
import {
  begun,
  due,
  epoch,
  FENCED,
  isRecent,
  keysWrittenAfter,
  knownSince,
  loadedColumns,
  loadedKeys,
  markOf,
  moved,
  ms,
  opens,
  STILL_LIVES,
  writtenAfter,
} from './expressions.js'
import { type SaveStatements, saveStatements } from './save-statements.js'

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
  values ($1::uuid, decode($2::text, 'hex'), now(), ${begun('$4', '$5')}, now() + ${ms('$5')},
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
from ${schema}.session s cross join lateral (select ${knownSince('s', '$5', '$6')} as since) known
where s.id = $1::uuid and ${opens('$2')} and ${ON_PRIMARY}`,
})

// As `load`, of some keys: $7 those that are wanted, $8 those of them that are not known.
const loadKeys = (schema: string): Query => ({
  name: 'session.loadKeys',
  text: `
select ${loadedKeys(schema, '$1::uuid', ['$3', '$4'], ['$7', '$8'])}
from ${schema}.session s cross join lateral (select ${knownSince('s', '$5', '$6')} as since) known
where s.id = $1::uuid and ${opens('$2')} and ${ON_PRIMARY}`,
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

// $1 id, $2 idle, $3 touch fraction, $4 the revision that is known, $5 its mark. Revision and changes come from the same
// snapshot; the update adds only time; when it was due and found no row, another request has just ended the session.
const refresh = (schema: string, lives: string): Query => ({
  name: 'session.refresh',
  text: refreshed(
    schema,
    lives,
    `case when known.revision > known.since then ${writtenAfter(schema, '$1::uuid', 'known.since')} end`,
  ),
})

// As `refresh`, of some keys: $6 those that are wanted, $7 those of them that are not known.
const refreshKeys = (schema: string, lives: string): Query => ({
  name: 'session.refreshKeys',
  text: refreshed(schema, lives, keysWrittenAfter(schema, '$1::uuid', 'known.since', ['$6', '$7'])),
})

const refreshed = (schema: string, lives: string, changes: string): string => `
with moved as (
  update ${schema}.session
  set expires_at = ${moved('$2')}
  where id = $1::uuid and ${lives} and ${due('$2', '$3')}
  returning expires_at
), known as (
  select revision, expires_at, ${due('$2', '$3')} as due, ${markOf('recent_saves')} as mark,
         ${knownSince('s', '$4', '$5')} as since
  from ${schema}.session s
  where id = $1::uuid and expires_at > now()
)
select known.revision::float8 as revision, ${epoch('coalesce(moved.expires_at, known.expires_at)')} as expiration,
       known.mark, known.since, ${changes} as changes
from known left join moved on true
where moved.expires_at is not null or not known.due`

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
export const sessionStatements = (schema: string, lives = STILL_LIVES): SessionStatements => ({
  ...saveStatements(schema, lives),
  create: create(schema),
  created: created(schema),
  load: load(schema),
  loadKeys: loadKeys(schema),
  touch: touch(schema, lives),
  refresh: refresh(schema, lives),
  refreshKeys: refreshKeys(schema, lives),
  rotate: rotate(schema, lives),
  rotated: rotated(schema),
  fence: fence(schema),
  destroy: destroy(schema),
})
