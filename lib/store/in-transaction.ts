// A store of sessions in a database, and the same store inside of that database's transactions.
import type { Database } from '../db/database.js'
import type { SessionStore } from './contract.js'

/** `store`, which by its `over` is also what `inner` makes of a transaction's handle: the same for the same transaction. */
export const withTransactions = (
  store: SessionStore,
  inner: (tx: Database) => SessionStore,
): SessionStore => {
  const known = new WeakMap<object, SessionStore>()
  const using = (handle: Database): SessionStore => {
    if (handle.transactionScope === undefined) return root
    const { outer, transaction } = handle.transactionScope
    const made = known.get(transaction)
    if (made !== undefined) return made
    const store = {
      ...inner(handle),
      using,
      transactionScope: { ...handle.transactionScope, outer: using(outer) },
    }
    known.set(transaction, store)
    return store
  }
  const root: SessionStore = { ...store, using }
  return root
}

/** `inner` with operations of one's own; inside of a transaction it is `inner` itself. */
export const wrapStore = (inner: SessionStore, own: Partial<SessionStore>): SessionStore => {
  const { using } = inner
  const store = { ...inner, ...own }
  return using === undefined ? store : withTransactions(store, using)
}

// What is done through a transaction's handle counts outside of it once it is committed, and not at all if it is
// rolled back. So listeners to events are told then.

/** Runs `effect` once nothing can undo what was done to the store any more; `undone` if it was. */
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
