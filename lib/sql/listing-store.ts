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
    collect: (limit) =>
      pipe(
        list(limit),
        TE.chain(() => collectBatch(database, sql, limit)),
      ),
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

const STRAYS_EVERY_MS = 600_000

/** Lists what releases of version 1 left out; looks through all sessions for that, so only now and then. */
const listStrays = (database: Database, sql: ListingStatements) => {
  const decode = decodedRow(t.type({ listed: t.number, again: t.boolean }), sql.strays)
  let next = 0
  return (limit: number): TE.TaskEither<DriverError, void> =>
    async () => {
      if (performance.now() < next) return E.right(undefined)
      const result = await pipe(
        database.query(sql.strays, [limit]),
        TE.chainEitherK(([row]) => decode(row ?? {})),
      )()
      if (E.isLeft(result)) return result
      const { listed, again } = result.right
      if (listed < limit) next = again ? performance.now() + STRAYS_EVERY_MS : Number.POSITIVE_INFINITY
      return E.right(undefined)
    }
}
