-- admin.clock
select date_part('epoch', clock_timestamp()) * 1000 as now
-- plan:
--   Result

-- admin.continuations
select c.id::text as id, c.parent::text as parent, c.depth, c.step, date_part('epoch', c.made_at) * 1000 as made,
       (case when $3::boolean then c.records
             else (select jsonb_agg(r ->> 1) from jsonb_array_elements(c.records) as r) end)::text as records
from "keyrow".continuation c
where c.session_id = $1::uuid and c.flow_id = $2::uuid and (select clock_timestamp() is not null)
order by c.made_at, c.depth, c.id
-- plan:
--   Sort
--     InitPlan 1: Result
--     Result
--       Index Scan using continuation_pkey on continuation

-- admin.countAll
select count(*)::int as count, current_database()::text as database
from (select from "keyrow".session limit 10001) as found
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Limit
--         Index Only Scan using session_pkey on session

-- admin.countOf
select count(*)::int as count, current_database()::text as database
from (select from "keyrow".listing l join "keyrow".session s on s.id = l.session_id where l.principal = $1::text limit 10001) as found
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Limit
--         Nested Loop Inner
--           Index Scan using listing_principal on listing
--           Index Only Scan using session_pkey on session

-- admin.countOne
select count(*)::int as count, current_database()::text as database
from (select from "keyrow".session where id = $1::uuid limit 10001) as found
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Limit
--         Index Only Scan using session_pkey on session

-- admin.dropFlow
delete from "keyrow".flow where session_id = $1::uuid and id = $2::uuid
-- plan:
--   Delete on flow
--     Index Scan using flow_pkey on flow

-- admin.due
select date_part('epoch', now()) * 1000 - date_part('epoch', min(collect_at)) * 1000 as waiting from "keyrow".listing where (select clock_timestamp() is not null)
-- plan:
--   Result
--     InitPlan 1: Result
--     InitPlan 2: Limit
--       Result
--         Index Only Scan using listing_collect_at on listing

-- admin.endAll
with chosen as materialized (
  select id from "keyrow".session
  where id > $2::uuid
  order by id
  limit $1::int
), held as materialized (
  select id from "keyrow".session
  where id in (select id from chosen)
  order by id
  for update
), emptied as (
  delete from "keyrow".entry e using held where e.session_id = held.id
), ended as (
  delete from "keyrow".session s using held where s.id = held.id returning s.id
), flows as (
  delete from "keyrow".flow f using ended where f.session_id = ended.id
), fenced as (
insert into "keyrow".listing (session_id, collect_at) select id, now() + interval '1 hour' from held
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at
)
select (select count(*) from ended)::int as ended, (select count(*) from chosen)::int as chosen,
       (select id::text from chosen order by id desc limit 1) as last
-- plan:
--   Result
--     CTE chosen: Limit
--       Index Only Scan using session_pkey on session
--     CTE held: LockRows
--       Sort
--         Nested Loop Inner
--           Hashed Aggregate
--             CTE Scan on chosen
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
--     CTE fenced: Insert on listing
--       CTE Scan on held
--     InitPlan 7: Aggregate
--       CTE Scan on ended
--     InitPlan 8: Aggregate
--       CTE Scan on chosen
--     InitPlan 9: Limit
--       Sort
--         CTE Scan on chosen

-- admin.endOf
with chosen as materialized (
  select session_id as id from "keyrow".listing
  where principal = $3::text and session_id > $2::uuid
  order by session_id
  limit $1::int
), held as materialized (
  select id from "keyrow".session
  where id in (select id from chosen)
  order by id
  for update
), emptied as (
  delete from "keyrow".entry e using held where e.session_id = held.id
), ended as (
  delete from "keyrow".session s using held where s.id = held.id returning s.id
), flows as (
  delete from "keyrow".flow f using ended where f.session_id = ended.id
), fenced as (
insert into "keyrow".listing (session_id, collect_at) select id, now() + interval '1 hour' from held
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at
)
select (select count(*) from ended)::int as ended, (select count(*) from chosen)::int as chosen,
       (select id::text from chosen order by id desc limit 1) as last
-- plan:
--   Result
--     CTE chosen: Limit
--       Sort
--         Index Scan using listing_principal on listing
--     CTE held: LockRows
--       Sort
--         Nested Loop Inner
--           Hashed Aggregate
--             CTE Scan on chosen
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
--     CTE fenced: Insert on listing
--       CTE Scan on held
--     InitPlan 7: Aggregate
--       CTE Scan on ended
--     InitPlan 8: Aggregate
--       CTE Scan on chosen
--     InitPlan 9: Limit
--       Sort
--         CTE Scan on chosen

-- admin.endOne
with chosen as materialized (
  select $1::uuid as id
), held as materialized (
  select id from "keyrow".session
  where id in (select id from chosen)
  order by id
  for update
), emptied as (
  delete from "keyrow".entry e using held where e.session_id = held.id
), ended as (
  delete from "keyrow".session s using held where s.id = held.id returning s.id
), flows as (
  delete from "keyrow".flow f using ended where f.session_id = ended.id
), fenced as (
insert into "keyrow".listing (session_id, collect_at) select id, now() + interval '1 hour' from held
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at
)
select (select count(*) from ended)::int as ended, (select count(*) from chosen)::int as chosen,
       (select id::text from chosen order by id desc limit 1) as last
-- plan:
--   Result
--     CTE chosen: Result
--     CTE held: LockRows
--       Sort
--         Nested Loop Inner
--           Hashed Aggregate
--             CTE Scan on chosen
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
--     CTE fenced: Insert on listing
--       CTE Scan on held
--     InitPlan 7: Aggregate
--       CTE Scan on ended
--     InitPlan 8: Aggregate
--       CTE Scan on chosen
--     InitPlan 9: Limit
--       Sort
--         CTE Scan on chosen

-- admin.entrySample
select count(*)::float8 as counted, (count(*) filter (where value is null))::float8 as dead, 0::float8 as orphans,
       (count(*) filter (where key = 'keyrow:bound' and value is not null))::float8 as bound
from "keyrow".entry tablesample system ($1::real)
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Sample Scan on entry

-- admin.flows
select f.id::text as id, f.name, f.version, c.step, f.answers, f.size, date_part('epoch', f.used_at) * 1000 as used,
       date_part('epoch', f.collect_at) * 1000 as expiration,
       case when f.ended = '"evicted"' then 'evicted' when f.ended is not null then 'finished'
            when least(f.expires_at, f.used_at + f.idle_ms * interval '1 millisecond') <= now() then 'expired'
            else 'running' end as state
from "keyrow".flow f
     left join "keyrow".continuation c on c.session_id = f.session_id and c.flow_id = f.id and c.id = f.latest
where f.session_id = $1::uuid and (select clock_timestamp() is not null)
order by f.used_at desc, f.id
-- plan:
--   Sort
--     InitPlan 1: Result
--     Result
--       Nested Loop Left
--         Index Scan using flow_pkey on flow
--         Index Scan using continuation_pkey on continuation

-- admin.hazards
with tables as (
  select c.oid, c.relname::text as name
  from pg_class c
  where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p')
    and c.relname in ('session', 'entry', 'listing', 'metadata', 'flow', 'continuation', 'effect', 'late_save')
), policy as (
  select p.polrelid, p.polpermissive, p.polcmd = '*' and pg_get_expr(p.polqual, p.polrelid) = 'true'
         and coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' as whole
  from pg_policy p
  where 0::oid = any(p.polroles)
     or exists (select from unnest(p.polroles) as r (oid) where pg_has_role(current_user, r.oid, 'usage'))
)
select coalesce((
         select json_agg(o.name order by o.name) from tables o
         where row_security_active(o.oid)
           and (not exists (select from policy p where p.polrelid = o.oid and p.polpermissive and p.whole)
                or exists (select from policy p where p.polrelid = o.oid and not p.polpermissive and not p.whole))
       ), '[]')::text as hidden,
       coalesce((
         select json_agg(o.name || '.' || a.attname order by o.name, a.attname)
         from tables o join pg_attribute a on a.attrelid = o.oid and not a.attisdropped
              join pg_collation l on l.oid = a.attcollation
         where to_jsonb(l) ->> 'collisdeterministic' = 'false'
       ), '[]')::text as merging,
       current_user::text as role, current_setting('synchronous_commit') as commits
where (select clock_timestamp() is not null)
-- plan:
--   Result
--     CTE tables: Index Scan using pg_class_relname_nsp_index on pg_class
--     CTE policy: Seq Scan on pg_policy
--       SubPlan 2: Function Scan on unnest
--     InitPlan 8: Aggregate
--       Sort
--         CTE Scan on tables
--           SubPlan 5: CTE Scan on policy
--           SubPlan 7: CTE Scan on policy
--     InitPlan 9: Aggregate
--       Sort
--         Nested Loop Inner
--           Nested Loop Inner
--             CTE Scan on tables
--             Index Scan using pg_attribute_relid_attnum_index on pg_attribute
--           Memoize
--             Index Scan using pg_collation_oid_index on pg_collation
--     InitPlan 10: Result

-- admin.indexes
select i.relname::text as name, c.relname::text as owner, x.indisprimary as main,
       x.indisvalid and x.indisready as valid
from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
where c.relnamespace = to_regnamespace($1::text)
  and c.relname in ('session', 'entry', 'listing', 'metadata', 'flow', 'continuation', 'effect', 'late_save') and (select clock_timestamp() is not null)
order by i.relname
-- plan:
--   Sort
--     InitPlan 1: Result
--     Result
--       Nested Loop Inner
--         Hash Join Inner
--           Seq Scan on pg_index
--           Hash
--             Index Scan using pg_class_relname_nsp_index on pg_class
--         Index Scan using pg_class_oid_index on pg_class

-- admin.late
select date_part('epoch', now()) * 1000 - date_part('epoch', max(stored_at)) * 1000 as age from "keyrow".late_save where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Seq Scan on late_save

-- admin.principalsSample
select count(*)::float8 as counted, 0::float8 as dead,
       (count(*) filter (where s.id is null and l.collect_at <= now()))::float8 as orphans
from "keyrow".listing as l tablesample system ($1::real) left join "keyrow".session s on s.id = l.session_id
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Hash Join Left
--         Sample Scan on listing
--         Hash
--           Index Only Scan using session_pkey on session

-- admin.route
select concat_ws(' ', pg_postmaster_start_time(), inet_server_addr(), inet_server_port()) as server,
       current_setting('in_hot_standby', true) = 'on' is true as standby
where clock_timestamp() is not null
-- plan:
--   Result

-- admin.route.plain
select concat_ws(' ', pg_postmaster_start_time(), inet_server_addr(), inet_server_port()) as server,
       current_setting('in_hot_standby', true) = 'on' is true as standby
-- plan:
--   Result

-- admin.server
select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
       current_database()::text as database, current_user::text as role,
       pg_is_in_recovery() as standby, current_setting('transaction_read_only')::boolean as readonly
where clock_timestamp() is not null
-- plan:
--   Result

-- admin.sessionSample
select count(*)::float8 as counted, (count(*) filter (where s.expires_at <= now()))::float8 as dead,
       (count(*) filter (where l.session_id is null))::float8 as orphans
from "keyrow".session as s tablesample system ($1::real) left join "keyrow".listing l on l.session_id = s.id
where (select clock_timestamp() is not null)
-- plan:
--   Aggregate
--     InitPlan 1: Result
--     Result
--       Hash Join Left
--         Sample Scan on session
--         Hash
--           Seq Scan on listing

-- admin.sessions
with newest as (
  select id, created_at, expires_at from "keyrow".session
  where expires_at > now()
  order by created_at desc, id
  limit $1::int
)
select n.id::text as id, l.principal as principal, date_part('epoch', n.created_at) * 1000 as created, date_part('epoch', n.expires_at) * 1000 as expiration, h.keys as keys, h.bytes as bytes
from newest n left join "keyrow".listing l on l.session_id = n.id cross join lateral (
  select count(*)::int as keys, coalesce(sum(pg_column_size(e.value)), 0)::float8 as bytes
  from "keyrow".entry e
  where e.session_id = n.id and e.value is not null) as h
where (select clock_timestamp() is not null)
order by n.created_at desc, n.id
-- plan:
--   Result
--     InitPlan 1: Result
--     Nested Loop Inner
--       Nested Loop Left
--         Limit
--           Sort
--             Seq Scan on session
--         Index Scan using listing_pkey on listing
--       Aggregate
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- admin.sessionsOf
with newest as (
  select s.id, s.created_at, s.expires_at, l.principal
  from "keyrow".listing l join "keyrow".session s on s.id = l.session_id
  where l.principal = $2::text and s.expires_at > now()
  order by s.created_at desc, s.id
  limit $1::int
)
select n.id::text as id, n.principal as principal, date_part('epoch', n.created_at) * 1000 as created, date_part('epoch', n.expires_at) * 1000 as expiration, h.keys as keys, h.bytes as bytes
from newest n cross join lateral (
  select count(*)::int as keys, coalesce(sum(pg_column_size(e.value)), 0)::float8 as bytes
  from "keyrow".entry e
  where e.session_id = n.id and e.value is not null) as h
where (select clock_timestamp() is not null)
order by n.created_at desc, n.id
-- plan:
--   Result
--     InitPlan 1: Result
--     Nested Loop Inner
--       Limit
--         Sort
--           Nested Loop Inner
--             Index Scan using listing_principal on listing
--             Index Scan using session_pkey on session
--       Aggregate
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- admin.show
select s.id::text as id, l.principal as principal, date_part('epoch', s.created_at) * 1000 as created, date_part('epoch', s.expires_at) * 1000 as expiration,
       date_part('epoch', s.absolute_expires_at) * 1000 as absolute, s.revision::float8 as revision,
       s.expires_at > now() as live, e.key as key, pg_column_size(e.value)::float8 as bytes,
       case when $2::boolean then e.value::text end as value
from "keyrow".session s
     left join "keyrow".listing l on l.session_id = s.id
     left join "keyrow".entry e on e.session_id = s.id and e.value is not null
where s.id = $1::uuid and (select clock_timestamp() is not null)
order by e.key
-- plan:
--   Sort
--     InitPlan 1: Result
--     Result
--       Nested Loop Left
--         Nested Loop Left
--           Index Scan using session_pkey on session
--           Index Scan using listing_pkey on listing
--         Bitmap Heap Scan on entry
--           Bitmap Index Scan using entry_pkey

-- admin.tables
with leaf as (
  select c.relname::text as name, coalesce(p.relid, c.oid) as oid
  from pg_class c left join pg_partition_tree(c.oid) p on c.relkind = 'p' and p.isleaf
  where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p')
    and c.relname in ('session', 'entry', 'listing', 'metadata', 'flow', 'continuation', 'effect', 'late_save')
)
select leaf.name, (case when min(c.reltuples) >= 0 then sum(c.reltuples) end)::float8 as rows,
       sum(pg_relation_size(c.oid))::float8 as heap, sum(pg_indexes_size(c.oid))::float8 as indexes,
       sum(pg_total_relation_size(c.oid))::float8 as total,
       sum(pg_relation_size(c.oid) / current_setting('block_size')::int)::float8 as pages,
       coalesce(sum(u.n_live_tup), 0)::float8 as live, coalesce(sum(u.n_dead_tup), 0)::float8 as dead,
       max(date_part('epoch', greatest(u.last_vacuum, u.last_autovacuum)) * 1000) as vacuumed
from leaf join pg_class c on c.oid = leaf.oid left join pg_stat_user_tables u on u.relid = c.oid
where (select clock_timestamp() is not null)
group by leaf.name
order by leaf.name
-- plan:
--   Sorted Aggregate
--     CTE leaf: Nested Loop Left
--       Index Scan using pg_class_relname_nsp_index on pg_class
--       Function Scan on pg_partition_tree
--     InitPlan 2: Result
--     Sort
--       Result
--         Hash Join Right
--           Hashed Aggregate
--             Hash Join Right
--               Seq Scan on pg_index
--               Hash
--                 Hash Join Inner
--                   Seq Scan on pg_class
--                   Hash
--                     Seq Scan on pg_namespace
--           Hash
--             Nested Loop Inner
--               CTE Scan on leaf
--               Index Scan using pg_class_oid_index on pg_class
