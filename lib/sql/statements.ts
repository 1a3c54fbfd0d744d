// The statements of a session's rows, each whole and written once. They run the same on every driver: all
// parameters are text or numbers, all results are text, float8 or boolean, and one-word column names
// survive a pool that renames columns.
//
// Why they are safe: the header's row is written first, so that saves, rotations and the destruction of
// one session queue on its row lock; entries are written in the order in which jsonb keeps its members, and
// only under the header's lock. `now()` is the start of the statement's transaction. Since no expiration
// is ever later than the absolute one, `expires_at > now()` enforces both.
import type { Query } from '../port/database.js'

export interface SessionStatements {
  readonly create: Query
  readonly load: Query
  readonly save: Query
  readonly touch: Query
  readonly refresh: Query
  readonly rotate: Query
  readonly alive: Query
  readonly destroy: Query
}

/** A deleted key leaves a row without a value; it is kept for at least this many revisions. */
const GRAVE_REVISIONS = 256

const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`
const epoch = (timestamp: string): string => `(extract(epoch from ${timestamp}) * 1000)::float8`

// Not greatest(now() + idle, …) alone: an expiration never moves backwards, nor past the absolute one.
const moved = (idle: string): string =>
  `greatest(expires_at, least(now() + ${ms(idle)}, absolute_expires_at))`

// Worth a write: it can still move, and by at least this much.
const due = (idle: string, worth: string): string =>
  `(expires_at < absolute_expires_at and now() + ${ms(idle)} - expires_at >= ${ms(worth)})`

// $1 id, $2 hash of the secret in hexadecimal, $3 {"key": [value]}, $4 idle, $5 absolute
const create = (schema: string): Query => ({
  name: 'session.create',
  text: `
with head as (
  insert into ${schema}.session (id, secret_hash, created_at, expires_at, absolute_expires_at, revision)
  values ($1::uuid, decode($2::text, 'hex'), now(),
          now() + least(${ms('$4')}, ${ms('$5')}), now() + ${ms('$5')}, 1)
  returning revision, expires_at
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, 1
  from jsonb_each($3::text::jsonb) as e
)
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration
from head`,
})

// $1 id, $2 hash, $3 idle, $4 worth. One statement is one snapshot: header and entries fit each other.
const load = (schema: string): Query => ({
  name: 'session.load',
  text: `
select s.revision::float8 as revision, ${epoch('s.expires_at')} as expiration, ${due('$3', '$4')} as due,
       (select json_object_agg(e.key, e.value)::text
        from ${schema}.entry e
        where e.session_id = $1::uuid and e.value is not null) as entries
from ${schema}.session s
where s.id = $1::uuid and s.expires_at > now()
  and (s.secret_hash = decode($2::text, 'hex')
       or (s.previous_hash = decode($2::text, 'hex') and s.previous_until > now()))`,
})

// $1 id, $2 {"set": [value], "deleted": []}, $3 idle.
// A deletion is an upsert too: a DELETE would miss a row that was inserted by the save it waited for.
const save = (schema: string): Query => ({
  name: 'session.save',
  text: `
with head as (
  update ${schema}.session
  set revision = revision + 1, expires_at = ${moved('$3')}
  where id = $1::uuid and expires_at > now()
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
)
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration
from head`,
})

// $1 id, $2 idle
const touch = (schema: string): Query => ({
  name: 'session.touch',
  text: `
update ${schema}.session
set expires_at = ${moved('$2')}
where id = $1::uuid and expires_at > now()
returning revision::float8 as revision, ${epoch('expires_at')} as expiration`,
})

// $1 id, $2 idle, $3 worth. Revision and entries come from the same snapshot; the update adds only time.
const refresh = (schema: string): Query => ({
  name: 'session.refresh',
  text: `
with moved as (
  update ${schema}.session
  set expires_at = ${moved('$2')}
  where id = $1::uuid and expires_at > now() and ${due('$2', '$3')}
  returning expires_at
)
select s.revision::float8 as revision, ${epoch('coalesce(moved.expires_at, s.expires_at)')} as expiration,
       false as due,
       (select json_object_agg(e.key, e.value)::text
        from ${schema}.entry e
        where e.session_id = $1::uuid and e.value is not null) as entries
from ${schema}.session s left join moved on true
where s.id = $1::uuid and s.expires_at > now()`,
})

// $1 id, $2 hash to replace, $3 new hash, $4 grace. Compare and swap: the row lock leaves one winner.
const rotate = (schema: string): Query => ({
  name: 'session.rotate',
  text: `
update ${schema}.session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end,
    previous_until = case when $4::float8 > 0 then now() + ${ms('$4')} end
where id = $1::uuid and expires_at > now() and secret_hash = decode($2::text, 'hex')
returning true as rotated`,
})

// $1 id. Only asked by the losers of a rotation.
const alive = (schema: string): Query => ({
  name: 'session.alive',
  text: `
select exists (select from ${schema}.session where id = $1::uuid and expires_at > now()) as alive`,
})

// $1 id. Entries go with it (on delete cascade).
const destroy = (schema: string): Query => ({
  name: 'session.destroy',
  text: `
delete from ${schema}.session where id = $1::uuid`,
})

/** `schema` is a quoted identifier. */
export const sessionStatements = (schema: string): SessionStatements => ({
  create: create(schema),
  load: load(schema),
  save: save(schema),
  touch: touch(schema),
  refresh: refresh(schema),
  rotate: rotate(schema),
  alive: alive(schema),
  destroy: destroy(schema),
})
