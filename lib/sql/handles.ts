// A store of sessions in a database, and the same store inside of that database's transactions.

import type { Database } from '../port/database.js'
import type { SessionStore } from '../port/session-store.js'

/** `store`, which by its `over` is also what `inner` makes of a transaction's handle: the same for the same handle. */
export const withHandles = (store: SessionStore, inner: (tx: Database) => SessionStore): SessionStore => {
  const known = new WeakMap<Database, SessionStore>()
  const over = (handle: Database): SessionStore => {
    if (handle.within === undefined) return root
    const made = known.get(handle)
    if (made !== undefined) return made
    const { outer, onEnd } = handle.within
    const store = { ...inner(handle), over, within: { outer: over(outer), onEnd } }
    known.set(handle, store)
    return store
  }
  const root: SessionStore = { ...store, over }
  return root
}
