// Exports a session store and a `Database` on a pool of node-postgres (`pg`).

import { type PgOptions, pgDatabase } from '../db/pg.js'
import type { PgPool } from '../db/pg-statement.js'
import { type ReadyStore, type ReadyStoreOptions, readyStore } from './ready-store.js'

export { type PgOptions, pgDatabase } from '../db/pg.js'
export type { PgClient, PgPool } from '../db/pg-statement.js'
export type { ReadyStore, ReadyStoreOptions } from './ready-store.js'

/**
 * Makes a session store on a pool of node-postgres. The store batches loads and saves, and caches sessions in memory.
 * The store creates its tables on first use. It deletes expired sessions in the background until `close` is called.
 * `close` also ends the pool.
 *
 * @throws `TypeError` for a single client in place of a pool
 * @throws `RangeError` for an option that is out of range, and for a pool with the option `pipeline`
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { buildSession, saveSession, sessionSet } from 'keyrow/promise'
 * import { pgStore } from 'keyrow/pg'
 *
 * const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'], connectionTimeoutMillis: 5_000 })
 * const store = pgStore(pool, { idleMs: 3_600_000 })
 * const session = await saveSession(sessionSet('theme', 'dark')(buildSession(store)))
 * console.log(session.store.get('theme')) // dark
 * await store.close()
 * ```
 */
export const pgStore = (pool: PgPool, options: ReadyStoreOptions & PgOptions = {}): ReadyStore =>
  readyStore(pgDatabase(pool, options), options)
