// Saves the current session together with a row of a flow. The row's write saves the session's change in its own
// transaction.

import { composeEdits, noEdits, sinceEdits } from '../core/edits.js'
import type { SessionError } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { withEdits } from '../core/session.js'
import type { Change, SavedSnapshot, Session } from '../store/contract.js'
import { currentScope, guarded } from './current-scope.js'
import { replace, replaceState, unprovenReason } from './scope.js'
import { createSession, saveEdits } from './store-session.js'
import { sessionHere } from './with-session.js'

/** A write that also saves a change of the session, if there is one. */
export type WriteWith<L> = (change: Change | undefined) => TE.TaskEither<L, SavedSnapshot | undefined>

/** Stores the current session if it was never stored, even without entries. Returns the current session. */
export const storeCurrentSession: TE.TaskEither<SessionError, Session> = () => {
  const here: E.Either<SessionError, Session> = sessionHere()
  if (E.isLeft(here)) return Promise.resolve(here)
  const session = here.right
  const reason = unprovenReason(session)
  if (reason !== undefined) return Promise.resolve(E.left(reason))
  return O.isSome(session.snapshot)
    ? Promise.resolve(here)
    : guarded<SessionError>(session, createSession(session))()
}

/** Runs a write, and saves the edits of the stored current session with it. Afterwards the edits count as saved. */
export const saveCurrentWith =
  (write: WriteWith<SessionError>): TE.TaskEither<SessionError, unknown> =>
  () => {
    const session: E.Either<SessionError, Session> = sessionHere()
    if (E.isLeft(session)) return Promise.resolve(session)
    const { snapshot, edits } = session.right
    const reason = unprovenReason(session.right)
    if (reason !== undefined) return Promise.resolve(E.left(reason))
    if (O.isNone(snapshot) || edits.isEmpty()) return write(undefined)()
    const save = (_: unknown, change: Change) =>
      pipe(
        write(change) as TE.TaskEither<never, SavedSnapshot | undefined>,
        TE.map((saved) => saved ?? snapshot.value),
      )
    return guarded(session.right, saveEdits(session.right, snapshot.value, save))()
  }

/**
 * Drops the edits of the current session that were made after `before`. If the session was saved meanwhile, the edits of
 * `before` were saved too, so all edits are dropped.
 */
export const dropEditsSince = (before: Session): void => {
  const scope = currentScope()
  if (scope === undefined) return
  const { snapshot, token } = scope.session
  replaceState(scope, snapshot === before.snapshot ? before.edits : noEdits, token, snapshot)
}

/**
 * Runs a task without the edits of the current session that were made after `before`, and adds these edits again after
 * it. So a transaction in the task does not save them.
 */
export const apartFromEdits =
  <L, A>(before: Session, task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
  async () => {
    const { snapshot, edits } = currentScope()?.session ?? before
    // If the session was saved meanwhile, the edits of `before` were saved too.
    const kept = sinceEdits(snapshot === before.snapshot ? before.edits : noEdits, edits)
    dropEditsSince(before)
    const result = await task()
    const scope = currentScope()
    if (scope !== undefined && E.isRight(result) && !kept.isEmpty())
      replace(scope, withEdits(scope.session, composeEdits(scope.session.edits, kept)))
    return result
  }
