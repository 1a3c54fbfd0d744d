// The current session's cell. A frame holds one immutable session, which code below it replaces by another,
// and it is closed once: from then on nothing changes. `AsyncLocalStorage` stands in for the dynamic extent
// of Scheme's parameters: a scope is bound while a task runs, and reaches all that the task awaits.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { SessionClosed, type SessionError, SessionGone } from '../base/errors.js'
import type { Session, SessionStore } from '../port/session-store.js'
import { composeEdits, type Edits, sinceEdits } from '../session/edits.js'
import { united } from '../session/known.js'
import { heldSession, type Snapshot, withEdits, withStore, withToken } from '../session/session.js'
import type { SessionId, Token } from '../session/token.js'
import { outermost, throughCommits } from './commits.js'
import { storeSession } from './store-session.js'

/** The request that a frame belongs to, as far as the functions of sessions look at it. */
export interface FrameRequest {
  /** Whether the browser fetches a page ahead, which may never be visited. */
  readonly isPrefetch: boolean
  /** What the adapter knows of the origin that the request was sent to. */
  readonly origin: { readonly host?: string | undefined; readonly secure: boolean }
  /** Whether its handler has looked at a session, so that the answer is for this visitor alone. */
  looked: boolean
}

export interface Frame {
  session: Session
  /** `destroyed` here, or found to be `gone`: ended elsewhere. */
  state: 'open' | 'closed' | 'destroyed' | 'gone'
  /** The edits that the session came in with: what differs from them was done since. */
  readonly entered: Edits
  /** Every session that it held. */
  readonly held: WeakSet<Session>
  readonly tokens: WeakSet<Token>
  saved?: Promise<E.Either<SessionError, Session>>
  readonly request: FrameRequest | undefined
}

/** Frames nest: a scope knows the one around it. */
interface Scope {
  readonly frame: Frame
  readonly outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope>()

/** Without a request of its own it belongs to that of the frame around it. */
export const openFrame = (session: Session, request = currentRequest()): Frame => ({
  session,
  state: 'open',
  entered: session.edits,
  held: new WeakSet([session]),
  tokens: new WeakSet([session.token]),
  request,
})

/** Runs `task`, and all that it begins, with `frame` as the current one. */
export const inFrame = <A>(frame: Frame, task: () => A): A =>
  scopes.run({ frame, outer: scopes.getStore() }, task)

export const currentFrame = (): Frame | undefined => scopes.getStore()?.frame

export const currentRequest = (): FrameRequest | undefined => currentFrame()?.request

/** Notes that the handler looks at the frame's session. */
export const lookAt = (frame: Frame): Session => {
  if (frame.request !== undefined) frame.request.looked = true
  return frame.session
}

/** Whether this frame is here or around us. */
export const isInside = (frame: Frame): boolean => {
  for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer)
    if (scope.frame === frame) return true
  return false
}

/** The open frame, here or around us, of the same session in the same store. */
export const frameOf = (session: Session): Frame | undefined => {
  for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer)
    if (scope.frame.state === 'open' && isSame(scope.frame.session, session)) return scope.frame
  return undefined
}

/**
 * The frame that this very session came from, when that is closed: whoever still holds the session outlived
 * its request. One that was loaded anew, with a token of its own, is free.
 */
const closedFrameOf = (session: Session): Frame | undefined => {
  for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer)
    if (isSameRow(scope.frame.session, session) && scope.frame.tokens.has(session.token))
      return scope.frame.state === 'open' ? undefined : scope.frame
  return undefined
}

export const isSame = (a: Session, b: Session): boolean => a.id === b.id && a.handle === b.handle

/** The same, seen through whichever handle of the database. */
const isSameRow = (a: Session, b: Session): boolean =>
  a.id === b.id && outermost(a.handle) === outermost(b.handle)

/** Why this frame's session cannot be changed, or `undefined` when it can. */
export const closedReason = ({ state, session }: Frame): SessionClosed | SessionGone | undefined => {
  if (state === 'open') return undefined
  return state === 'closed' ? new SessionClosed(session.id) : new SessionGone(session.id)
}

/** Tokens of sessions that were given out to be read only. */
const readOnly = new WeakSet<Token>()

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

/**
 * A nested `withSession` joins: what its session has beyond the frame's, and beyond what the frame came with,
 * is done on top; and what it knows beyond the frame's, if that is of the same moment. A session that the frame held
 * itself, earlier or now, brings nothing.
 */
export const joinFrame = (frame: Frame, session: Session): void => {
  if (frame.held.has(session)) return
  const brought = sinceEdits(frame.session.edits, sinceEdits(frame.entered, session.edits))
  const knowing = frame.session.snapshot
  if (O.isSome(knowing) && O.isSome(session.snapshot) && isSameMoment(knowing.value, session.snapshot.value))
    know(frame, united(session.snapshot.value, knowing.value))
  if (!brought.isEmpty()) put(frame, withEdits(frame.session, composeEdits(frame.session.edits, brought)))
}

const know = (frame: Frame, snapshot: Snapshot): void => {
  const { handle, token, edits } = frame.session
  if (snapshot.keys !== O.toUndefined(frame.session.snapshot)?.keys)
    put(frame, heldSession(handle, token, snapshot, edits))
}

/** Replaces the frame's session. */
export const put = (frame: Frame, session: Session): void => {
  frame.session = session
  frame.held.add(session)
  frame.tokens.add(session.token)
}

/** Tells the frames of the session: of this handle now, and of those around it as transactions are committed. */
const tellStored = (before: Session, after: Session): void => {
  if (after !== before)
    throughCommits(before.handle, (store) => absorb(withStore(before, store), withStore(after, store)))
}

/**
 * The store turned `before` into `after`: saved it, refreshed it, or gave it another secret. The frame of
 * that session goes on from there. `before` may be an older state than the frame's: so of what the frame
 * knows only that is replaced which is newer, and only those of its edits are done that the store has taken.
 */
const absorb = (before: Session, after: Session): void => {
  const frame = frameOf(before)
  if (frame === undefined) return
  const { session } = frame
  const token = after.token === before.token ? session.token : after.token
  const snapshot = newest(session.snapshot, after.snapshot)
  const taken = sinceEdits(after.edits, before.edits)
  const edits = sinceEdits(taken, session.edits)
  put(
    frame,
    O.isSome(snapshot)
      ? heldSession(session.handle, token, snapshot.value, edits)
      : withEdits(withToken(session, token), edits),
  )
}

// Never of two moments: what is known of an older one is not known of a newer one.
const newest = (held: O.Option<Snapshot>, after: O.Option<Snapshot>): O.Option<Snapshot> => {
  if (O.isNone(after) || O.isNone(held)) return O.isNone(after) ? held : after
  if (isSameMoment(held.value, after.value)) return O.some(united(held.value, after.value))
  return held.value.revision <= after.value.revision ? after : held
}

const isSameMoment = (one: Snapshot, other: Snapshot): boolean =>
  one.revision === other.revision && one.mark === other.mark

/** The store destroyed the session: its frame ends, and saves nothing. */
export const absorbDestroyed = (session: Session): void =>
  throughCommits(session.handle, (store) => {
    const frame = frameOf(withStore(session, store))
    if (frame !== undefined) frame.state = 'destroyed'
  })

/** The same, for a store that ended several sessions at once: any of them may be open around us. */
export const absorbEnded = (ended: SessionStore, ids: readonly SessionId[]): void =>
  throughCommits(ended, (store) => {
    for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer) {
      const { frame } = scope
      if (frame.state === 'open' && frame.session.handle === store && ids.includes(frame.session.id))
        frame.state = 'destroyed'
    }
  })

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
