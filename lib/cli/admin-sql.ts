// Defines the administrator's statements. They list, show and end sessions, and collect the statistics of `keyrow
// doctor`. Parameters are text, numbers or booleans, and results are text, int, float8 or boolean. So the statements
// work in the same way with every driver.
//
// No statement reads the hash of a secret. Only `show` returns values, and only on request. A statement that ends
// sessions ends at most one batch. It first locks the sessions in the order of their ids. Statistics come from the
// system catalogues, an index, or a sample of pages, so that their cost does not grow with the tables.
import { OWN } from '../core/key.js'
import { ON_PRIMARY, ONCE_ON_PRIMARY } from '../db/database.js'
import { endingOf, epoch, FENCED, fence, statementsOf } from '../sql/fragments.js'
import { TABLE_NAMES } from '../sql/migrations.js'

const times = (session: string): string =>
  `${epoch(`${session}.created_at`)} as created, ${epoch(`${session}.expires_at`)} as expiration`

const stored = (schema: string, id: string): string => `(
  select count(*)::int as keys, coalesce(sum(pg_column_size(e.value)), 0)::float8 as bytes
  from ${schema}.entry e
  where e.session_id = ${id} and e.value is not null)`

/** `end` counts sessions up to this number. If there are more, its question says `more than` this number. */
export const COUNT_LIMIT = 10_000

const counted = (from: string): string => `
select count(*)::int as count, current_database()::text as database
from (select from ${from} limit ${String(COUNT_LIMIT + 1)}) as found
where ${ONCE_ON_PRIMARY}`

// Ends one batch of sessions. `chosen` selects the ids of the batch, and locks no row. So its rows are the whole batch,
// even if another process ends some of these sessions meanwhile. The next batch continues after the id `last`.
const ended = (schema: string, chosen: string): string =>
  endingOf(schema, {
    before: [`chosen as materialized (\n  ${chosen}\n)`],
    lockedSessions: `
  select id from ${schema}.session
  where id in (select id from chosen)
  order by id
  for update`,
    deletesEntries: true,
    fenced: fence(schema, `select id, ${FENCED} from held`),
    result: `select (select count(*) from ended)::int as ended, (select count(*) from chosen)::int as chosen,
       (select id::text from chosen order by id desc limit 1) as last`,
  })

const next = (id: string, from: string, condition = ''): string => `select ${from}
  where ${condition}${id} > $2::uuid
  order by ${id}
  limit $1::int`

const ANSWERING_SERVER = `
select concat_ws(' ', pg_postmaster_start_time(), inet_server_addr(), inet_server_port()) as server,
       current_setting('in_hot_standby', true) = 'on' is true as standby`

export const adminStatements = statementsOf('admin', {
  // $1 limit
  sessions: (schema) => `
with newest as (
  select id, created_at, expires_at from ${schema}.session
  where expires_at > now()
  order by created_at desc, id
  limit $1::int
)
select n.id::text as id, l.principal as principal, ${times('n')}, h.keys as keys, h.bytes as bytes
from newest n left join ${schema}.listing l on l.session_id = n.id cross join lateral ${stored(schema, 'n.id')} as h
where ${ONCE_ON_PRIMARY}
order by n.created_at desc, n.id`,

  // $1 limit, $2 principal
  sessionsOf: (schema) => `
with newest as (
  select s.id, s.created_at, s.expires_at, l.principal
  from ${schema}.listing l join ${schema}.session s on s.id = l.session_id
  where l.principal = $2::text and s.expires_at > now()
  order by s.created_at desc, s.id
  limit $1::int
)
select n.id::text as id, n.principal as principal, ${times('n')}, h.keys as keys, h.bytes as bytes
from newest n cross join lateral ${stored(schema, 'n.id')} as h
where ${ONCE_ON_PRIMARY}
order by n.created_at desc, n.id`,

  // $1 id, $2 whether to return the values. Returns a row for each key, or one row with key null if there are no keys.
  show: (schema) => `
select s.id::text as id, l.principal as principal, ${times('s')},
       ${epoch('s.absolute_expires_at')} as absolute, s.revision::float8 as revision,
       s.expires_at > now() as live, e.key as key, pg_column_size(e.value)::float8 as bytes,
       case when $2::boolean then e.value::text end as value
from ${schema}.session s
     left join ${schema}.listing l on l.session_id = s.id
     left join ${schema}.entry e on e.session_id = s.id and e.value is not null
where s.id = $1::uuid and ${ONCE_ON_PRIMARY}
order by e.key`,

  // $1 session. Also returns flows that have ended. A flow of an ended session has no state that matters.
  flows: (schema) => `
select f.id::text as id, f.name, f.version, c.step, f.answers, f.size, ${epoch('f.used_at')} as used,
       ${epoch('f.collect_at')} as expiration,
       case when f.ended = '"evicted"' then 'evicted' when f.ended is not null then 'finished'
            when least(f.expires_at, f.used_at + f.idle_ms * interval '1 millisecond') <= now() then 'expired'
            else 'running' end as state
from ${schema}.flow f
     left join ${schema}.continuation c on c.session_id = f.session_id and c.flow_id = f.id and c.id = f.latest
where f.session_id = $1::uuid and ${ONCE_ON_PRIMARY}
order by f.used_at desc, f.id`,

  // $1 session, $2 flow, $3 whether to return the values of records, not only their names
  continuations: (schema) => `
select c.id::text as id, c.parent::text as parent, c.depth, c.step, ${epoch('c.made_at')} as made,
       (case when $3::boolean then c.records
             else (select jsonb_agg(r ->> 1) from jsonb_array_elements(c.records) as r) end)::text as records
from ${schema}.continuation c
where c.session_id = $1::uuid and c.flow_id = $2::uuid and ${ONCE_ON_PRIMARY}
order by c.made_at, c.depth, c.id`,

  // $1 session, $2 flow
  dropFlow: (schema) => `
delete from ${schema}.flow where session_id = $1::uuid and id = $2::uuid`,

  // $1 id
  countOne: (schema) => counted(`${schema}.session where id = $1::uuid`),

  // $1 principal
  countOf: (schema) =>
    counted(
      `${schema}.listing l join ${schema}.session s on s.id = l.session_id where l.principal = $1::text`,
    ),

  countAll: (schema) => counted(`${schema}.session`),

  // $1 id
  endOne: (schema) => ended(schema, 'select $1::uuid as id'),

  // $1 batch size, $2 the last id of the previous batch, $3 principal
  endOf: (schema) =>
    ended(schema, next('session_id', `session_id as id from ${schema}.listing`, 'principal = $3::text and ')),

  // $1 batch size, $2 the last id of the previous batch
  endAll: (schema) => ended(schema, next('id', `id from ${schema}.session`)),

  // $1 percentage of the pages. `orphans` are sessions without a row in `listing`.
  sessionSample: (schema) => `
select count(*)::float8 as counted, (count(*) filter (where s.expires_at <= now()))::float8 as dead,
       (count(*) filter (where l.session_id is null))::float8 as orphans
from ${schema}.session as s tablesample system ($1::real) left join ${schema}.listing l on l.session_id = s.id
where ${ONCE_ON_PRIMARY}`,

  entrySample: (schema) => `
select count(*)::float8 as counted, (count(*) filter (where value is null))::float8 as dead, 0::float8 as orphans,
       (count(*) filter (where key = '${OWN.bound}' and value is not null))::float8 as bound
from ${schema}.entry tablesample system ($1::real)
where ${ONCE_ON_PRIMARY}`,

  // `orphans` are due rows of `listing` that have no session. The cleanup should have deleted these rows.
  principalsSample: (schema) => `
select count(*)::float8 as counted, 0::float8 as dead,
       (count(*) filter (where s.id is null and l.collect_at <= now()))::float8 as orphans
from ${schema}.listing as l tablesample system ($1::real) left join ${schema}.session s on s.id = l.session_id
where ${ONCE_ON_PRIMARY}`,

  // Returns the time since the first row of `listing` became due for the cleanup, in milliseconds.
  due: (schema) =>
    `select ${epoch('now()')} - ${epoch('min(collect_at)')} as waiting from ${schema}.listing where ${ONCE_ON_PRIMARY}`,

  // Returns the time since the newest late save was stored, in milliseconds. Such saves are forgotten after an hour.
  late: (schema) =>
    `select ${epoch('now()')} - ${epoch('max(stored_at)')} as age from ${schema}.late_save where ${ONCE_ON_PRIMARY}`,

  server: () => `
select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
       current_database()::text as database, current_user::text as role,
       pg_is_in_recovery() as standby, current_setting('transaction_read_only')::boolean as readonly
where ${ON_PRIMARY}`,

  // Returns the server that answers a read without ON_PRIMARY. A pooler may send such a read to a standby.
  'route.plain': () => ANSWERING_SERVER,

  // Returns the server that answers a read with ON_PRIMARY. keyrow's other reads call the same volatile function.
  route: () => `${ANSWERING_SERVER}\nwhere ${ON_PRIMARY}`,

  clock: () => `select ${epoch('clock_timestamp()')} as now`,

  // $1 quoted schema. If ANALYZE never ran on a table, `rows` is null (`reltuples` is -1), or 0 before PostgreSQL 14.
  tables: () => `
with leaf as (
  select c.relname::text as name, coalesce(p.relid, c.oid) as oid
  from pg_class c left join pg_partition_tree(c.oid) p on c.relkind = 'p' and p.isleaf
  where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p')
    and c.relname in (${TABLE_NAMES})
)
select leaf.name, (case when min(c.reltuples) >= 0 then sum(c.reltuples) end)::float8 as rows,
       sum(pg_relation_size(c.oid))::float8 as heap, sum(pg_indexes_size(c.oid))::float8 as indexes,
       sum(pg_total_relation_size(c.oid))::float8 as total,
       sum(pg_relation_size(c.oid) / current_setting('block_size')::int)::float8 as pages,
       coalesce(sum(u.n_live_tup), 0)::float8 as live, coalesce(sum(u.n_dead_tup), 0)::float8 as dead,
       max(${epoch('greatest(u.last_vacuum, u.last_autovacuum)')}) as vacuumed
from leaf join pg_class c on c.oid = leaf.oid left join pg_stat_user_tables u on u.relid = c.oid
where ${ONCE_ON_PRIMARY}
group by leaf.name
order by leaf.name`,

  // $1 quoted schema. `hidden` has the tables in which row-level security hides rows from this role. Rows are hidden if
  // no permissive policy allows all rows, or if a restrictive policy does not allow all rows. `merging` has the columns
  // with a nondeterministic collation. `to_jsonb` makes the statement valid before PostgreSQL 12, where the column
  // `collisdeterministic` does not exist.
  hazards: () => `
with tables as (
  select c.oid, c.relname::text as name
  from pg_class c
  where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p')
    and c.relname in (${TABLE_NAMES})
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
where ${ONCE_ON_PRIMARY}`,

  // $1 quoted schema
  indexes: () => `
select i.relname::text as name, c.relname::text as owner, x.indisprimary as main,
       x.indisvalid and x.indisready as valid
from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
where c.relnamespace = to_regnamespace($1::text)
  and c.relname in (${TABLE_NAMES}) and ${ONCE_ON_PRIMARY}
order by i.relname`,
})
