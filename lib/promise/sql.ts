// SQL of your own, as promises.
import type * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Sql } from 'sql-template-tag'
import type { Database } from '../port/database.js'
import * as table from '../table/sql.js'
import { bodyTask, given, settled } from './settled.js'

/**
 * All rows of a statement. Rejects with a `DecodeError` that names the column and counts the row which does not fit.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { queryMany, sql } from 'keyrow/promise'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const squares = sql`select n * n as n from generate_series(1, ${3}::int) as n`
 * console.log(await queryMany(database, t.type({ n: t.number }), squares)) // [ { n: 1 }, { n: 4 }, { n: 9 } ]
 * await database.close()
 * ```
 */
export const queryMany = <A>(handle: Database, as: table.RowsAs<A>, statement: Sql): Promise<readonly A[]> =>
  settled(table.queryMany(handle, as, statement))

/** The first row of a statement, or `undefined`. */
export const queryOne = <A>(handle: Database, as: table.RowsAs<A>, statement: Sql): Promise<A | undefined> =>
  settled(pipe(table.queryOne(handle, as, statement), TE.map(O.toUndefined)))

/**
 * The rows of a statement one after the other, a hundred in memory at once, for `consume`, which runs in a
 * transaction of its own: it ends when `consume` has, however early, and rolls back when that rejects. A row that does
 * not fit, or a statement that fails, is thrown by the iteration. Records belong to the transaction's handle.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { queryStream, sql } from 'keyrow/promise'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const numbers = sql`select n from generate_series(1, 1000000) as n`
 * const found = await queryStream(database, t.type({ n: t.number }), numbers, async (rows) => {
 *   for await (const { n } of rows) if (n > 250) return n
 *   return undefined
 * })
 * console.log(found) // 251
 * await database.close()
 * ```
 */
export const queryStream = <A, B>(
  handle: Database,
  as: table.RowsAs<A>,
  statement: Sql,
  consume: (rows: AsyncIterable<A>, tx: Database) => B | Promise<B>,
): Promise<B> =>
  settled(
    table.queryStream(handle, as, statement, (rows, tx) =>
      bodyTask('queryStream', () => consume(thrown(rows), tx)),
    ),
  )

async function* thrown<L extends Error, A>(
  rows: AsyncIterable<E.Either<L, A>>,
): AsyncGenerator<A, void, undefined> {
  for await (const row of rows) yield given(row)
}
