// Converts functions that return tasks, such as the functions for SQL, to functions that return promises.

import type { Sql } from 'sql-template-tag'
import { given, orThrow } from '../core/errors.js'
import { E, O, type TE } from '../core/prelude.cjs'
import type { Database } from '../db/database.js'
import * as core from '../db/database.js'
import * as records from '../records/query.js'

/** Converts a function so that it returns a promise, not a task. A `Left` or a thrown error rejects the promise. */
export const lifted =
  <P extends readonly unknown[], L extends Error, A>(verb: (...input: P) => TE.TaskEither<L, A>) =>
  (...input: P): Promise<A> =>
    orThrow(() => verb(...input)())

/** Converts like `lifted`, and also converts `None` to `undefined`. */
export const liftedOption =
  <P extends readonly unknown[], L extends Error, A>(verb: (...input: P) => TE.TaskEither<L, O.Option<A>>) =>
  (...input: P): Promise<A | undefined> =>
    orThrow(() => verb(...input)()).then(O.toUndefined)

/** Runs `read`, and returns a promise of its result. A `Left` or a thrown error rejects the promise. */
export const orThrowNow = <L extends Error, A>(read: () => E.Either<L, A>): Promise<A> =>
  new Promise((resolve) => resolve(given(read())))

/** Makes a task that runs `body`, and rejects with the error that `body` throws. `verb` is for error messages. */
export const bodyTask =
  <A>(verb: string, body: () => A | Promise<A>): TE.TaskEither<never, A> =>
  async () => {
    const value = await body()
    // A body may return a `TaskEither` by mistake. Nothing would run this task.
    if (typeof value === 'function')
      throw new TypeError(
        `${verb}: the body returned a function; is it a TaskEither of \`keyrow\`, which has to be run?`,
      )
    return E.right(value)
  }

/**
 * Runs a statement and returns all its rows. If a row cannot be decoded, rejects with a `DecodeError` that names the
 * column and the index of the row.
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
export const queryMany = lifted(records.queryMany)

/** Runs a statement and returns its first row, or `undefined` if there is no row. */
export const queryOne = liftedOption(records.queryOne)

/**
 * Streams the rows of a statement to `consume`. At most a hundred rows are in memory. `consume` runs in the transaction
 * `tx`, which commits when `consume` resolves and rolls back when `consume` rejects. If the statement fails, or if a
 * row cannot be decoded, the iteration throws the error. Records in the stream have the handle `tx`.
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
  as: records.RowsAs<A>,
  statement: Sql,
  consume: (rows: AsyncIterable<A>, tx: Database) => B | Promise<B>,
): Promise<B> =>
  orThrow(
    records.queryStream(handle, as, statement, (rows, tx) =>
      bodyTask('queryStream', () => consume(thrown(rows), tx)),
    ),
  )

async function* thrown<L extends Error, A>(rows: AsyncIterable<E.Either<L, A>>) {
  for await (const row of rows) yield given(row)
}

/**
 * Runs `body` in a transaction, which commits when `body` resolves. When `body` rejects, the transaction rolls back,
 * and `transact` rejects with the same error. A nested call sets a savepoint. Inside `body` use only the handle `tx`.
 * `withHandle(tx)(record)` returns the record or session with this handle. If a statement fails, the transaction rolls
 * back, even if `body` catches the error. `transact` does not retry a failed transaction.
 *
 * @example
 * ```ts
 * import { int4, queryMany, record, sql, text, transact, withHandle } from 'keyrow/promise'
 * import { pgliteDatabase } from 'keyrow/pglite'
 * import * as t from 'io-ts'
 *
 * const accounts = record({ table: 'accounts', key: 'owner', columns: { owner: text, cents: int4 } })
 *
 * const database = pgliteDatabase()
 * await queryMany(database, t.unknown, sql`create table accounts (owner text primary key, cents int)`)
 * const ada = await accounts.save(accounts.build(database, { owner: 'ada', cents: 500 }))
 * const payment = transact(database, async (tx) => {
 *   await accounts.save(accounts.update('cents', (cents) => cents - 900)(withHandle(tx)(ada)))
 *   throw new Error('too much')
 * })
 * await payment.catch((error: unknown) => console.log(String(error))) // Error: too much
 * console.log((await accounts.refresh(ada)).cents) // 500
 * await database.close()
 * ```
 */
export const transact = <A>(database: Database, body: (tx: Database) => A | Promise<A>): Promise<A> =>
  orThrow(core.transact(database, (tx) => bodyTask('transact', () => body(tx))))
