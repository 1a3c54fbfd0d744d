// Implements the operations of principals.ts for tables that Citus distributes by the session's id over several
// servers. Citus rejects a statement that locks rows on several servers. So one statement finds the sessions. Then a
// statement for each session locks and ends the session on its server.
//
// Concurrency: Each statement checks the session again under the lock on its header (its row in `session`). Cleanup
// skips locked headers. The row in `listing` is written after the header.

import type { DriverError } from '../core/errors.js'
import { A, pipe, TE, t } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'
import { type Database, ON_PRIMARY } from '../db/database.js'
import type { SessionStore } from '../store/contract.js'
import { FENCE_TIME, FENCED, statementsOf } from './fragments.js'
import { principalStatements } from './principals.js'
import { listedSessions, rowAs, sessionIds } from './rows.js'

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

const ExpiredRow = t.type({ sessions: t.number, handled: t.number })

export const citusPrincipals = (
  database: Database,
  schema: string,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'deleteExpired'> => {
  const sql = citusStatements(schema)
  const { sessionsOf } = principalStatements(schema)
  return {
    sessionsOf: (principal) => listedSessions(database, sessionsOf, [principal]),
    endAll: (principal, { except, only }) =>
      pipe(
        sessionIds(database, sql.idsOf, [principal, except ?? null, only ?? null]),
        TE.chain(each((id) => sessionIds(database, sql.end, [id, principal]))),
        TE.map(A.flatten),
      ),
    deleteExpired: (limit) =>
      pipe(
        sessionIds(database, sql.due, [limit]),
        TE.chain(each((id) => rowAs(ExpiredRow)(database, sql.deleteExpired, [id]))),
        TE.map((done) => ({
          sessions: done.reduce((sum, { sessions }) => sum + sessions, 0),
          more: done.length === limit && done.some(({ handled }) => handled > 0),
          busy: false,
        })),
      ),
  }
}

/** The number of statements of a batch that run at once. The pool's other connections stay free for requests. */
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
