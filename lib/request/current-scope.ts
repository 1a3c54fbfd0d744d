// Where we are: the current frame, the frame of a session, what becomes of it when its store has done something, and
// how it ends.
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { composeEdit, type Edits, sinceEdits } from '../core/edits.js'
import { SessionClosed, type SessionError, SessionGone } from '../core/errors.js'
import { shared } from '../core/process.js'
import { withEdits, withStore } from '../core/session.js'
import type { SessionId, Token } from '../core/token.js'
import type { Session, SessionStore } from '../store/contract.js'
import { storeSession } from './save.js'
import {
  absorb,
  closedReason,
  type Frame,
  type InnerFrame,
  isSameRow,
  isSameStore,
  lookAt,
  openFrame,
  put,
  putState,
  type Scope,
  scopeHere,
} from './scope.js'

// The current session inside of a transaction of its own database. There it has a frame of its own, made when it is
// first used: what is done in it belongs to the transaction. The transaction writes it right before its commit, so
// that the session's row is locked only then; and only a commit is handed over to the frame around it.

type Within = NonNullable<SessionStore['within']>

/** The frame's counterpart where we are: in the innermost transaction of its database that is open here. */
const frameHere = (frame: Frame): Frame => {
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
const frameIn = (frame: Frame, store: SessionStore): Frame | undefined => {
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
