// Lists and ends a principal's sessions, and deletes expired sessions. The types of parameters are described in
// session-statements.ts.
//
// Concurrency: A statement that ends sessions first locks their headers (rows in `session`) in the order of their ids.
// Every save locks its header too. Cleanup waits for no lock, and leaves locked rows to a later batch. Cleanup locks
// the row in `listing` before the header. This causes no deadlock, since cleanup never waits.

import type { DriverError } from '../core/errors.js'
import { OWN } from '../core/key.js'
import { A, E, pipe, TE, t } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'
import { type Database, ON_PRIMARY, type Query } from '../db/database.js'
import type { Lifetime, SessionStore } from '../store/contract.js'
import { flowStatements } from './flow-statements.js'
import { endingOf, epoch, FENCE_TIME, FENCED, fenceListed, statementsOf } from './fragments.js'
import { listedSessions, rowAs, sessionIds } from './rows.js'

const principalStatements = statementsOf('principals', {
  // $1 principal, $2 idle time
  sessionsOf: (schema) => `
select s.id::text as id, ${epoch('s.created_at')} as created, ${epoch('s.expires_at')} as expiration,
       ${epoch(`greatest(s.created_at, s.expires_at - coalesce(s.idle_ms, $2::float8) * interval '1 millisecond')`)} as "lastSeen",
       e.value::text as device
from ${schema}.listing l join ${schema}.session s on s.id = l.session_id
left join ${schema}.entry e on e.session_id = s.id and e.key = '${OWN.device}'
where l.principal = $1::text and s.expires_at > now() and ${ON_PRIMARY}
order by s.created_at desc, s.id`,

  // $1 principal, $2 id of the session to keep, or null, $3 id of the only session to end, or null
  endAll: (schema) =>
    endingOf(schema, {
      lockedSessions: `
  select id from ${schema}.session
  where id in (select session_id from ${schema}.listing where principal = $1::text)
    and ($2::uuid is null or id <> $2::uuid) and ($3::uuid is null or id = $3::uuid)
  order by id
  for update`,
      fenced: fenceListed(schema),
      result: 'select id::text as id from ended order by id',
    }),

  // $1 batch size, $2 the last id of the previous batch, or null. Adds to `listing` the sessions that a release for
  // version 1 created after the upgrade. If the last upgrade was over 30 days ago, the statement adds nothing.
  listMissing: (schema) => `
with examined as materialized (
  select id, expires_at from ${schema}.session
  where ($2::uuid is null or id > $2::uuid)
    and not exists (select from ${schema}.metadata where version = 1)
    and exists (select from ${schema}.metadata where made_at > now() - interval '30 days')
  order by id
  limit $1::int
), listed as (
  insert into ${schema}.listing (session_id, collect_at)
  select id, expires_at from examined
  where not exists (select from ${schema}.listing l where l.session_id = examined.id)
  order by id
  on conflict do nothing
)
select (select id::text from examined order by id desc limit 1) as last`,

  // $1 batch size. Handles the sessions whose `collect_at` has passed. An expired session is deleted, and its id is
  // fenced if the session is younger than an hour. For a live session, `collect_at` becomes the session's expiration,
  // and the header is not locked. A row of `listing` without a session is deleted. `for update` reads the latest
  // header, so a session that was extended meanwhile is not deleted.
  deleteExpired: (schema) =>
    endingOf(schema, {
      before: [
        `single as materialized (
  select pg_try_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('${schema}')) as held
)`,
        `due as materialized (
  select session_id from ${schema}.listing
  where collect_at <= now() and (select held from single)
  order by collect_at
  limit $1::int
  for update skip locked
)`,
      ],
      lockedSessions: `
  select id, created_at <= now() - ${FENCE_TIME} as aged from ${schema}.session
  where id in (select session_id from due) and expires_at <= now()
  for update skip locked`,
      deletesEntries: true,
      fenced: fenceListed(schema, ' and not held.aged'),
      after: [
        `postponed as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = s.id and s.id in (select session_id from due) and s.expires_at > now()
  returning true
)`,
        `unlisted as (
  delete from ${schema}.listing l using due
  where l.session_id = due.session_id
    and (exists (select from held where held.id = due.session_id and held.aged)
         or not exists (select from ${schema}.session s where s.id = due.session_id))
  returning true
)`,
      ],
      result: `select (select count(*) from ended)::int as sessions, (select count(*) from due)::int as due,
       ((select count(*) from postponed) + (select count(*) from fenced) + (select count(*) from unlisted))::int as handled,
       not (select held from single) as busy`,
    }),
})

type Principals = Pick<SessionStore, 'sessionsOf' | 'endAll' | 'deleteExpired'>

const ExpiredRow = t.type({ sessions: t.number, due: t.number, handled: t.number, busy: t.boolean })

export const principalsOver = (database: Database, schema: string, { idleMs }: Lifetime): Principals => {
  const sql = principalStatements(schema)
  const listMissing = missingLister(database, sql.listMissing)
  const { sweep } = flowStatements(schema)
  return {
    sessionsOf: (principal) => listedSessions(database, sql.sessionsOf, [principal, idleMs]),
    endAll: (principal, { except, only }) =>
      sessionIds(database, sql.endAll, [principal, except ?? null, only ?? null]),
    deleteExpired: (limit) => async () => {
      const unlisted = await listMissing()
      const result = await rowAs(ExpiredRow)(database, sql.deleteExpired, [limit])()
      if (E.isLeft(result)) return result
      const { sessions, due, handled, busy } = result.right
      return pipe(
        await database.query(sweep, [limit])(),
        E.map((flows) => ({
          sessions,
          // If only locked sessions are left, `handled` is 0. These sessions wait for a later cleanup.
          more: (due === limit && handled > 0) || unlisted || flows.length === limit,
          busy,
        })),
      )
    },
  }
}

const MISSING_BATCH = 10_000
const MISSING_EVERY_MS = 600_000

// Adds the sessions to `listing` that releases for version 1 omitted. Each call examines one batch of sessions, and
// returns whether more batches follow. Ten minutes after the last batch, the examination of all sessions begins again.
// A failure is ignored, since the cleanup does not need the result and the next examination repeats the work.
const missingLister = (database: Database, query: Query) => {
  const read = rowAs(t.type({ last: t.union([t.string, t.null]) }))
  let next = 0
  let last: string | null = null
  return async (): Promise<boolean> => {
    if (performance.now() < next) return false
    const result = await read(database, query, [MISSING_BATCH, last])()
    last = E.isRight(result) ? result.right.last : null
    if (last === null) next = performance.now() + MISSING_EVERY_MS
    return last !== null
  }
}

// Citus distributes the tables by the session's id over several servers, and rejects a statement that locks rows on
// several servers. So one statement finds the sessions, and a statement for each session locks and ends it on its
// server. Each statement checks the session again under the lock on its header, and then writes `listing`.

const citusStatements = statementsOf('citus', {
  // $1 principal, $2 id of the session to keep, or null, $3 id of the only session to end, or null
  idsOf: (schema) => `
select session_id::text as id from ${schema}.listing
where principal = $1::text and ($2::uuid is null or session_id <> $2::uuid)
  and ($3::uuid is null or session_id = $3::uuid) and ${ON_PRIMARY}
order by session_id`,

  // $1 id, $2 principal. Ends the session if it still belongs to this principal.
  end: (schema) => `
with held as materialized (
  select id from ${schema}.session where id = $1::uuid for update
), fenced as (
  update ${schema}.listing set principal = null, collect_at = ${FENCED}
  where session_id = $1::uuid and principal = $2::text and exists (select from held)
  returning session_id
), ended as (
  delete from ${schema}.session where id = $1::uuid
    and exists (select from held)
    and exists (select from ${schema}.listing where session_id = $1::uuid and principal = $2::text)
  returning id
), flows as (
  delete from ${schema}.flow where session_id = $1::uuid and exists (select from ended)
)
select id::text as id from ended`,

  // $1 batch size
  due: (schema) => `
select session_id::text as id from ${schema}.listing
where collect_at <= now() and ${ON_PRIMARY}
order by collect_at
limit $1::int`,

  // $1 id
  deleteExpired: (schema) => `
with held as materialized (
  select id, created_at <= now() - ${FENCE_TIME} as aged from ${schema}.session
  where id = $1::uuid and expires_at <= now()
  for update skip locked
), emptied as (
  delete from ${schema}.entry where session_id = $1::uuid and exists (select from held)
), ended as (
  delete from ${schema}.session where id = $1::uuid and exists (select from held)
  returning id
), flows as (
  delete from ${schema}.flow where session_id = $1::uuid and exists (select from ended)
), fenced as (
  update ${schema}.listing set principal = null, collect_at = ${FENCED}
  where session_id = $1::uuid and exists (select from held where not aged)
  returning true
), postponed as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = $1::uuid and s.id = $1::uuid and s.expires_at > now()
  returning true
), unlisted as (
  delete from ${schema}.listing
  where session_id = $1::uuid
    and (exists (select from held where aged)
         or not exists (select from ${schema}.session where id = $1::uuid))
  returning true
)
select (select count(*) from ended)::int as sessions,
       ((select count(*) from postponed) + (select count(*) from fenced) + (select count(*) from unlisted))::int as handled`,
})

const CitusExpiredRow = t.type({ sessions: t.number, handled: t.number })

export const citusPrincipals = (database: Database, schema: string, { idleMs }: Lifetime): Principals => {
  const sql = citusStatements(schema)
  const { sessionsOf } = principalStatements(schema)
  const { sweepAll } = flowStatements(schema)
  return {
    sessionsOf: (principal) => listedSessions(database, sessionsOf, [principal, idleMs]),
    endAll: (principal, { except, only }) =>
      pipe(
        sessionIds(database, sql.idsOf, [principal, except ?? null, only ?? null]),
        TE.chain(each((id) => sessionIds(database, sql.end, [id, principal]))),
        TE.map(A.flatten),
      ),
    deleteExpired: (limit) =>
      pipe(
        sessionIds(database, sql.due, [limit]),
        TE.chain(each((id) => rowAs(CitusExpiredRow)(database, sql.deleteExpired, [id]))),
        TE.chainFirst(() => database.query(sweepAll, [])),
        TE.map((done) => ({
          sessions: done.reduce((sum, { sessions }) => sum + sessions, 0),
          more: done.length === limit && done.some(({ handled }) => handled > 0),
          busy: false,
        })),
      ),
  }
}

/** The number of statements that `each` runs at once. The pool's other connections stay free for requests. */
const CONCURRENCY = 4

const each =
  <A>(act: (id: SessionId) => TE.TaskEither<DriverError, A>) =>
  (ids: readonly SessionId[]): TE.TaskEither<DriverError, readonly A[]> =>
    pipe(
      ids,
      A.chunksOf(CONCURRENCY),
      TE.traverseSeqArray((chunk) => pipe(chunk, TE.traverseArray(act))),
      TE.map(A.flatten),
    )
