// What listing.ts has, for a database that spreads the tables by the session's id over several servers (Citus).
// It refuses locks on many servers in one statement, so sessions are found by one statement, and then each is locked
// and ended by one of its own, on the server that has it.
//
// Why they are safe: each of these looks again under the header's lock. Whoever collects takes a header only if
// nobody else has it; the listing's row is written after the header's, as by listing.end.
import type { Query } from '../port/database.js'
import { ON_PRIMARY } from '../port/primary.js'
import { FENCED } from './expressions.js'
import { sessionsOf } from './listing.js'

export interface DistributedStatements {
  readonly sessionsOf: Query
  readonly whose: Query
  readonly end: Query
  readonly due: Query
  readonly collect: Query
}

// $1 principal, $2 id of the one that stays, or null, $3 id of the only one that is meant, or null
const whose = (schema: string): Query => ({
  name: 'distributed.whose',
  text: `
select session_id::text as id from ${schema}.listing
where principal = $1::text and ($2::uuid is null or session_id <> $2::uuid)
  and ($3::uuid is null or session_id = $3::uuid) and ${ON_PRIMARY}
order by session_id`,
})

// $1 id, $2 principal. As listing.end, for one session, where it is still this principal's.
const end = (schema: string): Query => ({
  name: 'distributed.end',
  text: `
with held as materialized (
  select id from ${schema}.session where id = $1::uuid for update
), fenced as (
  update ${schema}.listing set principal = null, collect_at = ${FENCED}
  where session_id = $1::uuid and principal = $2::text and exists (select from held)
  returning session_id
), ended as (
  delete from ${schema}.session where id = $1::uuid
    and exists (select from held)
    and exists (select from ${schema}.listing where session_id = $1::uuid and principal = $2::text)
  returning id
)
select id::text as id from ended`,
})

// $1 how many
const due = (schema: string): Query => ({
  name: 'distributed.due',
  text: `
select session_id::text as id from ${schema}.listing
where collect_at <= now() and ${ON_PRIMARY}
order by collect_at
limit $1::int`,
})

// $1 id. As listing.collect, for one session.
const collect = (schema: string): Query => ({
  name: 'distributed.collect',
  text: `
with held as materialized (
  select id, created_at <= now() - interval '1 hour' as settled from ${schema}.session
  where id = $1::uuid and expires_at <= now()
  for update skip locked
), emptied as (
  delete from ${schema}.entry where session_id = $1::uuid and exists (select from held)
), ended as (
  delete from ${schema}.session where id = $1::uuid and exists (select from held)
  returning id
), fenced as (
  update ${schema}.listing set principal = null, collect_at = ${FENCED}
  where session_id = $1::uuid and exists (select from held where not settled)
  returning true
), moved as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = $1::uuid and s.id = $1::uuid and s.expires_at > now()
  returning true
), unlisted as (
  delete from ${schema}.listing
  where session_id = $1::uuid
    and (exists (select from held where settled)
         or not exists (select from ${schema}.session where id = $1::uuid))
  returning true
)
select (select count(*) from ended)::int as sessions,
       ((select count(*) from moved) + (select count(*) from fenced) + (select count(*) from unlisted))::int as settled`,
})

/** `schema` is a quoted identifier. */
export const distributedStatements = (schema: string): DistributedStatements => ({
  sessionsOf: sessionsOf(schema),
  whose: whose(schema),
  end: end(schema),
  due: due(schema),
  collect: collect(schema),
})
