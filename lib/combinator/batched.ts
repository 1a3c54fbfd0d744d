// A store whose loads and saves share statements: those that arrive while others are under way go together, each with
// its own result. So a durable write costs one flush of the log for many requests.

import { layered } from '../port/handles.js'
import type { SessionStore } from '../port/session-store.js'
import { type BatchLimits, limitsOf } from './gathering.js'
import { batchedLoads } from './loads.js'
import { batchedSaves } from './saves.js'

export type { BatchLimits } from './gathering.js'

/**
 * The same store, with loads and saves that arrive together sharing statements, each of which is one transaction. A lone
 * one is done as before, and waits for nothing. When more wait than `queue` allows, the next fails at once with a retryable
 * `DriverError`. A store without `many` comes back as it is. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { batched, remembered, sessionStore } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = batched(remembered(sessionStore(database)))
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const batched = (store: SessionStore, options: BatchLimits = {}): SessionStore => {
  const limits = limitsOf(options)
  const { many } = store
  if (many === undefined) return store
  return layered(store, { load: batchedLoads(store, many, limits), save: batchedSaves(store, many, limits) })
}
