// The same record through another handle: a transaction's, or, after it, the database's own again.
import type { Database } from '../port/database.js'
import type { Session } from '../port/session-store.js'
import { withStore } from '../session/session.js'
import { rehandled, stateOf } from './value.js'

/**
 * The same record, or session, through another handle of its database: what is done to it then is part of that
 * transaction, and only a commit is told to the current session. The current session itself needs no other handle. Throws a `TypeError` for what is neither, and for a
 * session whose store is not in a database.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionSet, sessionStore, transact, withHandle } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const session = sessionSet('theme', 'dark')(buildSession(sessionStore(database)))
 * const result = transact(database, (tx) =>
 *   pipe(
 *     saveSession(withHandle(tx)(session)),
 *     TE.map(withHandle(database)),
 *   ),
 * )
 * console.log((await result())._tag) // Right
 * await database.close()
 * ```
 */
export const withHandle =
  (handle: Database) =>
  <R extends { readonly handle: Database } | Session>(record: R): R => {
    const state = stateOf(record)
    if (state !== undefined) return rehandled(handle, state) as unknown as R
    const session = record as Session
    const { over } = session.handle
    if (over === undefined)
      throw new TypeError('withHandle: neither a record, nor a session whose store is in a database')
    return withStore(session, over(handle)) as R
  }
