// A store of sessions in a database, and the same store inside of that database's transactions.
import type { Database } from '../db/database.js'
import type { SessionStore } from './contract.js'

/** `store`, which by its `over` is also what `inner` makes of a transaction's handle: the same for the same transaction. */
export const withHandles = (store: SessionStore, inner: (tx: Database) => SessionStore): SessionStore => {
  const known = new WeakMap<object, SessionStore>()
  const over = (handle: Database): SessionStore => {
    if (handle.within === undefined) return root
    const { outer, transaction } = handle.within
    const made = known.get(transaction)
    if (made !== undefined) return made
    const store = { ...inner(handle), over, within: { ...handle.within, outer: over(outer) } }
    known.set(transaction, store)
    return store
  }
  const root: SessionStore = { ...store, over }
  return root
}

/** `inner` with operations of one's own; inside of a transaction it is `inner` itself. */
export const layered = (inner: SessionStore, own: Partial<SessionStore>): SessionStore => {
  const { over } = inner
  const store = { ...inner, ...own }
  return over === undefined ? store : withHandles(store, over)
}

// What is done through a transaction's handle counts outside of it once it is committed, and not at all if it is
// rolled back. So listeners to events are told then.

/** Runs `effect` once nothing can undo what was done to the store any more; `undone` if it was. */
export const onceCommitted = (
  { within }: SessionStore,
  effect: () => void,
  undone: () => void = () => undefined,
): void => {
  if (within === undefined) effect()
  else within.onEnd((committed) => (committed ? onceCommitted(within.outer, effect, undone) : undone()))
}
