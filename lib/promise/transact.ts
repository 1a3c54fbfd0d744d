// Transactions whose body is an `async` function.

import type { Database } from '../port/database.js'
import * as port from '../port/transact.js'
import { bodyTask, settled } from './settled.js'

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
  settled(port.transact(database, (tx) => bodyTask('transact', () => body(tx))))
