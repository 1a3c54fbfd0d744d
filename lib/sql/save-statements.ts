// The statements of a save: one that writes, where it may; and those of a transaction that looks before it writes.
// What makes them safe is said in statements.ts.
import type { Query } from '../port/database.js'
import { ON_PRIMARY } from '../port/primary.js'
import { PRINCIPAL } from '../session/principal.js'
import {
  begun,
  epoch,
  GRAVE_REVISIONS,
  isRecent,
  keysWrittenAfter,
  knownSince,
  moved,
  ms,
  REMEMBERED_SAVES,
  withSave,
  writtenAfter,
} from './expressions.js'

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
const save = (schema: string, lives: string): Query => ({
  name: 'session.save',
  text: saved(schema, lives, ofAll(schema)),
})

// The same, where only some keys are known: $8 these. Of what others changed it tells no more than those.
const saveKeys = (schema: string, lives: string): Query => ({
  name: 'session.saveKeys',
  text: saved(schema, lives, ofKeys(schema)),
})

// Both, for the few saves that also sweep deleted keys, or say whose the session is or how long it lives. At their end
// they have whether it gets another lifetime from now on, its own idle time or null, and its absolute time: the only
// case in which an expiration may move backwards.
const saveTidy = (schema: string, lives: string): Query => ({
  name: 'session.saveTidy',
  text: saved(schema, lives, ofAll(schema), ['$8', '$9', '$10']),
})

const saveKeysTidy = (schema: string, lives: string): Query => ({
  name: 'session.saveKeysTidy',
  text: saved(schema, lives, ofKeys(schema), ['$9', '$10', '$11']),
})

const ofAll = (schema: string): string => writtenAfter(schema, '$1::uuid', 'head.since')

const ofKeys = (schema: string): string => keysWrittenAfter(schema, '$1::uuid', 'head.since', ['$8', "'{}'"])

type Begins = readonly [begins: string, idle: string, absolute: string]

const saved = (schema: string, lives: string, changes: string, begins?: Begins): string => `
with head as (
  update ${schema}.session s
  set revision = revision + 1, ${begins === undefined ? `expires_at = ${moved('$3')}` : lifetimeBy(begins)},
      recent_saves = ${withSave('$4')}
  where id = $1::uuid and ${lives}
    and (not $7::boolean or ${knownSince('s', '$5', '$6')} = revision) and not ${isRecent('$4')}
    and revision - $5::float8 < ${String(REMEMBERED_SAVES)}
  returning revision, expires_at, ${knownSince('s', '$5', '$6')} as since
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
      expires_at = case when ${begins}::boolean then ${begun(`coalesce(${idle}::float8, $3::float8)`, absolute)} else ${moved('$3')} end,
      absolute_expires_at = case when ${begins}::boolean then now() + ${ms(absolute)} else absolute_expires_at end,
      idle_ms = case when ${begins}::boolean then ${idle}::float8 else idle_ms end`

// Whether to sweep is asked first, and of no row: the session's entries, however many, are then not looked at.
const tidied = (schema: string, [begins]: Begins): string => `, swept as (
  delete from ${schema}.entry e
  where (select head.revision % ${String(GRAVE_REVISIONS)} = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - ${String(GRAVE_REVISIONS)}
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
const lock = (schema: string, lives: string): Query => ({
  name: 'session.lock',
  text: locked(schema, lives),
})

// The same, where the transaction is the save's own. Should its client fall silent the server ends the transaction, and
// the session is free: between statements, and from PostgreSQL 17 on also in the middle of one, when it was parsed and
// never bound.
const lockInTime = (schema: string, lives: string): Query => ({
  name: 'session.lock',
  text: locked(schema, lives, [
    atMost('idle_in_transaction_session_timeout', 'idle'),
    atMost('transaction_timeout', 'bound'),
  ]),
})

const locked = (schema: string, lives: string, more: readonly string[] = []): string => `
select ${[
  'revision::float8 as revision',
  `${epoch('expires_at')} as expiration`,
  `${isRecent('$2')} as done`,
  `${knownSince('s', '$3', '$4')} as since`,
  ...more,
].join(',\n       ')}
from ${schema}.session s
where id = $1::uuid and ${lives}
for update`

/** For the rest of the transaction, five seconds; a shorter time that the role or the database has stays. */
const atMost = (timeout: string, name: string): string =>
  `case when extract(epoch from current_setting('${timeout}', true)::interval) not between 0.001 and 5
            then set_config('${timeout}', '5000', true) end as ${name}`

// $1 id, $2 revision. The second: it sees all that was committed before the lock was had.
const changes = (schema: string): Query => ({
  name: 'session.changes',
  text: `select ${writtenAfter(schema, '$1::uuid', '$2::float8')} as changes where ${ON_PRIMARY}`,
})

// $1 id, $2 revision, $3 the keys that are wanted, $4 those of them that are not known
const changesOfKeys = (schema: string): Query => ({
  name: 'session.changesOfKeys',
  text: `select ${keysWrittenAfter(schema, '$1::uuid', '$2::float8', ['$3', '$4'])} as changes where ${ON_PRIMARY}`,
})

/** `schema` is a quoted identifier, `lives` tells whether a session still does. */
export const saveStatements = (schema: string, lives: string): SaveStatements => ({
  save: save(schema, lives),
  saveKeys: saveKeys(schema, lives),
  saveTidy: saveTidy(schema, lives),
  saveKeysTidy: saveKeysTidy(schema, lives),
  lock: lock(schema, lives),
  lockInTime: lockInTime(schema, lives),
  changes: changes(schema),
  changesOfKeys: changesOfKeys(schema),
})
