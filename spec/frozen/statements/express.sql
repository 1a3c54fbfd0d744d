-- express.all
select json_object_agg(e.key, e.value)::text as entries
from "keyrow".session s join "keyrow".entry e on e.session_id = s.id
where s.expires_at > now() and e.value is not null and exists (select from "keyrow".entry c where c.session_id = s.id and c.key = 'cookie' and c.value is not null) and (select clock_timestamp() is not null)
group by s.id
order by s.id
-- plan:
--   Sorted Aggregate
--     InitPlan 1: Result
--     Sort
--       Result
--         Nested Loop Inner
--           Nested Loop Inner
--             Seq Scan on entry
--             Index Scan using session_pkey on session
--           Index Scan using entry_pkey on entry

-- express.clear
with held as materialized (
  select s.id from "keyrow".session s
  where exists (select from "keyrow".entry c where c.session_id = s.id and c.key = 'cookie' and c.value is not null)
  order by s.id
  limit $1::int
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
select count(*)::int as n from ended
-- plan:
--   Aggregate
--     CTE held: Limit
--       LockRows
--         Sort
--           Nested Loop Inner
--             Seq Scan on entry
--             Index Scan using session_pkey on session
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

-- express.count
select
  count(*) filter (where c.expires is null or (c.is_date and c.expires collate "C" > $1::text))::int as n,
  coalesce(json_agg(c.value) filter (where c.expires is not null and not c.is_date), '[]')::text as others
from (
  select e.value, e.value ->> 'expires' as expires,
    e.value ->> 'expires' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$' as is_date
  from "keyrow".session s join "keyrow".entry e on e.session_id = s.id
  where s.expires_at > now() and e.key = 'cookie' and e.value is not null and (select clock_timestamp() is not null)
) c
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Nested Loop Inner
--         Seq Scan on entry
--         Index Scan using session_pkey on session
