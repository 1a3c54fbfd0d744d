// What is done through a transaction's handle counts outside of it once it is committed, and not at all if it is
// rolled back. So whoever looks on from outside (the frames of sessions, events) is told then.
import type { SessionStore } from '../port/session-store.js'

/** Runs `effect` for this store at once, and for the one around it when, and if, the transaction hands over to that. */
export const throughCommits = (store: SessionStore, effect: (store: SessionStore) => void): void => {
  effect(store)
  const { within } = store
  within?.onEnd((committed) => {
    if (committed) throughCommits(within.outer, effect)
  })
}

/** Runs `effect` once nothing can undo what was done to the store any more; `undone` if it was. */
export const onceCommitted = (
  { within }: SessionStore,
  effect: () => void,
  undone: () => void = () => undefined,
): void => {
  if (within === undefined) effect()
  else within.onEnd((committed) => (committed ? onceCommitted(within.outer, effect, undone) : undone()))
}

/** The store outside of all transactions. */
export const outermost = (store: SessionStore): SessionStore =>
  store.within === undefined ? store : outermost(store.within.outer)
