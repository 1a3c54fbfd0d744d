// The current session inside of a transaction of its own database. There it has a frame of its own, made when it is
// first used: what is done in it belongs to the transaction. The transaction writes it right before its commit, so
// that the session's row is locked only then; and only a commit is handed over to the frame around it.

import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { SessionClosed, type SessionError } from '../base/errors.js'
import type { Session, SessionStore } from '../port/session-store.js'
import { composeEdit, type Edits, sinceEdits } from '../session/edits.js'
import { withEdits, withStore } from '../session/session.js'
import { type Frame, type InnerFrame, openFrame, putState } from './frame.js'
import { storeSession } from './store-session.js'

type Within = NonNullable<SessionStore['within']>

/** The frame's counterpart where we are: in the innermost transaction of its database that is open here. */
export const frameHere = (frame: Frame): Frame => {
  const { over, current } = frame.session.handle
  const tx = frame.state === 'open' ? current?.() : undefined
  return tx === undefined || over === undefined ? frame : (frameIn(frame, over(tx)) ?? frame)
}

/** The session through the handle that can be used where we are. */
export const sessionThere = (session: Session): Session => {
  const { over, current } = session.handle
  const tx = current?.()
  return tx === undefined || over === undefined ? session : withStore(session, over(tx))
}

/** The frame's counterpart in the transaction of `store`; `undefined` when that is not within the frame's own. */
export const frameIn = (frame: Frame, store: SessionStore): Frame | undefined => {
  if (store.within?.transaction === frame.session.handle.within?.transaction) return frame
  if (store.within === undefined) return undefined
  const around = frameIn(frame, store.within.outer)
  return around && (around.inner?.get(store.within.transaction) ?? openInner(around, store, store.within))
}

const openInner = (around: Frame, store: SessionStore, within: Within): InnerFrame => {
  let ended = (): void => undefined
  const frame: InnerFrame = {
    ...openFrame(withStore(around.session, store)),
    state: around.state,
    // A session value of the request stays one inside.
    held: around.held,
    tokens: around.tokens,
    writes: undefined,
    end: new Promise((resolve) => {
      ended = resolve
    }),
  }
  around.inner ??= new Map()
  around.inner.set(within.transaction, frame)
  // A savepoint hands over what is to be written.
  if (within.outer.within === undefined) within.beforeCommit(writing(around, frame))
  within.onEnd((committed) => {
    around.inner?.delete(within.transaction)
    frame.ended = true
    if (committed) handOver(around, frame)
    ended()
  })
  return frame
}

/** Writes what was done in the transaction, and what of the request's unsaved edits an update of the same key needs. */
const writing =
  (around: Frame, frame: InnerFrame): TaskEither<SessionError, unknown> =>
  async () => {
    const { session, opened } = frame
    if (frame.state !== 'open') return E.right(undefined)
    if (around.ended) return isChanged(frame) ? E.left(new SessionClosed(session.id)) : E.right(undefined)
    const inside = session.edits.filter((edit, key) => edit !== opened.edits.get(key))
    if (inside.isEmpty()) return E.right(undefined)
    await turnOf(around, frame, inside)
    const saved = await storeSession(withEdits(session, needed(around, frame, inside)))()
    if (E.isRight(saved)) {
      const left = sinceEdits(inside, frame.session.edits)
      putState(frame, left, frame.session.token, saved.right.snapshot)
    }
    return saved
  }

/** Two transactions of one request never write the same unsaved edit of it: the later one waits for the other's end. */
const turnOf = async (around: Frame, frame: InnerFrame, inside: Edits): Promise<void> => {
  const mine = frame.opened.edits.filter((edit, key) => edit._tag === 'Update' && inside.has(key))
  const isRival = (other: InnerFrame): boolean =>
    other.writes?.some((edit, key) => mine.get(key) === edit) ?? false
  for (;;) {
    const rival = [...(around.inner?.values() ?? [])].find(isRival)
    if (rival === undefined) break
    await rival.end
  }
  frame.writes = mine
}

/** What is written: without the unsaved edits of the request that another transaction of it has written meanwhile. */
const needed = (around: Frame, { opened }: InnerFrame, inside: Edits): Edits => {
  const written = sinceEdits(around.session.edits, opened.edits)
  const own = sinceEdits(opened.edits, inside)
  return inside.map((edit, key) => (written.has(key) ? (own.get(key) ?? edit) : edit))
}

/** Whether the session was changed in the transaction. */
const isChanged = (frame: Frame): boolean =>
  frame.session !== frame.opened || frame.state !== 'open' || changedWithin(frame) !== undefined

const changedWithin = ({ inner }: Frame): InnerFrame | undefined =>
  inner === undefined ? undefined : [...inner.values()].find(isChanged)

/** Waits for the open transactions in which the session was changed; `undefined` when there are none. */
export const changesWithin = (frame: Frame): Promise<void> | undefined => {
  const changed = changedWithin(frame)
  return changed?.end.then(() => changesWithin(frame))
}

const handOver = (around: Frame, { state, session, opened }: InnerFrame): void => {
  if (around.state !== 'open') return
  if (state === 'destroyed') {
    around.state = state
    return
  }
  const edits = handedOver(opened.edits, around.session.edits, session.edits)
  const token = session.token === opened.token ? around.session.token : session.token
  putState(around, edits, token, session.snapshot)
}

/**
 * The edits of the frame around: of those that it had when the transaction began (`before`), the ones that are written
 * are done; what is still to be written of the transaction is done on top of what it has by now.
 */
const handedOver = (before: Edits, present: Edits, inside: Edits): Edits => {
  const done = before.filter((edit, key) => inside.get(key) !== edit)
  const left = present
    .filterNot((_, key) => done.has(key))
    .merge(
      sinceEdits(
        done,
        present.filter((_, key) => done.has(key)),
      ),
    )
  return inside
    .filter((edit, key) => edit !== before.get(key))
    .reduce((edits, edit, key) => edits.set(key, composeEdit(edits.get(key), edit)), left)
}
