-- batch.load
select i.n::int as n, 
       
       s.revision::float8 as revision, date_part('epoch', s.expires_at) * 1000 as expiration, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $6::float8) * interval '1 millisecond' * $7::float8) as "touchDue",
       s.expires_at <= now() as expired, encode(substring(s.recent_saves from greatest(1, length(s.recent_saves) - 7)), 'hex') as "versionTag", base.since,
       case when s.expires_at <= now() or base.since = s.revision then null
            when base.since > 0 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = s.id and e.revision > base.since limit (select 1000000000)) e)
            else (select json_object_agg(e.key, e.value)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = s.id and e.value is not null limit (select 1000000000)) e) end as entries
from unnest((select $1::text::uuid[]), (select $2::text::text[]), (select $3::text::float8[]), (select $4::text::text[]), (select $5::text::float8[]))
       with ordinality as i (id, secret, revision, tag, expiration, n)
left join "keyrow".session s on s.id = i.id and 
      (s.secret_hash = decode(i.secret::text, 'hex')
       or (s.previous_hash = decode(i.secret::text, 'hex') and s.previous_until > now()))
cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base
where (select clock_timestamp() is not null) and 
  (s.id is null or base.since <> s.revision or s.expires_at <= now()
   or date_part('epoch', s.expires_at) * 1000 <> i.expiration or (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $6::float8) * interval '1 millisecond' * $7::float8))
-- plan:
--   Result
--     InitPlan 5: Result
--     InitPlan 6: Result
--     InitPlan 7: Result
--     InitPlan 8: Result
--     InitPlan 9: Result
--     InitPlan 10: Result
--     Nested Loop Left
--       Function Scan
--       Index Scan using session_pkey on session
--     SubPlan 2: Aggregate
--       Limit
--         InitPlan 1: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     SubPlan 4: Aggregate
--       Limit
--         InitPlan 3: Result
--         Index Scan using entry_pkey on entry

-- batch.loadKeys
select i.n::int as n, 
       
       s.revision::float8 as revision, date_part('epoch', s.expires_at) * 1000 as expiration, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $6::float8) * interval '1 millisecond' * $7::float8) as "touchDue",
       s.expires_at <= now() as expired, encode(substring(s.recent_saves from greatest(1, length(s.recent_saves) - 7)), 'hex') as "versionTag", base.since,
       case when s.expires_at <= now() or (base.since = s.revision and i.missing = '{}') then null
            else 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = s.id and e.key = any(i.wanted::text[])
          and (e.revision > base.since or e.key = any(i.missing::text[])) limit (select 1000000000)) e) end as entries
from unnest((select $1::text::uuid[]), (select $2::text::text[]), (select $3::text::float8[]), (select $4::text::text[]), (select $5::text::float8[]), (select $8::text::text[]), (select $9::text::text[]))
       with ordinality as i (id, secret, revision, tag, expiration, wanted, missing, n)
left join "keyrow".session s on s.id = i.id and 
      (s.secret_hash = decode(i.secret::text, 'hex')
       or (s.previous_hash = decode(i.secret::text, 'hex') and s.previous_until > now()))
cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base
where (select clock_timestamp() is not null) and (i.missing <> '{}' or 
  (s.id is null or base.since <> s.revision or s.expires_at <= now()
   or date_part('epoch', s.expires_at) * 1000 <> i.expiration or (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $6::float8) * interval '1 millisecond' * $7::float8)))
-- plan:
--   Result
--     InitPlan 3: Result
--     InitPlan 4: Result
--     InitPlan 5: Result
--     InitPlan 6: Result
--     InitPlan 7: Result
--     InitPlan 8: Result
--     InitPlan 9: Result
--     InitPlan 10: Result
--     Nested Loop Left
--       Function Scan
--       Index Scan using session_pkey on session
--     SubPlan 2: Aggregate
--       Limit
--         InitPlan 1: Result
--         Index Scan using entry_pkey on entry

-- batch.save
with held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, base.since
  from unnest((select $1::text::uuid[]), (select $2::text::float8[]), (select $3::text::text[]), (select $4::text::boolean[]), (select $5::text::text[]))
         with ordinality as i (id, revision, tag, strict, saves, n)
  join "keyrow".session s on s.id = i.id
  cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base
  where expires_at > clock_timestamp() and (not i.strict or base.since = s.revision)
    and s.revision - i.revision < 64 and not position(decode(left(i.saves, 16)::text, 'hex') in recent_saves) > 0
    and s.revision % 256 + length(i.saves) / 16 < 256
  for no key update of s skip locked
), head as (
  update "keyrow".session s
  set revision = s.revision + held.times, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 * held.times - 511)) || decode(held.saves, 'hex')
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest((select $7::text::int[]), (select $8::text::text[]), (select $9::text::text[])) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.n::int as n, head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from "keyrow".session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = head.id and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE held: LockRows
--       InitPlan 1: Result
--       InitPlan 2: Result
--       InitPlan 3: Result
--       InitPlan 4: Result
--       InitPlan 5: Result
--       Nested Loop Inner
--         Function Scan
--         Index Scan using session_pkey on session
--     CTE head: Update on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       InitPlan 8: Result
--       InitPlan 9: Result
--       InitPlan 10: Result
--       Hash Join Inner
--         Function Scan
--         Hash
--           CTE Scan on head
--     SubPlan 12: Index Scan using session_pkey on session
--     SubPlan 14: Aggregate
--       Limit
--         InitPlan 13: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- batch.save
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, base.since
  from unnest((select $1::text::uuid[]), (select $2::text::float8[]), (select $3::text::text[]), (select $4::text::boolean[]), (select $5::text::text[]))
         with ordinality as i (id, revision, tag, strict, saves, n)
  join "keyrow".session s on s.id = i.id
  cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base cross join relaxed
  where expires_at > clock_timestamp() and (not i.strict or base.since = s.revision)
    and s.revision - i.revision < 64 and not position(decode(left(i.saves, 16)::text, 'hex') in recent_saves) > 0
    and s.revision % 256 + length(i.saves) / 16 < 256
  for no key update of s skip locked
), head as (
  update "keyrow".session s
  set revision = s.revision + held.times, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 * held.times - 511)) || decode(held.saves, 'hex')
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest((select $7::text::int[]), (select $8::text::text[]), (select $9::text::text[])) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.n::int as n, head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from "keyrow".session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = head.id and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE relaxed: Result
--     CTE held: LockRows
--       InitPlan 2: Result
--       InitPlan 3: Result
--       InitPlan 4: Result
--       InitPlan 5: Result
--       InitPlan 6: Result
--       Nested Loop Inner
--         Nested Loop Inner
--           Function Scan
--           Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     CTE head: Update on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       InitPlan 9: Result
--       InitPlan 10: Result
--       InitPlan 11: Result
--       Hash Join Inner
--         Function Scan
--         Hash
--           CTE Scan on head
--     SubPlan 13: Index Scan using session_pkey on session
--     SubPlan 15: Aggregate
--       Limit
--         InitPlan 14: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- batch.saveLate
with held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, base.since, i.late
  from unnest((select $1::text::uuid[]), (select $2::text::float8[]), (select $3::text::text[]), (select $4::text::boolean[]), (select $5::text::text[]), (select $10::text::text[]))
         with ordinality as i (id, revision, tag, strict, saves, late, n)
  join "keyrow".session s on s.id = i.id
  cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base
  where expires_at > clock_timestamp() and (not i.strict or base.since = s.revision)
    and s.revision - i.revision < 64 and not position(decode(left(i.saves, 16)::text, 'hex') in recent_saves) > 0
  for no key update of s skip locked
), head as (
  update "keyrow".session s
  set revision = s.revision + held.times, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 * held.times - 511)) || decode(held.saves, 'hex')
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest((select $7::text::int[]), (select $8::text::text[]), (select $9::text::text[])) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e using head
  where head.revision / 256 > head.before / 256
    and e.session_id = head.id and e.value is null and e.revision <= head.revision - 256
    and not exists (select from unnest((select $7::text::int[]), (select $8::text::text[])) as w (n, key) where w.n = head.n and w.key = e.key)
), remembered as (
  insert into "keyrow".late_save (session_id, save, stored_at)
  select head.id, decode(held.late, 'hex'), now() from head join held on held.n = head.n where held.late <> ''
  on conflict do nothing
)
select head.n::int as n, head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from "keyrow".session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = head.id and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE held: LockRows
--       InitPlan 1: Result
--       InitPlan 2: Result
--       InitPlan 3: Result
--       InitPlan 4: Result
--       InitPlan 5: Result
--       InitPlan 6: Result
--       Nested Loop Inner
--         Function Scan
--         Index Scan using session_pkey on session
--     CTE head: Update on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       InitPlan 9: Result
--       InitPlan 10: Result
--       InitPlan 11: Result
--       Hash Join Inner
--         Function Scan
--         Hash
--           CTE Scan on head
--     CTE tombstones: Delete on entry
--       InitPlan 13: Result
--       InitPlan 14: Result
--       Nested Loop Anti
--         Nested Loop Inner
--           CTE Scan on head
--           Bitmap Heap Scan on entry
--             Bitmap Index Scan using entry_pkey
--         Function Scan
--     CTE remembered: Insert on late_save
--       Nested Loop Inner
--         CTE Scan on head
--         CTE Scan on held
--     SubPlan 17: Index Scan using session_pkey on session
--     SubPlan 19: Aggregate
--       Limit
--         InitPlan 18: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- batch.saveLate
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, base.since, i.late
  from unnest((select $1::text::uuid[]), (select $2::text::float8[]), (select $3::text::text[]), (select $4::text::boolean[]), (select $5::text::text[]), (select $10::text::text[]))
         with ordinality as i (id, revision, tag, strict, saves, late, n)
  join "keyrow".session s on s.id = i.id
  cross join lateral (select 
         case when i.revision > 0 and s.revision - i.revision::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - i.revision::float8)::int for 8)
                       = decode(i.tag::text, 'hex')
              then i.revision::float8 else 0 end as since) base cross join relaxed
  where expires_at > clock_timestamp() and (not i.strict or base.since = s.revision)
    and s.revision - i.revision < 64 and not position(decode(left(i.saves, 16)::text, 'hex') in recent_saves) > 0
  for no key update of s skip locked
), head as (
  update "keyrow".session s
  set revision = s.revision + held.times, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $6::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 * held.times - 511)) || decode(held.saves, 'hex')
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest((select $7::text::int[]), (select $8::text::text[]), (select $9::text::text[])) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e using head
  where head.revision / 256 > head.before / 256
    and e.session_id = head.id and e.value is null and e.revision <= head.revision - 256
    and not exists (select from unnest((select $7::text::int[]), (select $8::text::text[])) as w (n, key) where w.n = head.n and w.key = e.key)
), remembered as (
  insert into "keyrow".late_save (session_id, save, stored_at)
  select head.id, decode(held.late, 'hex'), now() from head join held on held.n = head.n where held.late <> ''
  on conflict do nothing
)
select head.n::int as n, head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from "keyrow".session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = head.id and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE relaxed: Result
--     CTE held: LockRows
--       InitPlan 2: Result
--       InitPlan 3: Result
--       InitPlan 4: Result
--       InitPlan 5: Result
--       InitPlan 6: Result
--       InitPlan 7: Result
--       Nested Loop Inner
--         Nested Loop Inner
--           Function Scan
--           Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     CTE head: Update on session
--       Nested Loop Inner
--         CTE Scan on held
--         Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       InitPlan 10: Result
--       InitPlan 11: Result
--       InitPlan 12: Result
--       Hash Join Inner
--         Function Scan
--         Hash
--           CTE Scan on head
--     CTE tombstones: Delete on entry
--       InitPlan 14: Result
--       InitPlan 15: Result
--       Nested Loop Anti
--         Nested Loop Inner
--           CTE Scan on head
--           Bitmap Heap Scan on entry
--             Bitmap Index Scan using entry_pkey
--         Function Scan
--     CTE remembered: Insert on late_save
--       Nested Loop Inner
--         CTE Scan on head
--         CTE Scan on held
--     SubPlan 18: Index Scan using session_pkey on session
--     SubPlan 20: Aggregate
--       Limit
--         InitPlan 19: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
