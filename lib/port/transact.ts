// The verb of transactions. What it promises is the port's, and every driver keeps it.
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { SessionError } from '../base/errors.js'
import type { Database } from './database.js'

/**
 * Runs `body` in a transaction, commits what ends in a `Right`, and rolls back what ends in a `Left` or a throw,
 * which comes out as itself. Within a transaction it is a savepoint, so that a failure goes back to where it began,
 * and no further. In `body` only its own handle is used: `withHandle` gives a record, or a session, that handle; the
 * outer one is a `DriverError` of the kind `outerHandle`, at once. A statement that failed in it is a `Left` of the
 * transaction, also when `body` overlooks it. Nothing is tried again.
 *
 * What `body` does to the current session, if that is stored in the same database, belongs to the transaction: it is
 * written right before the commit, and dropped by a rollback. When it cannot be written, the transaction is rolled
 * back.
 *
 * @throws as a `Left`: `DriverError` of a statement or of the commit; and, where `body` changed the current session,
 * what `saveSession` fails with (`SessionGone`, `SaveConflict`, …), or `SessionClosed` when the request ended first.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { transact } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const setting = (value: string) => ({ name: 'set', text: `select set_config('app.user', '${value}', true)` })
 * const result = await transact(database, (tx) =>
 *   pipe(
 *     tx.query(setting('ada'), []),
 *     TE.chainW(() => TE.left('no')),
 *   ),
 * )()
 * console.log(result) // { _tag: 'Left', left: 'no' }
 * await database.close()
 * ```
 */
export const transact = <L, A>(
  database: Database,
  body: (tx: Database) => TaskEither<L, A>,
): TaskEither<L | SessionError, A> => database.transaction(body)
