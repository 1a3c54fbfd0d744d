// Exports a session store and a `Database` on PGlite, which is PostgreSQL in the program's own process.

import { pgliteDatabase } from '../db/pglite.js'
import { type ReadyStore, type ReadyStoreOptions, readyStore } from './ready-store.js'

export { type PgliteOptions, pgliteDatabase } from '../db/pglite.js'
export type { ReadyStore, ReadyStoreOptions } from './ready-store.js'

/**
 * Makes a session store on PGlite. The data are in a local directory, or in memory if no directory is given. Only one
 * process at a time can use a directory. The store deletes expired sessions in the background until `close` is called.
 *
 * @throws `RangeError` for a URL instead of a directory, and for an option that is out of range
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionSet } from 'keyrow/promise'
 * import { pgliteStore } from 'keyrow/pglite'
 *
 * const store = pgliteStore()
 * const session = await saveSession(sessionSet('theme', 'dark')(buildSession(store)))
 * console.log(session.store.get('theme')) // dark
 * await store.close()
 * ```
 */
export const pgliteStore = (directory?: string, options: ReadyStoreOptions = {}): ReadyStore =>
  readyStore(pgliteDatabase(directory, options), options)
