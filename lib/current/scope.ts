// Where we are: the current frame, the frame of a session, what becomes of it when its store has done something, and
// how it ends.

import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { SessionClosed, type SessionError, SessionGone } from '../base/errors.js'
import { shared } from '../base/shared.js'
import type { Session, SessionStore } from '../port/session-store.js'
import type { SessionId, Token } from '../session/token.js'
import {
  absorb,
  closedReason,
  type Frame,
  isSameRow,
  isSameStore,
  lookAt,
  put,
  type Scope,
  scopeHere,
} from './frame.js'
import { changesWithin, frameHere, frameIn } from './inner-frame.js'
import { storeSession } from './store-session.js'

/** The current frame; inside of a transaction of its database, its counterpart there. */
export const currentFrame = (): Frame | undefined => {
  const frame = scopeHere()?.frame
  return frame && frameHere(frame)
}

/** The frame's session as it is where we are, until the frame's scope has ended. */
export const sessionHeldBy = (frame: Frame): E.Either<SessionClosed, Session> =>
  frame.ended ? E.left(new SessionClosed(frame.session.id)) : E.right(lookAt(frameHere(frame)))

/** The open frame, here or around us, of the same session in the same store. */
export const frameOf = ({ id, handle }: Session): Frame | undefined => inStore(id, handle, scopeHere())

const inStore = (id: SessionId, store: SessionStore, scope: Scope | undefined): Frame | undefined => {
  if (scope === undefined) return undefined
  const { session, state } = scope.frame
  const isIt = state === 'open' && session.id === id && isSameStore(session.handle, store)
  const frame = isIt ? frameIn(scope.frame, store) : undefined
  return frame?.state === 'open' ? frame : inStore(id, store, scope.outer)
}

/**
 * The frame that this very session came from, when that is closed: code that still holds the session outlived
 * its request. One that was loaded anew, with a token of its own, is free.
 */
const closedFrameOf = (session: Session): Frame | undefined => {
  for (let scope = scopeHere(); scope !== undefined; scope = scope.outer)
    if (isSameRow(scope.frame.session, session) && scope.frame.tokens.has(session.token))
      return scope.frame.state === 'open' ? undefined : scope.frame
  return undefined
}

/** Tokens of sessions that were given out to be read only. */
const readOnly = shared('read-only:1', () => new WeakSet<Token>())

/** From now on nothing that is made of this very session can be written; one that is loaded anew can. */
export const makeReadOnly = (session: Session): Session => {
  readOnly.add(session.token)
  return session
}

/** Why this session, in the hands of code that outlived its request, cannot be written any more. */
export const endReason = (session: Session): SessionClosed | SessionGone | undefined => {
  if (readOnly.has(session.token)) return new SessionClosed(session.id)
  const frame = closedFrameOf(session)
  return frame === undefined ? undefined : closedReason(frame)
}

/** The frame of the session goes on from what its store did. */
const tellStored = (before: Session, after: Session): void => {
  const frame = after === before ? undefined : frameOf(before)
  if (frame !== undefined) absorb(frame, before, after)
}

/** Refused to what outlived its request; else done, and told to the frame of the session. */
export const told =
  <L>(before: Session, task: TaskEither<L, Session>): TaskEither<L | SessionClosed | SessionGone, Session> =>
  async () => {
    const reason = endReason(before)
    if (reason !== undefined) return E.left(reason)
    const done = await task()
    if (E.isRight(done)) tellStored(before, done.right)
    return done
  }

/** The store destroyed the session: its frame ends, and saves nothing. */
export const absorbDestroyed = (session: Session): void => {
  const frame = frameOf(session)
  if (frame !== undefined) frame.state = 'destroyed'
}

/** The same, for a store that ended several sessions at once: any of them may be open around us. */
export const absorbEnded = (ended: SessionStore, ids: readonly SessionId[]): void => {
  for (const id of ids)
    for (let scope = scopeHere(); scope !== undefined; scope = scope.outer) {
      const frame = inStore(id, ended, scope)
      if (frame !== undefined) frame.state = 'destroyed'
    }
}

/**
 * Closes the frame and saves its session, both once; a destroyed one is not saved. Transactions that are open in it,
 * and in which the session was changed, come to their end before.
 */
export const closeFrame =
  (frame: Frame): TaskEither<SessionError, Session> =>
  () => {
    frame.saved ??= changesWithin(frame)?.then(() => saveClosed(frame)) ?? saveClosed(frame)
    return frame.saved
  }

/** Closes the frame without saving: what was done in it is dropped. */
export const dropFrame = (frame: Frame): void => {
  frame.ended = true
  if (frame.state === 'open') frame.state = 'closed'
}

const saveClosed = async (frame: Frame): Promise<E.Either<SessionError, Session>> => {
  const isOpen = frame.state === 'open'
  dropFrame(frame)
  if (!isOpen) return E.right(frame.session)
  const before = frame.session
  // Perhaps nobody ever sees the page: only what was stored moves the expiration.
  if (frame.request?.isPrefetch === true && before.edits.isEmpty()) return E.right(before)
  const saved = await storeSession(before)()
  if (E.isRight(saved)) {
    put(frame, saved.right)
    tellStored(before, saved.right)
  }
  // Ended by another request while this one only looked at it: there was nothing to lose.
  else if (saved.left instanceof SessionGone && frame.session.edits.isEmpty()) {
    frame.state = 'gone'
    return E.right(frame.session)
  }
  return saved
}
