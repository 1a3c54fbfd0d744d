// The current session's cell. A frame holds one immutable session, which code below it replaces by another,
// and it is closed once: from then on nothing changes. `AsyncLocalStorage` stands in for the dynamic extent
// of Scheme's parameters: a scope is bound while a task runs, and reaches all that the task awaits.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { SessionClosed, type SessionError, SessionGone } from '../base/errors.js'
import type { Session } from '../port/session-store.js'
import { composeEdits, type Edits, sinceEdits } from '../session/edits.js'
import { withEdits } from '../session/session.js'
import { storeSession } from './store-session.js'

export interface Frame {
  session: Session
  state: 'open' | 'closed' | 'gone'
  /** The edits that the session came in with: what differs from them was done since. */
  readonly entered: Edits
  /** Every session that it held. */
  readonly held: WeakSet<Session>
  saved?: Promise<E.Either<SessionError, Session>>
}

/** Frames nest: a scope knows the one around it. */
interface Scope {
  readonly frame: Frame
  readonly outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope>()

export const openFrame = (session: Session): Frame => ({
  session,
  state: 'open',
  entered: session.edits,
  held: new WeakSet([session]),
})

/** Runs `task` with `frame` as the current one. */
export const inFrame = <A>(frame: Frame, task: () => Promise<A>): Promise<A> =>
  scopes.run({ frame, outer: scopes.getStore() }, task)

export const currentFrame = (): Frame | undefined => scopes.getStore()?.frame

/** The open frame, here or around us, of the same session in the same store. */
export const frameOf = (session: Session): Frame | undefined => {
  for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer)
    if (scope.frame.state === 'open' && isSame(scope.frame.session, session)) return scope.frame
  return undefined
}

export const isSame = (a: Session, b: Session): boolean => a.id === b.id && a.handle === b.handle

/** Why this frame's session cannot be changed, or `undefined` when it can. */
export const closedReason = ({ state, session }: Frame): SessionClosed | SessionGone | undefined =>
  state === 'open'
    ? undefined
    : state === 'gone'
      ? new SessionGone(session.id)
      : new SessionClosed(session.id)

/**
 * A nested `withSession` joins: what its session has beyond the frame's, and beyond what the frame came with,
 * is done on top. A session that the frame held itself, earlier or now, brings nothing.
 */
export const joinFrame = (frame: Frame, session: Session): void => {
  if (frame.held.has(session)) return
  const brought = sinceEdits(frame.session.edits, sinceEdits(frame.entered, session.edits))
  if (!brought.isEmpty()) put(frame, withEdits(frame.session, composeEdits(frame.session.edits, brought)))
}

/** Replaces the frame's session. */
export const put = (frame: Frame, session: Session): void => {
  frame.session = session
  frame.held.add(session)
}

/**
 * The store turned `before` into `after`: saved it, refreshed it, or gave it another secret. The frame of
 * that session goes on from there, with what it did beyond `before` still on top.
 */
export const absorb = (before: Session, after: Session): void => {
  const frame = frameOf(before)
  if (frame === undefined) return
  const beyond = sinceEdits(before.edits, frame.session.edits)
  put(frame, beyond.isEmpty() ? after : withEdits(after, composeEdits(after.edits, beyond)))
}

/** The store destroyed the session: its frame ends, and saves nothing. */
export const absorbDestroyed = (session: Session): void => {
  const frame = frameOf(session)
  if (frame !== undefined) frame.state = 'gone'
}

/** Closes the frame and saves its session, both once; a destroyed one is not saved. */
export const closeFrame =
  (frame: Frame): TaskEither<SessionError, Session> =>
  () => {
    frame.saved ??= frame.state === 'open' ? saveClosed(frame) : Promise.resolve(E.right(frame.session))
    return frame.saved
  }

/** Closes the frame without saving: what was done in it is dropped. */
export const dropFrame = (frame: Frame): void => {
  if (frame.state === 'open') frame.state = 'closed'
}

const saveClosed = async (frame: Frame): Promise<E.Either<SessionError, Session>> => {
  frame.state = 'closed'
  const saved = await storeSession(frame.session)()
  if (E.isRight(saved)) frame.session = saved.right
  // Ended by another request while this one only looked at it: there was nothing to lose.
  else if (saved.left instanceof SessionGone && frame.session.edits.isEmpty()) {
    frame.state = 'gone'
    return E.right(frame.session)
  }
  return saved
}
