// Makes a batched and cached session store, which deletes expired sessions in the background until `close` is called.

import type { DriverError } from '../core/errors.js'
import { pipe, TE } from '../core/prelude.cjs'
import type { Database } from '../db/database.js'
import { type SessionStoreOptions, sessionStore } from '../sql/store.js'
import { type BatchOptions, batched } from '../store/batched.js'
import { cached, type MemoryLimit } from '../store/cached.js'
import { type CleanupOptions, startCleanup } from '../store/cleanup.js'
import type { SessionStore } from '../store/contract.js'

export interface ReadyStoreOptions extends SessionStoreOptions {
  /** The maximum time of one statement, including the wait for a connection, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
  readonly batch?: BatchOptions
  readonly cache?: MemoryLimit
  /** The options of the cleanup, or `false` if another process (`npx keyrow cleanup`) deletes expired sessions. */
  readonly cleanup?: CleanupOptions | false
}

export interface ReadyStore extends SessionStore {
  /** The database of the store, for the program's own records and transactions. */
  readonly database: Database
  /** Stops the cleanup of expired sessions, and then closes all connections. A second call has no effect. */
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
