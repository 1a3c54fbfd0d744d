// What is done through a transaction's handle counts outside of it once it is committed, and not at all if it is
// rolled back. So listeners to events are told then.
import type { SessionStore } from '../port/session-store.js'

/** Runs `effect` once nothing can undo what was done to the store any more; `undone` if it was. */
export const onceCommitted = (
  { within }: SessionStore,
  effect: () => void,
  undone: () => void = () => undefined,
): void => {
  if (within === undefined) effect()
  else within.onEnd((committed) => (committed ? onceCommitted(within.outer, effect, undone) : undone()))
}
