// The store's operations on many sessions at once, where those are spread over several servers: session by session.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../core/errors.js'
import type { SessionId } from '../core/token.js'
import { type Database, ON_PRIMARY, type Param, type Query } from '../db/database.js'
import type { ExpiredBatch, SessionStore } from '../store/contract.js'
import { FENCED } from './fragments.js'
import { sessionsOf } from './principals.js'
import { decodedRow, endedRow, listedRow } from './rows.js'

// What listing.ts has, for a database that spreads the tables by the session's id over several servers (Citus).
// It refuses locks on many servers in one statement, so sessions are found by one statement, and then each is locked
// and ended by one of its own, on the server that has it.
//
// Why they are safe: each of these looks again under the header's lock. Whoever collects takes a header only if
// nobody else has it; the listing's row is written after the header's, as by listing.end.

export interface CitusStatements {
  readonly sessionsOf: Query
  readonly whose: Query
  readonly end: Query
  readonly due: Query
  readonly deleteExpired: Query
}

// $1 principal, $2 id of the one that stays, or null, $3 id of the only one that is meant, or null
const whose = (schema: string): Query => ({
  name: 'citus.whose',
  text: `
select session_id::text as id from ${schema}.listing
where principal = $1::text and ($2::uuid is null or session_id <> $2::uuid)
  and ($3::uuid is null or session_id = $3::uuid) and ${ON_PRIMARY}
order by session_id`,
})

// $1 id, $2 principal. As listing.end, for one session, where it is still this principal's.
const end = (schema: string): Query => ({
  name: 'citus.end',
  text: `
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
})

// $1 how many
const due = (schema: string): Query => ({
  name: 'citus.due',
  text: `
select session_id::text as id from ${schema}.listing
where collect_at <= now() and ${ON_PRIMARY}
order by collect_at
limit $1::int`,
})

// $1 id. As listing.collect, for one session.
const deleteExpired = (schema: string): Query => ({
  name: 'citus.collect',
  text: `
with held as materialized (
  select id, created_at <= now() - interval '1 hour' as settled from ${schema}.session
  where id = $1::uuid and expires_at <= now()
  for update skip locked
), emptied as (
  delete from ${schema}.entry where session_id = $1::uuid and exists (select from held)
), ended as (
  delete from ${schema}.session where id = $1::uuid and exists (select from held)
  returning id
), fenced as (
  update ${schema}.listing set principal = null, collect_at = ${FENCED}
  where session_id = $1::uuid and exists (select from held where not settled)
  returning true
), moved as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = $1::uuid and s.id = $1::uuid and s.expires_at > now()
  returning true
), unlisted as (
  delete from ${schema}.listing
  where session_id = $1::uuid
    and (exists (select from held where settled)
         or not exists (select from ${schema}.session where id = $1::uuid))
  returning true
)
select (select count(*) from ended)::int as sessions,
       ((select count(*) from moved) + (select count(*) from fenced) + (select count(*) from unlisted))::int as settled`,
})

/** `schema` is a quoted identifier. */
export const citusStatements = (schema: string): CitusStatements => ({
  sessionsOf: sessionsOf(schema),
  whose: whose(schema),
  end: end(schema),
  due: due(schema),
  deleteExpired: deleteExpired(schema),
})

type Ids = TE.TaskEither<DriverError, readonly SessionId[]>

export const citusPrincipals = (
  database: Database,
  sql: CitusStatements,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'deleteExpired'> => {
  const ids = (query: Query, params: readonly Param[]): Ids =>
    pipe(database.query(query, params), TE.chainEitherK(E.traverseArray(endedRow(query))))
  return {
    sessionsOf: (principal) =>
      pipe(
        database.query(sql.sessionsOf, [principal]),
        TE.chainEitherK(E.traverseArray(listedRow(sql.sessionsOf))),
      ),
    endAll: (principal, { except, only }) =>
      pipe(
        ids(sql.whose, [principal, except ?? null, only ?? null]),
        TE.chain(each((id) => ids(sql.end, [id, principal]))),
        TE.map(A.flatten),
      ),
    deleteExpired: (limit) => pipe(ids(sql.due, [limit]), TE.chain(deleteExpiredEach(database, sql, limit))),
  }
}

const deleteExpiredEach = (database: Database, sql: CitusStatements, limit: number) => {
  const expired = decodedRow(t.type({ sessions: t.number, settled: t.number }), sql.deleteExpired)
  const deleteExpiredOne = (id: SessionId) =>
    pipe(
      database.query(sql.deleteExpired, [id]),
      TE.chainEitherK(([row]) => expired(row ?? {})),
    )
  return (due: readonly SessionId[]): TE.TaskEither<DriverError, ExpiredBatch> =>
    pipe(
      due,
      each(deleteExpiredOne),
      TE.map((done) => ({
        sessions: done.reduce((sum, { sessions }) => sum + sessions, 0),
        more: done.length === limit && done.some(({ settled }) => settled > 0),
        busy: false,
      })),
    )
}

/** A few at a time, so that a batch leaves connections to the requests. */
const AT_ONCE = 4

const each =
  <A>(act: (id: SessionId) => TE.TaskEither<DriverError, A>) =>
  (ids: readonly SessionId[]): TE.TaskEither<DriverError, readonly A[]> =>
    pipe(
      ids,
      A.chunksOf(AT_ONCE),
      TE.traverseSeqArray((chunk) => pipe(chunk, TE.traverseArray(act))),
      TE.map(A.flatten),
    )
