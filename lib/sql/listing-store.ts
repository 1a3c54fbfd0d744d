// The store's operations on many sessions at once.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../base/errors.js'
import type { Database } from '../port/database.js'
import type { CollectedBatch, SessionStore } from '../port/session-store.js'
import type { ListingStatements } from './listing.js'
import { collectedRow, decodedRow, endedRow, listedRow } from './rows.js'

export const listingOver = (
  database: Database,
  sql: ListingStatements,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'collect'> => {
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
    collect: (limit) => async () => {
      const unlisted = await list()
      const batch = await collectBatch(database, sql, limit)()
      return pipe(
        batch,
        E.map((done) => ({ ...done, more: done.more || unlisted })),
      )
    },
  }
}

const collectBatch = (
  database: Database,
  sql: ListingStatements,
  limit: number,
): TE.TaskEither<DriverError, CollectedBatch> =>
  pipe(
    database.query(sql.collect, [limit]),
    TE.chainEitherK(([row]) => collectedRow(sql.collect)(row ?? {})),
    // What is held by others now stays due: when nothing else is left, it is for another time.
    TE.map(({ sessions, due, settled, busy }) => ({ sessions, more: due === limit && settled > 0, busy })),
  )

const STRAYS_AT_ONCE = 10_000
const STRAYS_EVERY_MS = 600_000

/**
 * Lists what releases of version 1 left out, some of the table at a time, and all of it now and then; gives
 * whether there is more of it to look at. A failure is for another time: what is listed can be collected.
 */
const listStrays = (database: Database, sql: ListingStatements) => {
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
