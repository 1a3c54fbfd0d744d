-- principals.deleteExpired
with single as materialized (
  select pg_try_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('"keyrow"')) as held
), due as materialized (
  select session_id from "keyrow".listing
  where collect_at <= now() and (select held from single)
  order by collect_at
  limit $1::int
  for update skip locked
), held as materialized (
  select id, created_at <= now() - interval '1 hour' as aged from "keyrow".session
  where id in (select session_id from due) and expires_at <= now()
  for update skip locked
), emptied as (
  delete from "keyrow".entry e using held where e.session_id = held.id
), ended as (
  delete from "keyrow".session s using held where s.id = held.id returning s.id
), flows as (
  delete from "keyrow".flow f using ended where f.session_id = ended.id
), fenced as (
  update "keyrow".listing l set principal = null, collect_at = now() + interval '1 hour'
  from held where l.session_id = held.id and not held.aged
  returning true
), postponed as (
  update "keyrow".listing l set collect_at = s.expires_at
  from "keyrow".session s where l.session_id = s.id and s.id in (select session_id from due) and s.expires_at > now()
  returning true
), unlisted as (
  delete from "keyrow".listing l using due
  where l.session_id = due.session_id
    and (exists (select from held where held.id = due.session_id and held.aged)
         or not exists (select from "keyrow".session s where s.id = due.session_id))
  returning true
)
select (select count(*) from ended)::int as sessions, (select count(*) from due)::int as due,
       ((select count(*) from postponed) + (select count(*) from fenced) + (select count(*) from unlisted))::int as handled,
       not (select held from single) as busy
-- plan:
--   Result
--     CTE single: Result
--     CTE due: Limit
--       InitPlan 2: CTE Scan on single
--       LockRows
--         Result
--           Index Scan using listing_collect_at on listing
--     CTE held: LockRows
--       Nested Loop Inner
--         Hashed Aggregate
--           CTE Scan on due
--         Memoize
--           Index Scan using session_pkey on session
--     CTE emptied: Delete on entry
--       Nested Loop Inner
--         CTE Scan on held
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE ended: Delete on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE flows: Delete on flow
--       Nested Loop Inner
--         CTE Scan on ended
--         Index Scan using flow_pkey on flow
--     CTE fenced: Update on listing
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using listing_pkey on listing
--     CTE postponed: Update on listing
--       Nested Loop Inner
--         Nested Loop Inner
--           Hashed Aggregate
--             CTE Scan on due
--           Index Scan using session_pkey on session
--         Index Scan using listing_pkey on listing
--     CTE unlisted: Delete on listing
--       Nested Loop Inner
--         CTE Scan on due
--           SubPlan 11: CTE Scan on held
--           SubPlan 12: Index Only Scan using session_pkey on session
--         Index Scan using listing_pkey on listing
--     InitPlan 15: Aggregate
--       CTE Scan on ended
--     InitPlan 16: Aggregate
--       CTE Scan on due
--     InitPlan 17: Aggregate
--       CTE Scan on postponed
--     InitPlan 18: Aggregate
--       CTE Scan on fenced
--     InitPlan 19: Aggregate
--       CTE Scan on unlisted
--     InitPlan 20: CTE Scan on single

-- principals.endAll
with held as materialized (
  select id from "keyrow".session
  where id in (select session_id from "keyrow".listing where principal = $1::text)
    and ($2::uuid is null or id <> $2::uuid) and ($3::uuid is null or id = $3::uuid)
  order by id
  for update
), ended as (
  delete from "keyrow".session s using held where s.id = held.id returning s.id
), flows as (
  delete from "keyrow".flow f using ended where f.session_id = ended.id
), fenced as (
  update "keyrow".listing l set principal = null, collect_at = now() + interval '1 hour'
  from held where l.session_id = held.id
  returning true
)
select id::text as id from ended order by id
-- plan:
--   Sort
--     CTE held: LockRows
--       Sort
--         Nested Loop Inner
--           Index Scan using listing_principal on listing
--           Index Scan using session_pkey on session
--     CTE ended: Delete on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE flows: Delete on flow
--       Nested Loop Inner
--         CTE Scan on ended
--         Index Scan using flow_pkey on flow
--     CTE fenced: Update on listing
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using listing_pkey on listing
--     CTE Scan on ended

-- principals.listMissing
with examined as materialized (
  select id, expires_at from "keyrow".session
  where ($2::uuid is null or id > $2::uuid)
    and not exists (select from "keyrow".metadata where version = 1)
    and exists (select from "keyrow".metadata where made_at > now() - interval '30 days')
  order by id
  limit $1::int
), listed as (
  insert into "keyrow".listing (session_id, collect_at)
  select id, expires_at from examined
  where not exists (select from "keyrow".listing l where l.session_id = examined.id)
  order by id
  on conflict do nothing
)
select (select id::text from examined order by id desc limit 1) as last
-- plan:
--   Result
--     CTE examined: Limit
--       InitPlan 1: Seq Scan on metadata
--       InitPlan 2: Seq Scan on metadata
--       Sort
--         Result
--           Seq Scan on session
--     CTE listed: Insert on listing
--       Subquery Scan
--         Sort
--           Hash Join Anti
--             CTE Scan on examined
--             Hash
--               Seq Scan on listing
--     InitPlan 5: Limit
--       Sort
--         CTE Scan on examined

-- principals.sessionsOf
select s.id::text as id, date_part('epoch', s.created_at) * 1000 as created, date_part('epoch', s.expires_at) * 1000 as expiration,
       date_part('epoch', greatest(s.created_at, s.expires_at - coalesce(s.idle_ms, $2::float8) * interval '1 millisecond')) * 1000 as "lastSeen",
       e.value::text as device
from "keyrow".listing l join "keyrow".session s on s.id = l.session_id
left join "keyrow".entry e on e.session_id = s.id and e.key = 'keyrow:device'
where l.principal = $1::text and s.expires_at > now() and clock_timestamp() is not null
order by s.created_at desc, s.id
-- plan:
--   Sort
--     Nested Loop Left
--       Nested Loop Inner
--         Index Scan using listing_principal on listing
--         Index Scan using session_pkey on session
--       Index Scan using entry_pkey on entry
