-- late.find
select s.revision::float8 as revision, encode(substring(s.recent_saves from greatest(1, length(s.recent_saves) - 7)), 'hex') as "versionTag",
       (select coalesce(string_agg(i.save, ' '), '') from unnest((select $2::text::text[])) as i (save)
        where decode(i.save, 'hex') in (select substring(l.save from 8 * n - 7 for 8) from "keyrow".late_save l
          cross join generate_series(1, length(l.save) / 8) as n where l.session_id = $1::uuid)) as stored,
       case when 
         case when (select $3::float8) > 0 and s.revision - $3::float8 between 0 and 63
                   and substring(s.recent_saves
                                 from length(s.recent_saves) - 7 - 8 * (s.revision - $3::float8)::int for 8)
                       = decode($4::text, 'hex')
              then $3::float8 else 0 end = $3::float8
            then (select coalesce(json_agg(e.key), '[]')::text from "keyrow".entry e
                  where e.session_id = $1::uuid and e.revision > $3::float8) end as changed
from "keyrow".session s
where s.id = $1::uuid and s.expires_at > now() and clock_timestamp() is not null
-- plan:
--   Index Scan using session_pkey on session
--     InitPlan 2: Aggregate
--       InitPlan 1: Result
--       Hash Join Inner
--         Hashed Aggregate
--           Nested Loop Inner
--             Index Only Scan using late_save_pkey on late_save
--             Function Scan on generate_series
--         Hash
--           Function Scan on unnest
--     InitPlan 3: Result
--     InitPlan 4: Aggregate
--       Bitmap Heap Scan on entry
--         Bitmap Index Scan using entry_pkey

-- late.forget
delete from "keyrow".late_save
where ctid = any(array(select ctid from "keyrow".late_save where stored_at < now() - interval '1 hour' limit 10000))
-- plan:
--   Delete on late_save
--     InitPlan 1: Limit
--       Bitmap Heap Scan on late_save
--         Bitmap Index Scan using late_save_stored_at
--     Tid Scan on late_save

-- late.lock
select s.id::text as id, case when extract(epoch from current_setting('lock_timeout', true)::interval) not between 0.001 and 2
            then set_config('lock_timeout', '2000', true) end as wait,
       case when extract(epoch from current_setting('idle_in_transaction_session_timeout', true)::interval) not between 0.001 and 5
            then set_config('idle_in_transaction_session_timeout', '5000', true) end as idle, case when extract(epoch from current_setting('transaction_timeout', true)::interval) not between 0.001 and 5
            then set_config('transaction_timeout', '5000', true) end as bound
from "keyrow".session s where s.id = $1::uuid and expires_at > clock_timestamp() for no key update
-- plan:
--   LockRows
--     Index Scan using session_pkey on session

-- late.remember
insert into "keyrow".late_save (session_id, save, stored_at)
select $1::uuid, decode($2::text, 'hex'), now()
where not exists (select from "keyrow".late_save
                  where session_id = $1::uuid and position(decode($2::text, 'hex') in save) > 0)
returning true as is_new
-- plan:
--   Insert on late_save
--     InitPlan 1: Index Only Scan using late_save_pkey on late_save
--     Result
