// Defines the statements of flows. A flow has a row in `flow`, one row in `continuation` for each answer, and one row in
// `effect` for each effect. The primary keys of these tables begin with the session's id.
//
// Concurrency: A write first locks the session's header (`alive`, for key share), and then the flow. So a write and the
// destruction of the session wait for each other, and a write after the destruction is refused. Saves of the session do
// not wait. All writes of one flow wait for each other. A batch skips locked headers and flows, so it waits for no lock.
import { ON_PRIMARY, unnested, unplanned } from '../db/database.js'
import { MAX_ANSWERS, MAX_FLOWS, MAX_JOURNAL_CHARS } from '../store/flow-contract.js'
import { ALIVE_NOW, epoch, ms, statementsOf } from './fragments.js'

/** The number of flows of a session that are remembered, with those that have ended. */
const MAX_REMEMBERED = 3 * MAX_FLOWS

const alive = (schema: string, isAlive: string, lock = 'key share'): string => `
alive as materialized (
  select absolute_expires_at from ${schema}.session where id = $1::uuid and ${isAlive} for ${lock}
)`

const expired = (f = ''): string =>
  `(least(${f}expires_at, ${f}used_at + ${f}idle_ms * interval '1 millisecond') <= now()) is true`

/** The conditions of a write to a flow: it has not ended, and is as the caller has seen it. */
const unchanged = (generation: string, principal: string): string => `
  session_id = $1::uuid and id = $2::uuid and generation = ${generation}::int and ended is null and not ${expired()}
    and (principal is null or principal = ${principal}::text) and exists (select from alive)`

const insertedRow = (schema: string, values: string, from: string): string => `
  insert into ${schema}.continuation (session_id, flow_id, id, parent, generation, depth, step, records, made, made_at)
  select $1::uuid, $2::uuid, ${values}, now()
  from ${from}
  on conflict do nothing
  returning id`

/** The array parameters of `advanceAll`, in the order of the parameters of `advance`. */
const ADVANCES = [
  'uuid',
  'uuid',
  'int',
  'text',
  'uuid',
  'uuid',
  'text',
  'text',
  'text',
  'int',
  'boolean',
  'text',
].map((type, place) => [`$${String(place + 1)}`, type] as const)

/** Whether the caller lacks a row. $4 is an array of the rows that it has. */
const UNKNOWN = `id || ' ' || made <> all ($4::text::text[])`

/** The statements' conditions for the row of an effect: $3 scope, $4 name, $5 occurrence. */
const EFFECT = `
  session_id = $1::uuid and flow_id = $2::uuid and scope = $3::uuid and name = $4::text and occurrence = $5::int`

export const flowStatements = statementsOf('flow', {
  // $1 session, $2 flow, $3 row or null, $4 array of known rows. The recursion goes from the row to its ancestors, and
  // ends at a known row. `offset 0` makes PostgreSQL read each ancestor by the primary key.
  read: (schema) => `
with recursive chain as (
  select id, parent, generation, depth, made, records
  from ${schema}.continuation
  where session_id = $1::uuid and flow_id = $2::uuid and id = $3::uuid and ${UNKNOWN}
  union all
  select above.id, above.parent, above.generation, above.depth, above.made, above.records
  from chain cross join lateral (
    select id, parent, generation, depth, made, records
    from ${schema}.continuation c
    where session_id = $1::uuid and flow_id = $2::uuid and c.id = chain.parent and ${UNKNOWN}
    offset 0
  ) above
)
select f.name, f.version, f.input::text as input, f.seed, f.principal, f.caller::text as caller, f.generation, f.latest::text as latest,
       f.answers, f.size, f.ended::text as ended, ${expired('f.')} as expired,
       (select c.generation from ${schema}.continuation c
        where c.session_id = $1::uuid and c.flow_id = $2::uuid and c.id = $3::uuid) as "rowGeneration",
       (select json_agg(json_build_object('id', id, 'parent', parent, 'generation', generation, 'made', made,
                                          'records', records) order by depth)::text
        from chain) as rows,
       (select value::text from ${schema}.effect e
        where e.session_id = $1::uuid and e.flow_id = $2::uuid and e.scope = $3::uuid and e.name = 'keyrow:answer') as given
from ${schema}.session s join ${schema}.flow f on f.session_id = s.id
where s.id = $1::uuid and s.expires_at > now() and f.session_id = $1::uuid and f.id = $2::uuid and ${ON_PRIMARY}`,

  // $1 session, $2 flow, $3 name, $4 version, $5 input, $6 seed, $7 principal, $8 caller, $9 idle time, $10 maximum age,
  // $11 first row or null, $12 step, $13 records, $14 idempotency key, $15 characters. The flow is inserted with its
  // first row. Flows beyond the limit end as evicted, and flows beyond a second limit are deleted. The caller of the flow
  // is never one of them. Two statements of one session wait for each other, so that they lock flows one after the other.
  begin: (schema, isAlive) => `
with ${alive(schema, isAlive, 'no key update')}, ranked as materialized (
  select id, ended is null as open, row_number() over used as place,
         count(*) filter (where ended is null) over used as open_place
  from ${schema}.flow
  where session_id = $1::uuid and id <> $2::uuid and exists (select from alive)
    and id is distinct from ($8::text::jsonb ->> 'flow')::uuid
  window used as (order by used_at desc, id)
), forgotten as (
  delete from ${schema}.flow
  where session_id = $1::uuid and id in (select id from ranked where place >= ${String(MAX_REMEMBERED)})
), evicted as (
  update ${schema}.flow set ended = '"evicted"', generation = generation + 1, latest = null
  where session_id = $1::uuid
    and id in (select id from ranked
               where open and open_place >= ${String(MAX_FLOWS)} and place < ${String(MAX_REMEMBERED)})
  returning id
), emptied as (
  delete from ${schema}.continuation where session_id = $1::uuid and flow_id in (select id from evicted)
), begun as (
  insert into ${schema}.flow (session_id, id, name, version, input, seed, principal, caller, idle_ms, generation, latest,
                              answers, size, used_at, expires_at, collect_at)
  select $1::uuid, $2::uuid, $3::text, $4::int, $5::text::jsonb, $6::text, $7::text, $8::text::jsonb, $9::float8, 0, $11::uuid,
         case when $11::uuid is null then 0 else 1 end, $15::int, now(),
         now() + ${ms('$10')}, absolute_expires_at
  from alive
  on conflict do nothing
  returning id
), made as (${insertedRow(
    schema,
    '$11::uuid, null, 0, 1, $12::text, $13::text::jsonb, $14::text',
    `begun where ${unplanned('$11::uuid')} is not null`,
  )}
)
select exists (select from begun) as inserted, (select count(*) from evicted)::int as evicted`,

  // $1 session, $2 flow, $3 generation, $4 principal, $5 row, $6 parent, $7 step, $8 records, $9 idempotency key,
  // $10 characters, $11 whether the row cuts the flow, $12 idempotency key of the parent, or seed of the flow
  advance: (schema, isAlive) => `
with ${alive(schema, isAlive)}, above as materialized (
  select depth from ${schema}.continuation
  where session_id = $1::uuid and flow_id = $2::uuid and id = $6::uuid and made = $12::text
), locked as materialized (
  select generation from ${schema}.flow
  where ${unchanged('$3', '$4')} and (case when ${unplanned('$6::uuid')} is null then seed = $12::text else exists (select from above) end)
    and answers < ${String(MAX_ANSWERS)} and size + $10::int <= ${String(MAX_JOURNAL_CHARS)}
  for no key update
), made as (${insertedRow(
    schema,
    `$5::uuid, $6::uuid, generation + $11::boolean::int,
         coalesce((select depth from above), 0) + 1,
         $7::text, $8::text::jsonb, $9::text`,
    'locked',
  )}
), moved as (
  update ${schema}.flow
  set used_at = now(), latest = $5::uuid, answers = answers + 1, size = size + $10::int,
      generation = generation + $11::boolean::int, principal = coalesce(principal, $4::text)
  where session_id = $1::uuid and id = $2::uuid and exists (select from made)
)
select exists (select from made)
       or exists (select from ${schema}.continuation
                  where session_id = $1::uuid and flow_id = $2::uuid and id = $5::uuid and made = $9::text) as stored`,

  // Like `advance`, for rows of different flows. Arrays as text: $1 sessions, $2 flows, $3 generations, $4 principals, $5
  // rows, $6 parents, $7 steps, $8 records, $9 idempotency keys, $10 characters, $11 whether the row cuts the flow, $12
  // idempotency keys of the parents, or seeds of the flows. The result has the ordinals of the rows that this statement
  // has stored.
  advanceAll: (schema) => `
with locked as materialized (
  select i.n, i.session, i.flow, i.row, i.parent, f.generation + i.cuts::int as generation,
         coalesce(above.depth, 0) + 1 as depth, i.step, i.records, i.made, i.chars, i.principal
  from ${unnested(...ADVANCES)}
         with ordinality as i (session, flow, generation, principal, row, parent, step, records, made, chars, cuts, above, n)
  join ${schema}.session s on s.id = i.session
  join ${schema}.flow f on f.session_id = i.session and f.id = i.flow
  left join ${schema}.continuation above
    on above.session_id = i.session and above.flow_id = i.flow and above.id = i.parent and above.made = i.above
  where s.${ALIVE_NOW} and f.generation = i.generation and f.ended is null and not ${expired('f.')}
    and (f.principal is null or f.principal = i.principal) and (case when i.parent is null then f.seed = i.above else above.id is not null end)
    and f.answers < ${String(MAX_ANSWERS)} and f.size + i.chars <= ${String(MAX_JOURNAL_CHARS)}
  for key share of s skip locked
  for no key update of f skip locked
), made as (
  insert into ${schema}.continuation (session_id, flow_id, id, parent, generation, depth, step, records, made, made_at)
  select session, flow, row, parent, generation, depth, step, records::jsonb, made, now()
  from locked
  on conflict do nothing
  returning session_id, flow_id
), moved as (
  update ${schema}.flow f
  set used_at = now(), latest = locked.row, answers = answers + 1, size = size + locked.chars,
      generation = locked.generation, principal = coalesce(f.principal, locked.principal)
  from locked join made on made.session_id = locked.session and made.flow_id = locked.flow
  where f.session_id = locked.session and f.id = locked.flow
)
select locked.n::int as n
from locked join made on made.session_id = locked.session and made.flow_id = locked.flow`,

  // $1 session, $2 flow, $3 generation, $4 principal, $5 `{"to": path, "made": idempotency key}`, $6 idempotency key. The
  // effects are kept. Otherwise a concurrent claim that waits for a deleted effect would run the effect again.
  end: (schema, isAlive) => `
with ${alive(schema, isAlive)}, finished as (
  update ${schema}.flow set ended = $5::text::jsonb, generation = generation + 1, latest = null, used_at = now()
  where ${unchanged('$3', '$4')}
  returning id
), emptied as (
  delete from ${schema}.continuation
  where session_id = $1::uuid and flow_id = $2::uuid and exists (select from finished)
)
select exists (select from finished)
       or exists (select from ${schema}.flow
                  where session_id = $1::uuid and id = $2::uuid and ended ->> 'made' = $6::text) as stored`,

  // $1 session, $2 flow, $3 scope, $4 name, $5 occurrence, $6 claim, $7 time of the claim, $8 generation. Inserts the
  // claim, or takes over a claim whose time is over.
  claim: (schema, isAlive) => `
with ${alive(schema, isAlive)}, running as materialized (
  select size < ${String(MAX_JOURNAL_CHARS)} as fits from ${schema}.flow
  where session_id = $1::uuid and id = $2::uuid and generation = $8::int and ended is null and not ${expired()}
    and exists (select from alive)
  for key share
), claimed as (
  insert into ${schema}.effect as e (session_id, flow_id, scope, name, occurrence, claim, claimed_until)
  select $1::uuid, $2::uuid, $3::uuid, $4::text, $5::int, $6::uuid, now() + ${ms('$7')}
  from running where fits
  on conflict (session_id, flow_id, scope, name, occurrence) do update
  set claim = excluded.claim, claimed_until = excluded.claimed_until
  where e.value is null and (e.claimed_until <= now() or e.claim = excluded.claim)
  returning true
)
select exists (select from claimed) as claimed, exists (select from running) as running,
       exists (select from running where not fits) as "full",
       (select value::text from ${schema}.effect where ${EFFECT}) as value`,

  // $1 session, $2 flow, $3 scope, $4 name, $5 occurrence, $6 claim, $7 value, $8 characters. If $8 is 0, the flow is not
  // locked. Otherwise it is locked before the effect, like in a deletion of the flow.
  record: (schema) => `
with sized as (
  update ${schema}.flow set size = size + $8::int
  where session_id = $1::uuid and id = $2::uuid and ${unplanned('$8::int')} > 0
  returning id
)
update ${schema}.effect set value = $7::text::jsonb
where ${EFFECT} and claim = $6::uuid and (value is null or value = $7::text::jsonb)
  and (${unplanned('$8::int')} = 0 or exists (select from sized))
returning true as recorded`,

  // $1 session, $2 flow, $3 scope, $4 name, $5 occurrence, $6 claim
  release: (schema) => `
delete from ${schema}.effect where ${EFFECT} and claim = $6::uuid and value is null`,

  // $1 session
  list: (schema) => `
select f.id::text as id, f.name, f.latest::text as latest, c.step, f.answers, ${epoch('f.used_at')} as used
from ${schema}.session s
join ${schema}.flow f on f.session_id = s.id
left join ${schema}.continuation c on c.session_id = f.session_id and c.flow_id = f.id and c.id = f.latest
where s.id = $1::uuid and f.session_id = $1::uuid and s.expires_at > now() and f.ended is null and not ${expired('f.')}
  and ${ON_PRIMARY}
order by f.used_at desc, f.id`,

  // $1 session, $2 flow
  drop: (schema, isAlive) => `
with ${alive(schema, isAlive)}
delete from ${schema}.flow where session_id = $1::uuid and id = $2::uuid and exists (select from alive)`,

  // $1 batch size. Deletes the flows of ended sessions that the destruction of the session has missed. `collect_at` is
  // the time at which the session expires at the latest. If the session has got another lifetime meanwhile, the flow
  // gets a later time.
  sweep: (schema) => `
with due as materialized (
  select session_id, id from ${schema}.flow where collect_at <= now()
  order by collect_at
  limit $1::int
  for update skip locked
), kept as (
  update ${schema}.flow f set collect_at = s.absolute_expires_at
  from due join ${schema}.session s on s.id = due.session_id
  where f.session_id = due.session_id and f.id = due.id and s.absolute_expires_at > now()
)
delete from ${schema}.flow f
using due
where f.session_id = due.session_id and f.id = due.id
  and not exists (select from ${schema}.session s where s.id = due.session_id and s.absolute_expires_at > now())
returning true as deleted`,

  // Citus locks no rows of several shards, so all these flows are deleted at once.
  sweepAll: (schema) => `
delete from ${schema}.flow f
where collect_at <= now()
  and not exists (select from ${schema}.session s where s.id = f.session_id and s.absolute_expires_at > now())`,
})
