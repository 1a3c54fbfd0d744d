-- schema.analyze
do $$ begin
  perform set_config('client_min_messages', 'error', true);
  analyze (skip_locked) "keyrow".flow (session_id), "keyrow".continuation (session_id);
end $$

-- schema.analyze
do $$ begin
  perform set_config('client_min_messages', 'error', true);
  analyze (skip_locked) "keyrow".session (id), "keyrow".entry (session_id), "keyrow".listing (session_id);
end $$

-- schema.continuation
create table "keyrow".continuation (
  session_id uuid not null,
  flow_id uuid not null,
  id uuid not null,
  parent uuid, -- null: the first page was answered
  generation integer not null, -- it can be answered if this is the flow's generation
  depth integer not null,
  step text not null, -- the step that the flow has reached
  records jsonb not null, -- the answer to the parent's page, and the effects after it
  made text not null, -- the write that made the row
  made_at timestamptz not null,
  primary key (session_id, flow_id, id),
  foreign key (session_id, flow_id) references "keyrow".flow (session_id, id) on delete cascade
)

-- schema.create
create schema "keyrow"

-- schema.effect
create table "keyrow".effect (
  session_id uuid not null,
  flow_id uuid not null,
  scope uuid not null, -- a continuation, or the flow
  name text not null,
  occurrence integer not null,
  claim uuid not null,
  claimed_until timestamptz not null,
  value jsonb, -- null: the effect has not ended
  primary key (session_id, flow_id, scope, name, occurrence),
  foreign key (session_id, flow_id) references "keyrow".flow (session_id, id) on delete cascade
)

-- schema.entry
create table "keyrow".entry (
  session_id uuid not null references "keyrow".session (id) on delete cascade,
  key text not null,
  value jsonb, -- null: the key was deleted at this revision
  revision bigint not null,
  primary key (session_id, key)
) with (fillfactor = 85)

-- schema.flow
create table "keyrow".flow (
  session_id uuid not null,
  id uuid not null,
  name text not null,
  version integer not null, -- the version of the definition that began the flow
  input jsonb not null,
  seed text not null,
  principal text, -- whose flow it is, if anybody's
  caller jsonb, -- the continuation that gets the result
  idle_ms float8,
  generation integer not null, -- a cut raises it
  latest uuid, -- the last continuation
  answers integer not null,
  size integer not null, -- the characters of all records
  ended jsonb,
  used_at timestamptz not null,
  expires_at timestamptz,
  collect_at timestamptz not null, -- the session expires at this time at the latest
  primary key (session_id, id)
) with (fillfactor = 70)

-- schema.flow.collect
create index flow_collect_at on "keyrow".flow (collect_at)

-- schema.found
select to_regnamespace($1::text) is not null as exists, current_setting('session_replication_role') as replication,
       coalesce((select json_agg(c.relname || '.' || a.attname || ' ' || replace(format_type(a.atttypid, a.atttypmod), '"', ''))
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c', 'S', 'i')
                   and c.relname in ('session', 'entry', 'listing', 'metadata', 'flow', 'continuation', 'effect', 'late_save')), '[]')::text as columns,
       coalesce((select json_agg(c.relname) from pg_class c
                 where c.relnamespace = to_regnamespace($1::text) and c.relname in ('session', 'flow')
                   and pg_relation_size(c.oid) < 8388608 and pg_has_role(c.relowner, 'USAGE')), '[]')::text as small
where clock_timestamp() is not null
-- plan:
--   Result
--     InitPlan 1: Aggregate
--       Nested Loop Inner
--         Index Scan using pg_class_relname_nsp_index on pg_class
--         Index Scan using pg_attribute_relid_attnum_index on pg_attribute
--     InitPlan 2: Aggregate
--       Index Scan using pg_class_relname_nsp_index on pg_class

-- schema.late_save
create table "keyrow".late_save (
  session_id uuid not null,
  save bytea not null, -- the idempotency keys of the saves that were stored together
  stored_at timestamptz not null,
  primary key (session_id, save)
)

-- schema.late_save_stored_at
create index late_save_stored_at on "keyrow".late_save using brin (stored_at) with (pages_per_range = 16)

-- schema.listing
create table "keyrow".listing (
  session_id uuid primary key,
  principal text, -- whose session it is, if anybody's
  collect_at timestamptz not null -- no expiry before that time
)

-- schema.listing.collect
create index listing_collect_at on "keyrow".listing (collect_at)

-- schema.listing.principal
create index listing_principal on "keyrow".listing (principal) where principal is not null

-- schema.listing.rows
with listed as (
  insert into "keyrow".listing (session_id, collect_at)
  select id, expires_at
  from "keyrow".session
  where id > coalesce((select session_id from "keyrow".listing order by session_id desc limit 1),
                      '00000000-0000-0000-0000-000000000000')
  order by id
  limit 10000
  returning true
)
select count(*)::int as listed from listed having count(*) > 0
-- plan:
--   Aggregate
--     CTE listed: Insert on listing
--       Subquery Scan
--         Limit
--           InitPlan 1: Limit
--             Index Only Scan using listing_pkey on listing
--           Sort
--             Seq Scan on session
--     CTE Scan on listed

-- schema.lock
select pg_advisory_xact_lock(hashtext('keyrow'), hashtext($1::text))
-- plan:
--   Result

-- schema.metadata
create table "keyrow".metadata (
  version integer primary key,
  made_at timestamptz not null default now(),
  made_by text not null -- the release of keyrow
)

-- schema.metadata.key
alter table "keyrow".metadata add column id_key text

-- schema.metadata.key.default
alter table "keyrow".metadata alter column id_key
  set default gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text

-- schema.patience
select set_config('lock_timeout', '1s', true)
-- plan:
--   Result

-- schema.record
insert into "keyrow".metadata (version, made_by) values ($1::int, $2::text)
-- plan:
--   Insert on metadata
--     Result

-- schema.session
create table "keyrow".session (
  id uuid primary key,
  secret_hash bytea not null,
  previous_hash bytea,
  previous_until timestamptz,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  absolute_expires_at timestamptz not null,
  revision bigint not null,
  recent_saves bytea not null -- the ids of the last saves, eight bytes each
) with (fillfactor = 70)

-- schema.session.idle
alter table "keyrow".session add column idle_ms float8

-- schema.versions
select version, (extract(epoch from made_at) * 1000)::float8 as made, made_by as by,
       (extract(epoch from now() - made_at) * 1000)::float8 as age,
       case when version = 3 then to_jsonb(m) ->> 'id_key' end as key
from "keyrow".metadata m
where clock_timestamp() is not null
order by version
-- plan:
--   Sort
--     Seq Scan on metadata
