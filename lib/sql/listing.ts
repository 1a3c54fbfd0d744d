// The statements about many sessions at once: whose they are, and which of them are garbage. All parameters and
// results are as in statements.ts.
//
// Why they are safe: whoever ends sessions locks their headers first, as every save does, and in the order of
// their ids. A collector waits for nobody: what somebody else holds it leaves for another time. It takes the
// listing's row before the header's; whoever has the header may wait for it, it never waits for them.
import type { Query } from '../port/database.js'
import { ON_PRIMARY } from '../port/primary.js'
import { epoch, FENCED } from './expressions.js'

export interface ListingStatements {
  readonly sessionsOf: Query
  readonly endAll: Query
  readonly strays: Query
  readonly collect: Query
}

// $1 principal
export const sessionsOf = (schema: string): Query => ({
  name: 'listing.sessions',
  text: `
select s.id::text as id, ${epoch('s.created_at')} as created, ${epoch('s.expires_at')} as expiration
from ${schema}.listing l join ${schema}.session s on s.id = l.session_id
where l.principal = $1::text and s.expires_at > now() and ${ON_PRIMARY}
order by s.created_at desc, s.id`,
})

// $1 principal, $2 id of the one that stays, or null, $3 id of the only one that is meant, or null. Waits for the saves that are under way.
const endAll = (schema: string): Query => ({
  name: 'listing.end',
  text: `
with held as materialized (
  select id from ${schema}.session
  where id in (select session_id from ${schema}.listing where principal = $1::text)
    and ($2::uuid is null or id <> $2::uuid) and ($3::uuid is null or id = $3::uuid)
  order by id
  for update
), ended as (
  delete from ${schema}.session s using held where s.id = held.id returning s.id
), fenced as (
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id
)
select id::text as id from ended order by id`,
})

// $1 how many, $2 the last id that was looked at, or null. Sessions that a release of version 1 made while others
// had upgraded already: some of the table at a time, and only where there may be such releases.
const strays = (schema: string): Query => ({
  name: 'listing.strays',
  text: `
with looked as materialized (
  select id, expires_at from ${schema}.session
  where ($2::uuid is null or id > $2::uuid)
    and not exists (select from ${schema}.metadata where version = 1)
    and exists (select from ${schema}.metadata where made_at > now() - interval '30 days')
  order by id
  limit $1::int
), listed as (
  insert into ${schema}.listing (session_id, collect_at)
  select id, expires_at from looked
  where not exists (select from ${schema}.listing l where l.session_id = looked.id)
  order by id
  on conflict do nothing
)
select (select id::text from looked order by id desc limit 1) as last`,
})

// $1 how many. One batch: of the sessions that it is time to look at, the expired ones are locked and deleted with
// all that hangs from them; the living ones, whose expiration only moves forward, are looked at again when they
// may have expired, and are not locked; those that are gone leave the listing. The id of one that is not an hour
// old is kept, as by its destruction. An expiration that has moved since is seen: what waits for a lock looks at
// the latest version of the row. Entries are deleted here and not only by the cascade, which takes them session
// by session.
const collect = (schema: string): Query => ({
  name: 'listing.collect',
  text: `
with alone as materialized (
  select pg_try_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('${schema}')) as held
), due as materialized (
  select session_id from ${schema}.listing
  where collect_at <= now() and (select held from alone)
  order by collect_at
  limit $1::int
  for update skip locked
), held as materialized (
  select id, created_at <= now() - interval '1 hour' as settled from ${schema}.session
  where id in (select session_id from due) and expires_at <= now()
  for update skip locked
), emptied as (
  delete from ${schema}.entry e using held where e.session_id = held.id
), ended as (
  delete from ${schema}.session s using held where s.id = held.id
  returning s.id
), fenced as (
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id and not held.settled
  returning true
), moved as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = s.id and s.id in (select session_id from due) and s.expires_at > now()
  returning true
), unlisted as (
  delete from ${schema}.listing l using due
  where l.session_id = due.session_id
    and (exists (select from held where held.id = due.session_id and held.settled)
         or not exists (select from ${schema}.session s where s.id = due.session_id))
  returning true
)
select (select count(*) from ended)::int as sessions, (select count(*) from due)::int as due,
       ((select count(*) from moved) + (select count(*) from fenced) + (select count(*) from unlisted))::int as settled,
       not (select held from alone) as busy`,
})

/** `schema` is a quoted identifier. */
export const listingStatements = (schema: string): ListingStatements => ({
  sessionsOf: sessionsOf(schema),
  endAll: endAll(schema),
  strays: strays(schema),
  collect: collect(schema),
})
