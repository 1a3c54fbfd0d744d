// Exports a session store in PostgreSQL, and a `Database` on a pool of postgres.js.

import postgres from 'postgres'
import { poolOptions, postgresDatabase } from '../db/postgres/index.js'
import { type ReadyStore, type ReadyStoreOptions, readyStore } from './ready-store.js'

export { type PostgresJs, type PostgresOptions, poolOptions, postgresDatabase } from '../db/postgres/index.js'
export type { ReadyStore } from './ready-store.js'

export interface PostgresStoreOptions extends ReadyStoreOptions {
  /** The maximum number of connections that the pool opens. Default: 10. */
  readonly connections?: number
  /** Whether statements are prepared. PgBouncer in transaction mode needs `false`. Default: true. */
  readonly prepare?: boolean
}

/**
 * Makes a session store in the PostgreSQL database at `url`. The store batches loads and saves, and caches sessions in
 * memory. It creates its tables on first use. It deletes expired sessions in the background until `close` is called.
 *
 * @throws `TypeError` for a `url` that is not the address of a PostgreSQL database
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionSet } from 'keyrow/promise'
 * import { postgresStore } from 'keyrow/postgres'
 *
 * const store = postgresStore(process.env['DATABASE_URL'] ?? '', { idleMs: 3_600_000 })
 * const session = await saveSession(sessionSet('theme', 'dark')(buildSession(store)))
 * console.log(session.store.get('theme')) // dark
 * await store.close()
 * ```
 */
export const postgresStore = (url: string, options: PostgresStoreOptions = {}): ReadyStore => {
  if (!/^postgres(ql)?:\/\//.test(url))
    throw new TypeError(url === '' ? `${REQUIRED}; it is empty` : `${REQUIRED}, not ${startOf(url)}`)
  const { connections = 10, prepare = true } = options
  const pool = () => postgres(url, { ...poolOptions, max: connections, prepare })
  return readyStore(postgresDatabase(pool, options), options)
}

const REQUIRED = 'the address of the database has to be text that begins with postgres://'

// Returns the beginning of an invalid address, for an error message. The rest of the address may contain a password.
const startOf = (url: unknown): string =>
  typeof url === 'string' ? `"${url.slice(0, url.indexOf(':') + 1)}…"` : String(url)
