// The store's operations on many sessions at once, where those are spread over several servers: session by session.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../base/errors.js'
import type { Database, Param, Query } from '../port/database.js'
import type { CollectedBatch, SessionStore } from '../port/session-store.js'
import type { SessionId } from '../session/token.js'
import type { DistributedStatements } from './distributed.js'
import { decodedRow, endedRow, listedRow } from './rows.js'

type Ids = TE.TaskEither<DriverError, readonly SessionId[]>

export const distributedListingOver = (
  database: Database,
  sql: DistributedStatements,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'collect'> => {
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
    collect: (limit) => pipe(ids(sql.due, [limit]), TE.chain(collectEach(database, sql, limit))),
  }
}

const collectEach = (database: Database, sql: DistributedStatements, limit: number) => {
  const collected = decodedRow(t.type({ sessions: t.number, settled: t.number }), sql.collect)
  const collectOne = (id: SessionId) =>
    pipe(
      database.query(sql.collect, [id]),
      TE.chainEitherK(([row]) => collected(row ?? {})),
    )
  return (due: readonly SessionId[]): TE.TaskEither<DriverError, CollectedBatch> =>
    pipe(
      due,
      each(collectOne),
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
