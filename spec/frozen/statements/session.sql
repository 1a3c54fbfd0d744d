-- session.changes
select 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > $2::float8 limit (select 1000000000)) e) as changes where clock_timestamp() is not null
-- plan:
--   Result
--     InitPlan 2: Aggregate
--       Limit
--         InitPlan 1: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.changesOfKeys
select 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $3::text::text[])::text[])
          and (e.revision > $2::float8 or e.key = any((select $4::text::text[])::text[])) limit (select 1000000000)) e) as changes where clock_timestamp() is not null
-- plan:
--   Result
--     InitPlan 4: Aggregate
--       Limit
--         InitPlan 1: Result
--         InitPlan 2: Result
--         InitPlan 3: Result
--         Index Scan using entry_pkey on entry

-- session.create
with head as (
  insert into "keyrow".session
         (id, secret_hash, created_at, expires_at, absolute_expires_at, idle_ms, revision, recent_saves)
  values ($1::uuid, decode($2::text, 'hex'), now(), now() + least($4::float8 * interval '1 millisecond', $5::float8 * interval '1 millisecond'), now() + $5::float8 * interval '1 millisecond',
          $7::float8, 1, decode($6::text, 'hex'))
  returning revision, expires_at
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, 1
  from jsonb_each($3::text::jsonb) as e
), listed as (
  insert into "keyrow".listing (session_id, principal, collect_at)
  select $1::uuid, $3::text::jsonb -> 'keyrow:principal' ->> 0, head.expires_at
  from head
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration
from head
-- plan:
--   CTE Scan on head
--     CTE head: Insert on session
--       Result
--     CTE written: Insert on entry
--       Function Scan on jsonb_each
--     CTE listed: Insert on listing
--       CTE Scan on head

-- session.created
select revision::float8 as revision, date_part('epoch', expires_at) * 1000 as expiration
from "keyrow".session
where id = $1::uuid and position(decode($2::text, 'hex') in recent_saves) > 0 and clock_timestamp() is not null
-- plan:
--   Index Scan using session_pkey on session

-- session.destroy
with ended as (
  delete from "keyrow".session where id = $1::uuid returning id
)
delete from "keyrow".flow where session_id = $1::uuid and (select count(*) from ended) >= 0
-- plan:
--   Delete on flow
--     CTE ended: Delete on session
--       Index Scan using session_pkey on session
--     InitPlan 2: Aggregate
--       CTE Scan on ended
--     Result
--       Index Scan using flow_pkey on flow

-- session.fence
insert into "keyrow".listing (session_id, collect_at) values ($1::uuid, now() + interval '1 hour')
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at
-- plan:
--   Insert on listing
--     Result

-- session.load
select 
       
       s.revision::float8 as revision, date_part('epoch', s.expires_at) * 1000 as expiration, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $3::float8) * interval '1 millisecond' * $4::float8) as "touchDue",
       s.expires_at <= now() as expired, encode(substring(s.recent_saves from greatest(1, length(s.recent_saves) - 7)), 'hex') as "versionTag", base.since,
       case when s.expires_at <= now() or base.since = s.revision then null
            when base.since > 0 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = s.id and e.revision > base.since limit (select 1000000000)) e)
            else (select json_object_agg(e.key, e.value)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = s.id and e.value is not null limit (select 1000000000)) e) end as entries
from "keyrow".session s cross join lateral (select 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since) base
where s.id = $1::uuid and 
      (s.secret_hash = decode($2::text, 'hex')
       or (s.previous_hash = decode($2::text, 'hex') and s.previous_until > now())) and clock_timestamp() is not null
-- plan:
--   Index Scan using session_pkey on session
--     InitPlan 1: Result
--     InitPlan 2: Result
--     InitPlan 3: Result
--     SubPlan 6: Aggregate
--       Limit
--         InitPlan 4: Result
--         InitPlan 5: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     SubPlan 8: Aggregate
--       Limit
--         InitPlan 7: Result
--         Index Scan using entry_pkey on entry

-- session.loadKeys
select 
       
       s.revision::float8 as revision, date_part('epoch', s.expires_at) * 1000 as expiration, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $3::float8) * interval '1 millisecond' * $4::float8) as "touchDue",
       s.expires_at <= now() as expired, encode(substring(s.recent_saves from greatest(1, length(s.recent_saves) - 7)), 'hex') as "versionTag", base.since,
       case when s.expires_at <= now() or (base.since = s.revision and (select $8::text::text[]) = '{}') then null
            else 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $7::text::text[])::text[])
          and (e.revision > base.since or e.key = any((select $8::text::text[])::text[])) limit (select 1000000000)) e) end as entries
from "keyrow".session s cross join lateral (select 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since) base
where s.id = $1::uuid and 
      (s.secret_hash = decode($2::text, 'hex')
       or (s.previous_hash = decode($2::text, 'hex') and s.previous_until > now())) and clock_timestamp() is not null
-- plan:
--   Index Scan using session_pkey on session
--     InitPlan 1: Result
--     InitPlan 2: Result
--     InitPlan 3: Result
--     SubPlan 8: Aggregate
--       Limit
--         InitPlan 4: Result
--         InitPlan 5: Result
--         InitPlan 6: Result
--         InitPlan 7: Result
--         Index Scan using entry_pkey on entry

-- session.lock
select revision::float8 as revision,
       date_part('epoch', expires_at) * 1000 as expiration,
       position(decode($2::text, 'hex') in recent_saves) > 0 as done,
       
         case when (select $3::float8) > 0 and s.revision - $3::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $3::float8)::int for 8)
                       = decode($4::text, 'hex')
              then $3::float8 else 0 end as since,
       case when extract(epoch from current_setting('idle_in_transaction_session_timeout', true)::interval) not between 0.001 and 5
            then set_config('idle_in_transaction_session_timeout', '5000', true) end as idle,
       case when extract(epoch from current_setting('transaction_timeout', true)::interval) not between 0.001 and 5
            then set_config('transaction_timeout', '5000', true) end as bound
from "keyrow".session s
where id = $1::uuid and expires_at > clock_timestamp()
for no key update
-- plan:
--   LockRows
--     InitPlan 1: Result
--     Index Scan using session_pkey on session

-- session.lock
select revision::float8 as revision,
       date_part('epoch', expires_at) * 1000 as expiration,
       position(decode($2::text, 'hex') in recent_saves) > 0 as done,
       
         case when (select $3::float8) > 0 and s.revision - $3::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $3::float8)::int for 8)
                       = decode($4::text, 'hex')
              then $3::float8 else 0 end as since,
       case when extract(epoch from current_setting('idle_in_transaction_session_timeout', true)::interval) not between 0.001 and 5
            then set_config('idle_in_transaction_session_timeout', '5000', true) end as idle,
       case when extract(epoch from current_setting('transaction_timeout', true)::interval) not between 0.001 and 5
            then set_config('transaction_timeout', '5000', true) end as bound
from "keyrow".session s
where id = $1::uuid and expires_at > now()
for no key update
-- plan:
--   LockRows
--     InitPlan 1: Result
--     Index Scan using session_pkey on session

-- session.lockInTransaction
select revision::float8 as revision,
       date_part('epoch', expires_at) * 1000 as expiration,
       position(decode($2::text, 'hex') in recent_saves) > 0 as done,
       
         case when (select $3::float8) > 0 and s.revision - $3::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $3::float8)::int for 8)
                       = decode($4::text, 'hex')
              then $3::float8 else 0 end as since
from "keyrow".session s
where id = $1::uuid and expires_at > clock_timestamp()
for no key update
-- plan:
--   LockRows
--     InitPlan 1: Result
--     Index Scan using session_pkey on session

-- session.lockInTransaction
select revision::float8 as revision,
       date_part('epoch', expires_at) * 1000 as expiration,
       position(decode($2::text, 'hex') in recent_saves) > 0 as done,
       
         case when (select $3::float8) > 0 and s.revision - $3::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $3::float8)::int for 8)
                       = decode($4::text, 'hex')
              then $3::float8 else 0 end as since
from "keyrow".session s
where id = $1::uuid and expires_at > now()
for no key update
-- plan:
--   LockRows
--     InitPlan 1: Result
--     Index Scan using session_pkey on session

-- session.refresh
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > clock_timestamp() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, case when base.revision > base.since then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > base.since limit (select 1000000000)) e) end as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE extended: Update on session
--       Index Scan using session_pkey on session
--     InitPlan 2: Result
--     InitPlan 3: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 6: Aggregate
--       Limit
--         InitPlan 4: Result
--         InitPlan 5: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.refresh
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > now() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, case when base.revision > base.since then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > base.since limit (select 1000000000)) e) end as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE extended: Update on session
--       Index Scan using session_pkey on session
--     InitPlan 2: Result
--     InitPlan 3: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 6: Aggregate
--       Limit
--         InitPlan 4: Result
--         InitPlan 5: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.refresh
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at)) from relaxed
  where id = $1::uuid and expires_at > clock_timestamp() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, case when base.revision > base.since then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > base.since limit (select 1000000000)) e) end as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE relaxed: Result
--     CTE extended: Update on session
--       Nested Loop Inner
--         Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     InitPlan 3: Result
--     InitPlan 4: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 7: Aggregate
--       Limit
--         InitPlan 5: Result
--         InitPlan 6: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.refreshKeys
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > clock_timestamp() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $6::text::text[])::text[])
          and (e.revision > base.since or e.key = any((select $7::text::text[])::text[])) limit (select 1000000000)) e) as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE extended: Update on session
--       Index Scan using session_pkey on session
--     InitPlan 2: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 7: Aggregate
--       Limit
--         InitPlan 3: Result
--         InitPlan 4: Result
--         InitPlan 5: Result
--         InitPlan 6: Result
--         Index Scan using entry_pkey on entry

-- session.refreshKeys
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > now() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $6::text::text[])::text[])
          and (e.revision > base.since or e.key = any((select $7::text::text[])::text[])) limit (select 1000000000)) e) as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE extended: Update on session
--       Index Scan using session_pkey on session
--     InitPlan 2: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 7: Aggregate
--       Limit
--         InitPlan 3: Result
--         InitPlan 4: Result
--         InitPlan 5: Result
--         InitPlan 6: Result
--         Index Scan using entry_pkey on entry

-- session.refreshKeys
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at)) from relaxed
  where id = $1::uuid and expires_at > clock_timestamp() and (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8)
  returning expires_at
), base as (
  select revision, expires_at, (expires_at < absolute_expires_at and now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond' - expires_at >= coalesce(idle_ms, $2::float8) * interval '1 millisecond' * $3::float8) as "touchDue", encode(substring(recent_saves from greatest(1, length(recent_saves) - 7)), 'hex') as "versionTag",
         
         case when (select $4::float8) > 0 and s.revision - $4::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $4::float8)::int for 8)
                       = decode($5::text, 'hex')
              then $4::float8 else 0 end as since
  from "keyrow".session s
  where id = $1::uuid and expires_at > now()
)
select base.revision::float8 as revision, date_part('epoch', coalesce(extended.expires_at, base.expires_at)) * 1000 as expiration,
       base."versionTag", base.since, 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $6::text::text[])::text[])
          and (e.revision > base.since or e.key = any((select $7::text::text[])::text[])) limit (select 1000000000)) e) as changes
from base left join extended on true
where extended.expires_at is not null or not base."touchDue"
-- plan:
--   Nested Loop Left
--     CTE relaxed: Result
--     CTE extended: Update on session
--       Nested Loop Inner
--         Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     InitPlan 3: Result
--     Index Scan using session_pkey on session
--     CTE Scan on extended
--     SubPlan 8: Aggregate
--       Limit
--         InitPlan 4: Result
--         InitPlan 5: Result
--         InitPlan 6: Result
--         InitPlan 7: Result
--         Index Scan using entry_pkey on entry

-- session.rotate
update "keyrow".session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end, previous_until = now() + $4::float8 * interval '1 millisecond'
where id = $1::uuid and expires_at > clock_timestamp() and secret_hash = decode($2::text, 'hex')
returning true as rotated
-- plan:
--   Update on session
--     Index Scan using session_pkey on session

-- session.rotate
update "keyrow".session
set secret_hash = decode($3::text, 'hex'),
    previous_hash = case when $4::float8 > 0 then secret_hash end, previous_until = now() + $4::float8 * interval '1 millisecond'
where id = $1::uuid and expires_at > now() and secret_hash = decode($2::text, 'hex')
returning true as rotated
-- plan:
--   Update on session
--     Index Scan using session_pkey on session

-- session.rotated
select secret_hash = decode($2::text, 'hex') as rotated
from "keyrow".session
where id = $1::uuid and expires_at > now() and clock_timestamp() is not null
-- plan:
--   Index Scan using session_pkey on session

-- session.save
with head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 4: Index Scan using session_pkey on session
--     SubPlan 6: Aggregate
--       Limit
--         InitPlan 5: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.save
with head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > now()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 4: Index Scan using session_pkey on session
--     SubPlan 6: Aggregate
--       Limit
--         InitPlan 5: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.save
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex') from relaxed
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE relaxed: Result
--     CTE head: Update on session
--       InitPlan 2: Result
--       Nested Loop Inner
--         Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 5: Index Scan using session_pkey on session
--     SubPlan 7: Aggregate
--       Limit
--         InitPlan 6: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveFull
with head as (
  update "keyrow".session s
  set revision = revision + 1, 
      expires_at = case when $8::boolean then now() + least(coalesce($9::float8, $3::float8)::float8 * interval '1 millisecond', $10::float8 * interval '1 millisecond') else greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)) end,
      absolute_expires_at = case when $8::boolean then now() + $10::float8 * interval '1 millisecond' else absolute_expires_at end,
      idle_ms = case when $8::boolean then $9::float8 else idle_ms end,
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e
  where (select head.revision % 256 = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - 256
    and not $2::text::jsonb ? e.key
), listed as (
  insert into "keyrow".listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> 'keyrow:principal' ->> 0, head.expires_at
  from head where $2::text::jsonb ? 'keyrow:principal' or $8::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? 'keyrow:principal' then excluded.principal else listing.principal end,
      collect_at = case when $8::boolean then excluded.collect_at else listing.collect_at end
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     CTE tombstones: Delete on entry
--       InitPlan 4: CTE Scan on head
--       InitPlan 5: CTE Scan on head
--       Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE listed: Insert on listing
--       CTE Scan on head
--     InitPlan 8: Index Scan using session_pkey on session
--     SubPlan 10: Aggregate
--       Limit
--         InitPlan 9: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveFull
with head as (
  update "keyrow".session s
  set revision = revision + 1, 
      expires_at = case when $8::boolean then now() + least(coalesce($9::float8, $3::float8)::float8 * interval '1 millisecond', $10::float8 * interval '1 millisecond') else greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)) end,
      absolute_expires_at = case when $8::boolean then now() + $10::float8 * interval '1 millisecond' else absolute_expires_at end,
      idle_ms = case when $8::boolean then $9::float8 else idle_ms end,
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > now()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e
  where (select head.revision % 256 = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - 256
    and not $2::text::jsonb ? e.key
), listed as (
  insert into "keyrow".listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> 'keyrow:principal' ->> 0, head.expires_at
  from head where $2::text::jsonb ? 'keyrow:principal' or $8::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? 'keyrow:principal' then excluded.principal else listing.principal end,
      collect_at = case when $8::boolean then excluded.collect_at else listing.collect_at end
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.revision > head.since limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     CTE tombstones: Delete on entry
--       InitPlan 4: CTE Scan on head
--       InitPlan 5: CTE Scan on head
--       Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE listed: Insert on listing
--       CTE Scan on head
--     InitPlan 8: Index Scan using session_pkey on session
--     SubPlan 10: Aggregate
--       Limit
--         InitPlan 9: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveKeys
with head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $8::text::text[])::text[])
          and (e.revision > head.since or e.key = any('{}'::text[])) limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       InitPlan 2: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 5: Index Scan using session_pkey on session
--     SubPlan 8: Aggregate
--       Limit
--         InitPlan 6: Result
--         InitPlan 7: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveKeys
with head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > now()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $8::text::text[])::text[])
          and (e.revision > head.since or e.key = any('{}'::text[])) limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       InitPlan 2: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 5: Index Scan using session_pkey on session
--     SubPlan 8: Aggregate
--       Limit
--         InitPlan 6: Result
--         InitPlan 7: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveKeys
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), head as (
  update "keyrow".session s
  set revision = revision + 1, expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)),
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex') from relaxed
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $8::text::text[])::text[])
          and (e.revision > head.since or e.key = any('{}'::text[])) limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE relaxed: Result
--     CTE head: Update on session
--       InitPlan 2: Result
--       InitPlan 3: Result
--       Nested Loop Inner
--         Index Scan using session_pkey on session
--         CTE Scan on relaxed
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     InitPlan 6: Index Scan using session_pkey on session
--     SubPlan 9: Aggregate
--       Limit
--         InitPlan 7: Result
--         InitPlan 8: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveKeysFull
with head as (
  update "keyrow".session s
  set revision = revision + 1, 
      expires_at = case when $9::boolean then now() + least(coalesce($10::float8, $3::float8)::float8 * interval '1 millisecond', $11::float8 * interval '1 millisecond') else greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)) end,
      absolute_expires_at = case when $9::boolean then now() + $11::float8 * interval '1 millisecond' else absolute_expires_at end,
      idle_ms = case when $9::boolean then $10::float8 else idle_ms end,
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > clock_timestamp()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e
  where (select head.revision % 256 = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - 256
    and not $2::text::jsonb ? e.key
), listed as (
  insert into "keyrow".listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> 'keyrow:principal' ->> 0, head.expires_at
  from head where $2::text::jsonb ? 'keyrow:principal' or $9::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? 'keyrow:principal' then excluded.principal else listing.principal end,
      collect_at = case when $9::boolean then excluded.collect_at else listing.collect_at end
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $8::text::text[])::text[])
          and (e.revision > head.since or e.key = any('{}'::text[])) limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     CTE tombstones: Delete on entry
--       InitPlan 4: CTE Scan on head
--       InitPlan 5: CTE Scan on head
--       Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE listed: Insert on listing
--       CTE Scan on head
--     InitPlan 8: Index Scan using session_pkey on session
--     SubPlan 11: Aggregate
--       Limit
--         InitPlan 9: Result
--         InitPlan 10: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.saveKeysFull
with head as (
  update "keyrow".session s
  set revision = revision + 1, 
      expires_at = case when $9::boolean then now() + least(coalesce($10::float8, $3::float8)::float8 * interval '1 millisecond', $11::float8 * interval '1 millisecond') else greatest(expires_at, least(now() + coalesce(idle_ms, $3::float8) * interval '1 millisecond', absolute_expires_at)) end,
      absolute_expires_at = case when $9::boolean then now() + $11::float8 * interval '1 millisecond' else absolute_expires_at end,
      idle_ms = case when $9::boolean then $10::float8 else idle_ms end,
      recent_saves = substring(recent_saves from greatest(1, length(recent_saves) + 8 - 511)) || decode($4::text, 'hex')
  where id = $1::uuid and expires_at > now()
    and (not $7::boolean or 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end = revision) and not position(decode($4::text, 'hex') in recent_saves) > 0
    and revision - $5::float8 < 64
  returning revision, expires_at, 
         case when (select $5::float8) > 0 and s.revision - $5::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $5::float8)::int for 8)
                       = decode($6::text, 'hex')
              then $5::float8 else 0 end as since
), written as (
  insert into "keyrow".entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
), tombstones as (
  delete from "keyrow".entry e
  where (select head.revision % 256 = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - 256
    and not $2::text::jsonb ? e.key
), listed as (
  insert into "keyrow".listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> 'keyrow:principal' ->> 0, head.expires_at
  from head where $2::text::jsonb ? 'keyrow:principal' or $9::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? 'keyrow:principal' then excluded.principal else listing.principal end,
      collect_at = case when $9::boolean then excluded.collect_at else listing.collect_at end
)
select head.revision::float8 as revision, date_part('epoch', head.expires_at) * 1000 as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from "keyrow".session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then 
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from (select e.key, e.value from "keyrow".entry e where e.session_id = $1::uuid and e.key = any((select $8::text::text[])::text[])
          and (e.revision > head.since or e.key = any('{}'::text[])) limit (select 1000000000)) e) end as changes
from head
-- plan:
--   CTE Scan on head
--     CTE head: Update on session
--       InitPlan 1: Result
--       Index Scan using session_pkey on session
--     CTE written: Insert on entry
--       Nested Loop Inner
--         CTE Scan on head
--         Function Scan on jsonb_each
--     CTE tombstones: Delete on entry
--       InitPlan 4: CTE Scan on head
--       InitPlan 5: CTE Scan on head
--       Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey
--     CTE listed: Insert on listing
--       CTE Scan on head
--     InitPlan 8: Index Scan using session_pkey on session
--     SubPlan 11: Aggregate
--       Limit
--         InitPlan 9: Result
--         InitPlan 10: Result
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- session.touch
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > clock_timestamp()
  returning revision, expires_at
)
select revision::float8 as revision, date_part('epoch', expires_at) * 1000 as expiration from extended
-- plan:
--   CTE Scan on extended
--     CTE extended: Update on session
--       Index Scan using session_pkey on session

-- session.touch
with extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at))
  where id = $1::uuid and expires_at > now()
  returning revision, expires_at
)
select revision::float8 as revision, date_part('epoch', expires_at) * 1000 as expiration from extended
-- plan:
--   CTE Scan on extended
--     CTE extended: Update on session
--       Index Scan using session_pkey on session

-- session.touch
with relaxed as materialized (select set_config('synchronous_commit', 'off', true)), extended as (
  update "keyrow".session
  set expires_at = greatest(expires_at, least(now() + coalesce(idle_ms, $2::float8) * interval '1 millisecond', absolute_expires_at)) from relaxed
  where id = $1::uuid and expires_at > clock_timestamp()
  returning revision, expires_at
)
select revision::float8 as revision, date_part('epoch', expires_at) * 1000 as expiration from extended
-- plan:
--   CTE Scan on extended
--     CTE relaxed: Result
--     CTE extended: Update on session
--       Nested Loop Inner
--         Index Scan using session_pkey on session
--         CTE Scan on relaxed
