// Statements of keyrow's own under any default isolation of the role. They are written for read committed: one that
// waited for another transaction goes on with what that one left. Under a stricter default the server ends it instead
// (40001), and nothing of it is done. It is then run again in a transaction of its own, which is read committed.
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError } from '../base/errors.js'
import type { Database, Param, Query, Row } from './database.js'

/** Runs one statement of keyrow's own. A transaction's handle is used as it is. */
export const runReadCommitted =
  (database: Database, query: Query, params: readonly Param[]): TaskEither<DriverError, readonly Row[]> =>
  async () => {
    const result = await database.query(query, params)()
    return E.isLeft(result) && result.left.kind === 'serialization' && database.within === undefined
      ? database.transaction((tx) => tx.query(query, params))()
      : result
  }

/** The same database for keyrow's own statements. */
export const readCommitted = (database: Database): Database =>
  database.within === undefined
    ? { ...database, query: (query, params) => runReadCommitted(database, query, params) }
    : database
