// A session store in a database, and the same store inside transactions of that database.
import type { Database } from '../db/database.js'
import type { SessionStore } from './contract.js'

/** Adds `using` to a store. It returns what `inner` makes of a transaction's handle, the same for each transaction. */
export const withTransactions = (
  store: SessionStore,
  inner: (tx: Database) => SessionStore,
): SessionStore => {
  const stores = new WeakMap<object, SessionStore>()
  const using = (handle: Database): SessionStore => {
    if (handle.transactionScope === undefined) return root
    const { outer, transaction } = handle.transactionScope
    const made = stores.get(transaction)
    if (made !== undefined) return made
    const store = {
      ...inner(handle),
      using,
      transactionScope: { ...handle.transactionScope, outer: using(outer) },
    }
    stores.set(transaction, store)
    return store
  }
  const root: SessionStore = { ...store, using }
  return root
}

/** Replaces operations of `inner`, but not inside a transaction. */
export const wrapStore = (inner: SessionStore, own: Partial<SessionStore>): SessionStore => {
  const { using } = inner
  const store = { ...inner, ...own }
  return using === undefined ? store : withTransactions(store, using)
}

/**
 * Runs `effect` once the work through this store is committed, or at once outside of a transaction. A rollback, also of
 * an outer transaction, runs `undone` instead.
 */
export const onceCommitted = (
  { transactionScope }: SessionStore,
  effect: () => void,
  undone: () => void = () => undefined,
): void => {
  if (transactionScope === undefined) effect()
  else
    transactionScope.onEnd((committed) =>
      committed ? onceCommitted(transactionScope.outer, effect, undone) : undone(),
    )
}
