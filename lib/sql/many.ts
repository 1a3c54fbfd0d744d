// The statements for several sessions at once: what `session.load` and `session.save` do, for each of many. All of a
// statement is one transaction, and one flush of the log.
//
// Why they are safe: a save takes only headers that nobody else has (`skip locked`), so it waits for no lock and is
// part of no deadlock; the others are left to a save of their own. Under the header's lock it is as in a save of one.
import type { Query } from '../port/database.js'
import { ONCE_ON_PRIMARY } from '../port/primary.js'
import {
  epoch,
  isRecent,
  knownSince,
  loadedColumns,
  loadedKeys,
  moved,
  opens,
  REMEMBERED_SAVES,
  STILL_LIVES,
  withSaves,
  writtenAfter,
} from './expressions.js'

export interface ManyStatements {
  readonly load: Query
  readonly loadKeys: Query
  readonly save: Query
}

// Arrays, as text: $1 ids, $2 hashes, $3 the revisions that are known, $4 their marks; $5 idle, $6 touch fraction.
const load = (schema: string): Query => ({
  name: 'many.load',
  text: `
select i.n::int as n, ${loadedColumns(schema, '$5', '$6')}
from unnest($1::text::uuid[], $2::text::text[], $3::text::float8[], $4::text::text[])
       with ordinality as i (id, secret, revision, mark, n)
join ${schema}.session s on s.id = i.id and ${opens('i.secret')}
cross join lateral (select ${knownSince('s', 'i.revision', 'i.mark')} as since) known
where ${ONCE_ON_PRIMARY}`,
})

// As `load`, of some keys of each, as arrays in text: $7 those that are wanted, $8 those of them that are not known.
const loadKeys = (schema: string): Query => ({
  name: 'many.loadKeys',
  text: `
select i.n::int as n, ${loadedKeys(schema, 's.id', ['$5', '$6'], ['i.wanted', 'i.missing'])}
from unnest($1::text::uuid[], $2::text::text[], $3::text::float8[], $4::text::text[], $7::text::text[], $8::text::text[])
       with ordinality as i (id, secret, revision, mark, wanted, missing, n)
join ${schema}.session s on s.id = i.id and ${opens('i.secret')}
cross join lateral (select ${knownSince('s', 'i.revision', 'i.mark')} as since) known
where ${ONCE_ON_PRIMARY}`,
})

// Arrays, as text, of sessions: $1 ids, $2 the revisions that the edits were made on, $3 their marks, $4 whether the
// header must still be as it was then, $5 the ids of the saves, all of a session's in one; and of edits: $7 whose, by
// place, $8 keys, $9 values, null to delete. $6 idle. A session for which nothing was done gives no row. `seen` is the
// header's revision in the statement's snapshot (known without looking where nobody has saved since $2), from which it
// also sees what changed. Principals are not listed here.
const save = (schema: string): Query => ({
  name: 'many.save',
  text: `
with held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, known.since
  from unnest($1::text::uuid[], $2::text::float8[], $3::text::text[], $4::text::boolean[], $5::text::text[])
         with ordinality as i (id, revision, mark, strict, saves, n)
  join ${schema}.session s on s.id = i.id
  cross join lateral (select ${knownSince('s', 'i.revision', 'i.mark')} as since) known
  where ${STILL_LIVES} and (not i.strict or known.since = s.revision)
    and s.revision - i.revision < ${String(REMEMBERED_SAVES)} and not ${isRecent('left(i.saves, 16)')}
  for update of s skip locked
), head as (
  update ${schema}.session s
  set revision = s.revision + held.times, expires_at = ${moved('$6')},
      recent_saves = ${withSaves('held.saves', '8 * held.times')}
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest($7::text::int[], $8::text::text[], $9::text::text[]) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.n::int as n, head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from ${schema}.session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then ${writtenAfter(schema, 'head.id', 'head.since')} end as changes
from head`,
})

/** `schema` is a quoted identifier. */
export const manyStatements = (schema: string): ManyStatements => ({
  load: load(schema),
  loadKeys: loadKeys(schema),
  save: save(schema),
})
