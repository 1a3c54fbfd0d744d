// SQL of your own, as promises.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Sql } from 'sql-template-tag'
import type { Database } from '../db/database.js'
import * as port from '../db/database.js'
import * as table from '../records/query.js'

// How one face becomes the other: an effect a promise, a failure a throw.

/** The right of an `Either`; its left is thrown. */
export const given = <L extends Error, A>(either: E.Either<L, A>): A => {
  if (E.isLeft(either)) throw either.left
  return either.right
}

/** Runs a task; its left is what the promise rejects with. */
export const orThrow = async <L extends Error, A>(task: TE.TaskEither<L, A>): Promise<A> =>
  given(await task())

/** What is known without waiting, as a promise. */
export const orThrowNow = <L extends Error, A>(ask: () => E.Either<L, A>): Promise<A> =>
  new Promise((resolve) => resolve(given(ask())))

/** The body of `verb` as a task; what it throws comes out as itself. */
export const bodyTask = <A>(verb: string, body: () => A | Promise<A>): TE.TaskEither<never, A> =>
  TE.fromTask(async () => notTask(verb, await body()))

/** A `TaskEither` of the other face that slipped in would never be run, and what it does lost in silence. */
const notTask = <A>(verb: string, value: A): A => {
  if (typeof value === 'function')
    throw new TypeError(`${verb}: the body gave a function; is it a task of \`keyrow\`, which has to be run?`)
  return value
}

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
  orThrow(table.queryMany(handle, as, statement))

/** The first row of a statement, or `undefined`. */
export const queryOne = <A>(handle: Database, as: table.RowsAs<A>, statement: Sql): Promise<A | undefined> =>
  orThrow(pipe(table.queryOne(handle, as, statement), TE.map(O.toUndefined)))

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
  orThrow(
    table.queryStream(handle, as, statement, (rows, tx) =>
      bodyTask('queryStream', () => consume(thrown(rows), tx)),
    ),
  )

async function* thrown<L extends Error, A>(
  rows: AsyncIterable<E.Either<L, A>>,
): AsyncGenerator<A, void, undefined> {
  for await (const row of rows) yield given(row)
}

// Transactions whose body is an `async` function.

/**
 * Runs `body` in a transaction and commits it when that is done. When `body` rejects, it is rolled back, and what it
 * rejected with comes out as itself. Within a transaction it is a savepoint. In `body` only its own handle is used:
 * `withHandle` gives it to a record, or to a session. A statement that failed in it fails the transaction, also when
 * `body` caught it. Nothing is tried again.
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
  orThrow(port.transact(database, (tx) => bodyTask('transact', () => body(tx))))
