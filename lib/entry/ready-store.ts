// A session store that is ready for an application: batched, cached, and cleaned of expired sessions while it is open.

import type { DriverError } from '../core/errors.js'
import { pipe, TE } from '../core/prelude.cjs'
import type { Database } from '../db/database.js'
import { type SessionStoreOptions, sessionStore } from '../sql/store.js'
import { type BatchOptions, batched } from '../store/batched.js'
import { cached, type MemoryLimit } from '../store/cached.js'
import { type CleanupOptions, startCleanup } from '../store/cleanup.js'
import type { SessionStore } from '../store/contract.js'

export interface ReadyStoreOptions extends SessionStoreOptions {
  /** How long one statement may take, its wait for a connection included, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
  /** The sizes of batches and queues. */
  readonly batch?: BatchOptions
  /** The memory of the in-process cache. */
  readonly cache?: MemoryLimit
  /** When expired sessions are deleted; `false` leaves that to another process, such as `npx keyrow cleanup`. */
  readonly cleanup?: CleanupOptions | false
}

/** A store that owns its database. */
export interface ReadyStore extends SessionStore {
  /** The database of the store, for records and transactions beside the sessions. */
  readonly database: Database
  /** Ends the cleanup of expired sessions, then all connections. Idempotent. */
  readonly close: TE.TaskEither<DriverError, void>
}

export const readyStore = (database: Database, options: ReadyStoreOptions): ReadyStore => {
  const { batch, cache, cleanup } = options
  const store = batched(cached(sessionStore(database, options), cache), batch)
  const cleaning = cleanup === false ? undefined : startCleanup(store, cleanup)
  const close = pipe(
    TE.fromTask(cleaning?.stop ?? (() => Promise.resolve())),
    TE.chain(() => database.close),
  )
  return { ...store, database, close }
}
