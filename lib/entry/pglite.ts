// PostgreSQL in the program's own process, with PGlite. Exports a store that is ready for an application, and a database.

import { pgliteDatabase } from '../db/pglite.js'
import { type ReadyStore, type ReadyStoreOptions, readyStore } from './ready-store.js'

export { type PgliteOptions, pgliteDatabase } from '../db/pglite.js'
export type { ReadyStore, ReadyStoreOptions } from './ready-store.js'

/**
 * Makes a session store in a directory of this machine, or in memory if no directory is named. Only one process at a time
 * can use a directory. Expired sessions are deleted in the background until the store is closed.
 *
 * @throws `RangeError` for an address in place of a directory, and for an option that is out of range
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
