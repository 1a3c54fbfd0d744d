-- flow.advance
with 
alive as materialized (
  select absolute_expires_at from "keyrow".session where id = $1::uuid and expires_at > clock_timestamp() for key share
), above as materialized (
  select depth from "keyrow".continuation
  where session_id = $1::uuid and flow_id = $2::uuid and id = $6::uuid and made = $12::text
), locked as materialized (
  select generation from "keyrow".flow
  where 
  session_id = $1::uuid and id = $2::uuid and generation = $3::int and ended is null and not (least(expires_at, used_at + idle_ms * interval '1 millisecond') <= now()) is true
    and (principal is null or principal = $4::text) and exists (select from alive) and (case when (select $6::uuid) is null then seed = $12::text else exists (select from above) end)
    and answers < 500 and size + $10::int <= 1048576
  for no key update
), made as (
  insert into "keyrow".continuation (session_id, flow_id, id, parent, generation, depth, step, records, made, made_at)
  select $1::uuid, $2::uuid, $5::uuid, $6::uuid, generation + $11::boolean::int,
         coalesce((select depth from above), 0) + 1,
         $7::text, $8::text::jsonb, $9::text, now()
  from locked
  on conflict do nothing
  returning id
), moved as (
  update "keyrow".flow
  set used_at = now(), latest = $5::uuid, answers = answers + 1, size = size + $10::int,
      generation = generation + $11::boolean::int, principal = coalesce(principal, $4::text)
  where session_id = $1::uuid and id = $2::uuid and exists (select from made)
)
select exists (select from made)
       or exists (select from "keyrow".continuation
                  where session_id = $1::uuid and flow_id = $2::uuid and id = $5::uuid and made = $9::text) as stored
-- plan:
--   Result
--     CTE alive: LockRows
--       Index Scan using session_pkey on session
--     CTE above: Index Scan using continuation_pkey on continuation
--     CTE locked: LockRows
--       InitPlan 3: CTE Scan on alive
--       InitPlan 4: Result
--       InitPlan 5: CTE Scan on above
--       Result
--         Index Scan using flow_pkey on flow
--     CTE made: Insert on continuation
--       InitPlan 7: CTE Scan on above
--       CTE Scan on locked
--     CTE moved: Update on flow
--       InitPlan 9: CTE Scan on made
--       Result
--         Index Scan using flow_pkey on flow
--     InitPlan 11: CTE Scan on made
--     InitPlan 12: Index Scan using continuation_pkey on continuation

-- flow.advanceAll
with locked as materialized (
  select i.n, i.session, i.flow, i.row, i.parent, f.generation + i.cuts::int as generation,
         coalesce(above.depth, 0) + 1 as depth, i.step, i.records, i.made, i.chars, i.principal
  from unnest((select $1::text::uuid[]), (select $2::text::uuid[]), (select $3::text::int[]), (select $4::text::text[]), (select $5::text::uuid[]), (select $6::text::uuid[]), (select $7::text::text[]), (select $8::text::text[]), (select $9::text::text[]), (select $10::text::int[]), (select $11::text::boolean[]), (select $12::text::text[]))
         with ordinality as i (session, flow, generation, principal, row, parent, step, records, made, chars, cuts, above, n)
  join "keyrow".session s on s.id = i.session
  join "keyrow".flow f on f.session_id = i.session and f.id = i.flow
  left join "keyrow".continuation above
    on above.session_id = i.session and above.flow_id = i.flow and above.id = i.parent and above.made = i.above
  where s.expires_at > clock_timestamp() and f.generation = i.generation and f.ended is null and not (least(f.expires_at, f.used_at + f.idle_ms * interval '1 millisecond') <= now()) is true
    and (f.principal is null or f.principal = i.principal) and (case when i.parent is null then f.seed = i.above else above.id is not null end)
    and f.answers < 500 and f.size + i.chars <= 1048576
  for key share of s skip locked
  for no key update of f skip locked
), made as (
  insert into "keyrow".continuation (session_id, flow_id, id, parent, generation, depth, step, records, made, made_at)
  select session, flow, row, parent, generation, depth, step, records::jsonb, made, now()
  from locked
  on conflict do nothing
  returning session_id, flow_id
), moved as (
  update "keyrow".flow f
  set used_at = now(), latest = locked.row, answers = answers + 1, size = size + locked.chars,
      generation = locked.generation, principal = coalesce(f.principal, locked.principal)
  from locked join made on made.session_id = locked.session and made.flow_id = locked.flow
  where f.session_id = locked.session and f.id = locked.flow
)
select locked.n::int as n
from locked join made on made.session_id = locked.session and made.flow_id = locked.flow
-- plan:
--   Nested Loop Inner
--     CTE locked: LockRows
--       InitPlan 1: Result
--       InitPlan 2: Result
--       InitPlan 3: Result
--       InitPlan 4: Result
--       InitPlan 5: Result
--       InitPlan 6: Result
--       InitPlan 7: Result
--       InitPlan 8: Result
--       InitPlan 9: Result
--       InitPlan 10: Result
--       InitPlan 11: Result
--       InitPlan 12: Result
--       Nested Loop Left
--         Nested Loop Inner
--           Nested Loop Inner
--             Function Scan
--             Index Scan using flow_pkey on flow
--           Index Scan using session_pkey on session
--         Index Scan using continuation_pkey on continuation
--     CTE made: Insert on continuation
--       CTE Scan on locked
--     CTE moved: Update on flow
--       Nested Loop Inner
--         Nested Loop Inner
--           CTE Scan on locked
--           Index Scan using flow_pkey on flow
--         CTE Scan on made
--     CTE Scan on locked
--     CTE Scan on made

-- flow.begin
with 
alive as materialized (
  select absolute_expires_at from "keyrow".session where id = $1::uuid and expires_at > clock_timestamp() for no key update
), ranked as materialized (
  select id, ended is null as open, row_number() over used as place,
         count(*) filter (where ended is null) over used as open_place
  from "keyrow".flow
  where session_id = $1::uuid and id <> $2::uuid and exists (select from alive)
    and id is distinct from ($8::text::jsonb ->> 'flow')::uuid
  window used as (order by used_at desc, id)
), forgotten as (
  delete from "keyrow".flow
  where session_id = $1::uuid and id in (select id from ranked where place >= 60)
), evicted as (
  update "keyrow".flow set ended = '"evicted"', generation = generation + 1, latest = null
  where session_id = $1::uuid
    and id in (select id from ranked
               where open and open_place >= 20 and place < 60)
  returning id
), emptied as (
  delete from "keyrow".continuation where session_id = $1::uuid and flow_id in (select id from evicted)
), begun as (
  insert into "keyrow".flow (session_id, id, name, version, input, seed, principal, caller, idle_ms, generation, latest,
                              answers, size, used_at, expires_at, collect_at)
  select $1::uuid, $2::uuid, $3::text, $4::int, $5::text::jsonb, $6::text, $7::text, $8::text::jsonb, $9::float8, 0, $11::uuid,
         case when $11::uuid is null then 0 else 1 end, $15::int, now(),
         now() + $10::float8 * interval '1 millisecond', absolute_expires_at
  from alive
  on conflict do nothing
  returning id
), made as (
  insert into "keyrow".continuation (session_id, flow_id, id, parent, generation, depth, step, records, made, made_at)
  select $1::uuid, $2::uuid, $11::uuid, null, 0, 1, $12::text, $13::text::jsonb, $14::text, now()
  from begun where (select $11::uuid) is not null
  on conflict do nothing
  returning id
)
select exists (select from begun) as inserted, (select count(*) from evicted)::int as evicted
-- plan:
--   Result
--     CTE alive: LockRows
--       Index Scan using session_pkey on session
--     CTE ranked: WindowAgg
--       InitPlan 2: CTE Scan on alive
--       Sort
--         Result
--           Index Scan using flow_pkey on flow
--     CTE forgotten: Delete on flow
--       Nested Loop Semi
--         Index Scan using flow_pkey on flow
--         CTE Scan on ranked
--     CTE evicted: Update on flow
--       Nested Loop Semi
--         Index Scan using flow_pkey on flow
--         CTE Scan on ranked
--     CTE emptied: Delete on continuation
--       Nested Loop Inner
--         Hashed Aggregate
--           CTE Scan on evicted
--         Index Scan using continuation_pkey on continuation
--     CTE begun: Insert on flow
--       CTE Scan on alive
--     CTE made: Insert on continuation
--       InitPlan 8: Result
--       Result
--         CTE Scan on begun
--     InitPlan 10: CTE Scan on begun
--     InitPlan 11: Aggregate
--       CTE Scan on evicted

-- flow.claim
with 
alive as materialized (
  select absolute_expires_at from "keyrow".session where id = $1::uuid and expires_at > clock_timestamp() for key share
), running as materialized (
  select size < 1048576 as fits from "keyrow".flow
  where session_id = $1::uuid and id = $2::uuid and generation = $8::int and ended is null and not (least(expires_at, used_at + idle_ms * interval '1 millisecond') <= now()) is true
    and exists (select from alive)
  for key share
), claimed as (
  insert into "keyrow".effect as e (session_id, flow_id, scope, name, occurrence, claim, claimed_until)
  select $1::uuid, $2::uuid, $3::uuid, $4::text, $5::int, $6::uuid, now() + $7::float8 * interval '1 millisecond'
  from running where fits
  on conflict (session_id, flow_id, scope, name, occurrence) do update
  set claim = excluded.claim, claimed_until = excluded.claimed_until
  where e.value is null and (e.claimed_until <= now() or e.claim = excluded.claim)
  returning true
)
select exists (select from claimed) as claimed, exists (select from running) as running,
       exists (select from running where not fits) as "full",
       (select value::text from "keyrow".effect where 
  session_id = $1::uuid and flow_id = $2::uuid and scope = $3::uuid and name = $4::text and occurrence = $5::int) as value
-- plan:
--   Result
--     CTE alive: LockRows
--       Index Scan using session_pkey on session
--     CTE running: LockRows
--       InitPlan 2: CTE Scan on alive
--       Result
--         Index Scan using flow_pkey on flow
--     CTE claimed: Insert on effect
--       CTE Scan on running
--     InitPlan 5: CTE Scan on claimed
--     InitPlan 6: CTE Scan on running
--     InitPlan 7: CTE Scan on running
--     InitPlan 8: Index Scan using effect_pkey on effect

-- flow.drop
with 
alive as materialized (
  select absolute_expires_at from "keyrow".session where id = $1::uuid and expires_at > clock_timestamp() for key share
)
delete from "keyrow".flow where session_id = $1::uuid and id = $2::uuid and exists (select from alive)
-- plan:
--   Delete on flow
--     CTE alive: LockRows
--       Index Scan using session_pkey on session
--     InitPlan 2: CTE Scan on alive
--     Result
--       Index Scan using flow_pkey on flow

-- flow.end
with 
alive as materialized (
  select absolute_expires_at from "keyrow".session where id = $1::uuid and expires_at > clock_timestamp() for key share
), finished as (
  update "keyrow".flow set ended = $5::text::jsonb, generation = generation + 1, latest = null, used_at = now()
  where 
  session_id = $1::uuid and id = $2::uuid and generation = $3::int and ended is null and not (least(expires_at, used_at + idle_ms * interval '1 millisecond') <= now()) is true
    and (principal is null or principal = $4::text) and exists (select from alive)
  returning id
), emptied as (
  delete from "keyrow".continuation
  where session_id = $1::uuid and flow_id = $2::uuid and exists (select from finished)
)
select exists (select from finished)
       or exists (select from "keyrow".flow
                  where session_id = $1::uuid and id = $2::uuid and ended ->> 'made' = $6::text) as stored
-- plan:
--   Result
--     CTE alive: LockRows
--       Index Scan using session_pkey on session
--     CTE finished: Update on flow
--       InitPlan 2: CTE Scan on alive
--       Result
--         Index Scan using flow_pkey on flow
--     CTE emptied: Delete on continuation
--       InitPlan 4: CTE Scan on finished
--       Result
--         Index Scan using continuation_pkey on continuation
--     InitPlan 6: CTE Scan on finished
--     InitPlan 7: Index Scan using flow_pkey on flow

-- flow.list
select f.id::text as id, f.name, f.latest::text as latest, c.step, f.answers, date_part('epoch', f.used_at) * 1000 as used
from "keyrow".session s
join "keyrow".flow f on f.session_id = s.id
left join "keyrow".continuation c on c.session_id = f.session_id and c.flow_id = f.id and c.id = f.latest
where s.id = $1::uuid and f.session_id = $1::uuid and s.expires_at > now() and f.ended is null and not (least(f.expires_at, f.used_at + f.idle_ms * interval '1 millisecond') <= now()) is true
  and clock_timestamp() is not null
order by f.used_at desc, f.id
-- plan:
--   Sort
--     Nested Loop Left
--       Nested Loop Inner
--         Index Scan using flow_pkey on flow
--         Index Scan using session_pkey on session
--       Index Scan using continuation_pkey on continuation

-- flow.read
with recursive chain as (
  select id, parent, generation, depth, made, records
  from "keyrow".continuation
  where session_id = $1::uuid and flow_id = $2::uuid and id = $3::uuid and id || ' ' || made <> all ($4::text::text[])
  union all
  select above.id, above.parent, above.generation, above.depth, above.made, above.records
  from chain cross join lateral (
    select id, parent, generation, depth, made, records
    from "keyrow".continuation c
    where session_id = $1::uuid and flow_id = $2::uuid and c.id = chain.parent and id || ' ' || made <> all ($4::text::text[])
    offset 0
  ) above
)
select f.name, f.version, f.input::text as input, f.seed, f.principal, f.caller::text as caller, f.generation, f.latest::text as latest,
       f.answers, f.size, f.ended::text as ended, (least(f.expires_at, f.used_at + f.idle_ms * interval '1 millisecond') <= now()) is true as expired,
       (select c.generation from "keyrow".continuation c
        where c.session_id = $1::uuid and c.flow_id = $2::uuid and c.id = $3::uuid) as "rowGeneration",
       (select json_agg(json_build_object('id', id, 'parent', parent, 'generation', generation, 'made', made,
                                          'records', records) order by depth)::text
        from chain) as rows,
       (select value::text from "keyrow".effect e
        where e.session_id = $1::uuid and e.flow_id = $2::uuid and e.scope = $3::uuid and e.name = 'keyrow:answer') as given
from "keyrow".session s join "keyrow".flow f on f.session_id = s.id
where s.id = $1::uuid and s.expires_at > now() and f.session_id = $1::uuid and f.id = $2::uuid and clock_timestamp() is not null
-- plan:
--   Nested Loop Inner
--     CTE chain: Recursive Union
--       Index Scan using continuation_pkey on continuation
--       Nested Loop Inner
--         WorkTable Scan on chain
--         Index Scan using continuation_pkey on continuation
--     InitPlan 2: Index Scan using continuation_pkey on continuation
--     InitPlan 3: Aggregate
--       Sort
--         CTE Scan on chain
--     InitPlan 4: Index Scan using effect_pkey on effect
--     Index Scan using session_pkey on session
--     Index Scan using flow_pkey on flow

-- flow.record
with sized as (
  update "keyrow".flow set size = size + $8::int
  where session_id = $1::uuid and id = $2::uuid and (select $8::int) > 0
  returning id
)
update "keyrow".effect set value = $7::text::jsonb
where 
  session_id = $1::uuid and flow_id = $2::uuid and scope = $3::uuid and name = $4::text and occurrence = $5::int and claim = $6::uuid and (value is null or value = $7::text::jsonb)
  and ((select $8::int) = 0 or exists (select from sized))
returning true as recorded
-- plan:
--   Update on effect
--     CTE sized: Update on flow
--       InitPlan 1: Result
--       Result
--         Index Scan using flow_pkey on flow
--     InitPlan 3: Result
--     InitPlan 4: CTE Scan on sized
--     Result
--       Index Scan using effect_pkey on effect

-- flow.release
delete from "keyrow".effect where 
  session_id = $1::uuid and flow_id = $2::uuid and scope = $3::uuid and name = $4::text and occurrence = $5::int and claim = $6::uuid and value is null
-- plan:
--   Delete on effect
--     Index Scan using effect_pkey on effect

-- flow.sweep
with due as materialized (
  select session_id, id from "keyrow".flow where collect_at <= now()
  order by collect_at
  limit $1::int
  for update skip locked
), kept as (
  update "keyrow".flow f set collect_at = s.absolute_expires_at
  from due join "keyrow".session s on s.id = due.session_id
  where f.session_id = due.session_id and f.id = due.id and s.absolute_expires_at > now()
)
delete from "keyrow".flow f
using due
where f.session_id = due.session_id and f.id = due.id
  and not exists (select from "keyrow".session s where s.id = due.session_id and s.absolute_expires_at > now())
returning true as deleted
-- plan:
--   Delete on flow
--     CTE due: Limit
--       LockRows
--         Index Scan using flow_collect_at on flow
--     CTE kept: Update on flow
--       Nested Loop Inner
--         Nested Loop Inner
--           CTE Scan on due
--           Index Scan using session_pkey on session
--         Index Scan using flow_pkey on flow
--     Nested Loop Anti
--       Nested Loop Inner
--         CTE Scan on due
--         Index Scan using flow_pkey on flow
--       Index Scan using session_pkey on session

-- flow.sweepAll
delete from "keyrow".flow f
where collect_at <= now()
  and not exists (select from "keyrow".session s where s.id = f.session_id and s.absolute_expires_at > now())
-- plan:
--   Delete on flow
--     Nested Loop Anti
--       Index Scan using flow_collect_at on flow
--       Index Scan using session_pkey on session
