-- citus.deleteExpired
with held as materialized (
  select id, created_at <= now() - interval '1 hour' as aged from "keyrow".session
  where id = $1::uuid and expires_at <= now()
  for update skip locked
), emptied as (
  delete from "keyrow".entry where session_id = $1::uuid and exists (select from held)
), ended as (
  delete from "keyrow".session where id = $1::uuid and exists (select from held)
  returning id
), flows as (
  delete from "keyrow".flow where session_id = $1::uuid and exists (select from ended)
), fenced as (
  update "keyrow".listing set principal = null, collect_at = now() + interval '1 hour'
  where session_id = $1::uuid and exists (select from held where not aged)
  returning true
), postponed as (
  update "keyrow".listing l set collect_at = s.expires_at
  from "keyrow".session s where l.session_id = $1::uuid and s.id = $1::uuid and s.expires_at > now()
  returning true
), unlisted as (
  delete from "keyrow".listing
  where session_id = $1::uuid
    and (exists (select from held where aged)
         or not exists (select from "keyrow".session where id = $1::uuid))
  returning true
)
select (select count(*) from ended)::int as sessions,
       ((select count(*) from postponed) + (select count(*) from fenced) + (select count(*) from unlisted))::int as handled
-- plan:
--   Result
--     CTE held: LockRows
--       Index Scan using session_pkey on session
--     CTE emptied: Delete on entry
--       InitPlan 2: CTE Scan on held
--       Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE ended: Delete on session
--       InitPlan 4: CTE Scan on held
--       Result
--         Index Scan using session_pkey on session
--     CTE flows: Delete on flow
--       InitPlan 6: CTE Scan on ended
--       Result
--         Index Scan using flow_pkey on flow
--     CTE fenced: Update on listing
--       InitPlan 8: CTE Scan on held
--       Result
--         Index Scan using listing_pkey on listing
--     CTE postponed: Update on listing
--       Nested Loop Inner
--         Index Scan using listing_pkey on listing
--         Index Scan using session_pkey on session
--     CTE unlisted: Delete on listing
--       InitPlan 11: CTE Scan on held
--       InitPlan 12: Index Only Scan using session_pkey on session
--       Result
--         Index Scan using listing_pkey on listing
--     InitPlan 14: Aggregate
--       CTE Scan on ended
--     InitPlan 15: Aggregate
--       CTE Scan on postponed
--     InitPlan 16: Aggregate
--       CTE Scan on fenced
--     InitPlan 17: Aggregate
--       CTE Scan on unlisted

-- citus.due
select session_id::text as id from "keyrow".listing
where collect_at <= now() and clock_timestamp() is not null
order by collect_at
limit $1::int
-- plan:
--   Limit
--     Index Scan using listing_collect_at on listing

-- citus.end
with held as materialized (
  select id from "keyrow".session where id = $1::uuid for update
), fenced as (
  update "keyrow".listing set principal = null, collect_at = now() + interval '1 hour'
  where session_id = $1::uuid and principal = $2::text and exists (select from held)
  returning session_id
), ended as (
  delete from "keyrow".session where id = $1::uuid
    and exists (select from held)
    and exists (select from "keyrow".listing where session_id = $1::uuid and principal = $2::text)
  returning id
), flows as (
  delete from "keyrow".flow where session_id = $1::uuid and exists (select from ended)
)
select id::text as id from ended
-- plan:
--   CTE Scan on ended
--     CTE held: LockRows
--       Index Scan using session_pkey on session
--     CTE fenced: Update on listing
--       InitPlan 2: CTE Scan on held
--       Result
--         Index Scan using listing_principal on listing
--     CTE ended: Delete on session
--       InitPlan 4: CTE Scan on held
--       InitPlan 5: Index Scan using listing_principal on listing
--       Result
--         Index Scan using session_pkey on session
--     CTE flows: Delete on flow
--       InitPlan 7: CTE Scan on ended
--       Result
--         Index Scan using flow_pkey on flow

-- citus.idsOf
select session_id::text as id from "keyrow".listing
where principal = $1::text and ($2::uuid is null or session_id <> $2::uuid)
  and ($3::uuid is null or session_id = $3::uuid) and clock_timestamp() is not null
order by session_id
-- plan:
--   Sort
--     Index Scan using listing_principal on listing
