// The store's operations on many sessions at once.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../core/errors.js'
import { type Database, ON_PRIMARY, type Query } from '../db/database.js'
import type { ExpiredBatch, SessionStore } from '../store/contract.js'
import { epoch, FENCED } from './fragments.js'
import { decodedRow, endedRow, expiredRow, listedRow } from './rows.js'

// The statements about many sessions at once: whose they are, and which of them are garbage. All parameters and
// results are as in statements.ts.
//
// Why they are safe: whoever ends sessions locks their headers first, as every save does, and in the order of
// their ids. A collector waits for nobody: what somebody else holds it leaves for another time. It takes the
// listing's row before the header's; whoever has the header may wait for it, it never waits for them.

export interface PrincipalStatements {
  readonly sessionsOf: Query
  readonly endAll: Query
  readonly strays: Query
  readonly deleteExpired: Query
}

// $1 principal
export const sessionsOf = (schema: string): Query => ({
  name: 'principals.sessions',
  text: `
select s.id::text as id, ${epoch('s.created_at')} as created, ${epoch('s.expires_at')} as expiration
from ${schema}.listing l join ${schema}.session s on s.id = l.session_id
where l.principal = $1::text and s.expires_at > now() and ${ON_PRIMARY}
order by s.created_at desc, s.id`,
})

// $1 principal, $2 id of the one that stays, or null, $3 id of the only one that is meant, or null. Waits for the saves that are under way.
const endAll = (schema: string): Query => ({
  name: 'principals.end',
  text: `
with held as materialized (
  select id from ${schema}.session
  where id in (select session_id from ${schema}.listing where principal = $1::text)
    and ($2::uuid is null or id <> $2::uuid) and ($3::uuid is null or id = $3::uuid)
  order by id
  for update
), ended as (
  delete from ${schema}.session s using held where s.id = held.id returning s.id
), fenced as (
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id
)
select id::text as id from ended order by id`,
})

// $1 how many, $2 the last id that was looked at, or null. Sessions that a release of version 1 made while others
// had upgraded already: some of the table at a time, and only where there may be such releases.
const strays = (schema: string): Query => ({
  name: 'principals.strays',
  text: `
with looked as materialized (
  select id, expires_at from ${schema}.session
  where ($2::uuid is null or id > $2::uuid)
    and not exists (select from ${schema}.metadata where version = 1)
    and exists (select from ${schema}.metadata where made_at > now() - interval '30 days')
  order by id
  limit $1::int
), listed as (
  insert into ${schema}.listing (session_id, collect_at)
  select id, expires_at from looked
  where not exists (select from ${schema}.listing l where l.session_id = looked.id)
  order by id
  on conflict do nothing
)
select (select id::text from looked order by id desc limit 1) as last`,
})

// $1 how many. One batch: of the sessions that it is time to look at, the expired ones are locked and deleted with
// all that hangs from them; the living ones, whose expiration only moves forward, are looked at again when they
// may have expired, and are not locked; those that are gone leave the listing. The id of one that is not an hour
// old is kept, as by its destruction. An expiration that has moved since is seen: what waits for a lock looks at
// the latest version of the row. Entries are deleted here and not only by the cascade, which takes them session
// by session.
const deleteExpired = (schema: string): Query => ({
  name: 'principals.collect',
  text: `
with alone as materialized (
  select pg_try_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('${schema}')) as held
), due as materialized (
  select session_id from ${schema}.listing
  where collect_at <= now() and (select held from alone)
  order by collect_at
  limit $1::int
  for update skip locked
), held as materialized (
  select id, created_at <= now() - interval '1 hour' as settled from ${schema}.session
  where id in (select session_id from due) and expires_at <= now()
  for update skip locked
), emptied as (
  delete from ${schema}.entry e using held where e.session_id = held.id
), ended as (
  delete from ${schema}.session s using held where s.id = held.id
  returning s.id
), fenced as (
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id and not held.settled
  returning true
), moved as (
  update ${schema}.listing l set collect_at = s.expires_at
  from ${schema}.session s where l.session_id = s.id and s.id in (select session_id from due) and s.expires_at > now()
  returning true
), unlisted as (
  delete from ${schema}.listing l using due
  where l.session_id = due.session_id
    and (exists (select from held where held.id = due.session_id and held.settled)
         or not exists (select from ${schema}.session s where s.id = due.session_id))
  returning true
)
select (select count(*) from ended)::int as sessions, (select count(*) from due)::int as due,
       ((select count(*) from moved) + (select count(*) from fenced) + (select count(*) from unlisted))::int as settled,
       not (select held from alone) as busy`,
})

/** `schema` is a quoted identifier. */
export const principalStatements = (schema: string): PrincipalStatements => ({
  sessionsOf: sessionsOf(schema),
  endAll: endAll(schema),
  strays: strays(schema),
  deleteExpired: deleteExpired(schema),
})

export const principalsOver = (
  database: Database,
  sql: PrincipalStatements,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'deleteExpired'> => {
  const list = listStrays(database, sql)
  return {
    sessionsOf: (principal) =>
      pipe(
        database.query(sql.sessionsOf, [principal]),
        TE.chainEitherK(E.traverseArray(listedRow(sql.sessionsOf))),
      ),
    endAll: (principal, { except, only }) =>
      pipe(
        database.query(sql.endAll, [principal, except ?? null, only ?? null]),
        TE.chainEitherK(E.traverseArray(endedRow(sql.endAll))),
      ),
    deleteExpired: (limit) => async () => {
      const unlisted = await list()
      const batch = await deleteExpiredBatch(database, sql, limit)()
      return pipe(
        batch,
        E.map((done) => ({ ...done, more: done.more || unlisted })),
      )
    },
  }
}

const deleteExpiredBatch = (
  database: Database,
  sql: PrincipalStatements,
  limit: number,
): TE.TaskEither<DriverError, ExpiredBatch> =>
  pipe(
    database.query(sql.deleteExpired, [limit]),
    TE.chainEitherK(([row]) => expiredRow(sql.deleteExpired)(row ?? {})),
    // What is held by others now stays due: when nothing else is left, it is for another time.
    TE.map(({ sessions, due, settled, busy }) => ({
      sessions,
      more: due === limit && settled > 0,
      busy,
    })),
  )

const STRAYS_AT_ONCE = 10_000
const STRAYS_EVERY_MS = 600_000

/**
 * Lists what releases of version 1 left out, some of the table at a time, and all of it now and then; gives
 * whether there is more of it to look at. A failure is for another time: what is listed can be collected.
 */
const listStrays = (database: Database, sql: PrincipalStatements) => {
  const decode = decodedRow(t.type({ last: t.union([t.string, t.null]) }), sql.strays)
  let next = 0
  let last: string | null = null
  return async (): Promise<boolean> => {
    if (performance.now() < next) return false
    const result = await pipe(
      database.query(sql.strays, [STRAYS_AT_ONCE, last]),
      TE.chainEitherK(([row]) => decode(row ?? {})),
    )()
    last = E.isRight(result) ? result.right.last : null
    if (last === null) next = performance.now() + STRAYS_EVERY_MS
    return last !== null
  }
}
