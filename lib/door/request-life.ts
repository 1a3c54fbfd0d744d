// A request's life, the same behind every door: find the session that the cookie opens, or a new one in
// memory; run the handler with it as the current one; save; and say which cookie the answer carries.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionError } from '../base/errors.js'
import { closeFrame, dropFrame, type Frame, inFrame, isInside, openFrame } from '../current/frame.js'
import { buildSession, type LoadOptions, loadSession, sessionToken } from '../current/verbs.js'
import type { Session, SessionStore, StoreError } from '../port/session-store.js'
import type { SessionCookie } from './cookie.js'
import type { TokenGuard } from './guard.js'
import type { RequestRefused } from './refused.js'

/** What a handler gives back: nothing, a value, a promise, or a task that is still to be run. */
export type Handled = unknown

export interface RequestLife {
  /** The session as it is now. */
  readonly session: () => Session
  /** Whether what runs now was begun by the handler. */
  readonly isInside: () => boolean
  /** Calls `f` with the session as the current one, for it and all that it begins. */
  readonly enter: <A>(f: () => A) => A
  /** Runs the handler with the session as the current one. A `Left`, a throw and a rejection are a `Left`. */
  readonly run: (handler: () => Handled) => Promise<E.Either<unknown, unknown>>
  /** Saves, once; gives the answer's `Set-Cookie` header, if it needs one. */
  readonly commit: TE.TaskEither<SessionError, O.Option<string>>
  /** Ends the life without saving; a secret that was rotated already is still given to the browser. */
  readonly drop: () => O.Option<string>
}

/** A response that waits. It is told once what becomes of it: let go with a cookie or without, or failed. */
export interface WaitingResponse {
  /** Settles when the response cannot wait for the handler any longer. */
  readonly pressed: Promise<void>
  /** Whether the client has left, so that there is nobody to answer. */
  readonly isAbandoned: () => boolean
  /** Whether what waits is the answer to a failure already, which goes out as it is; asked when it is pressed. */
  readonly isFailure: () => boolean
  readonly release: (cookie: O.Option<string>) => void
  /**
   * Also told of a failure after the release, when it is too late for another answer. What `isHandler` says of
   * itself does not belong to the answer: a stream goes on after its request has failed.
   */
  readonly fail: (failure: unknown, cookie: O.Option<string>, isHandler?: () => boolean) => void
}

/** What a request says of itself. */
export interface Visit {
  readonly cookieHeader: string | undefined
  readonly secure: boolean
  /** The client's address, where it is known. */
  readonly address?: string | undefined
}

export const beginLife =
  (store: SessionStore, cookie: SessionCookie, guard: TokenGuard | undefined, options?: LoadOptions) =>
  (visit: Visit): TE.TaskEither<StoreError | RequestRefused, RequestLife> =>
  async () => {
    const found = await sessionOf(store, cookie, guard, visit, options)()
    if (E.isLeft(found)) return found
    const frame = openFrame(O.isSome(found.right) ? found.right.value : buildSession(store))
    return E.right(lifeOf(frame, () => cookieChange(cookie, visit, found.right, frame)))
  }

const lifeOf = (frame: Frame, cookie: () => O.Option<string>): RequestLife => ({
  session: () => frame.session,
  isInside: () => isInside(frame),
  enter: (f) => inFrame(frame, f),
  run: (handler) => inFrame(frame, () => attempt(handler)),
  commit: async () => {
    const saved = await closeFrame(frame)()
    return E.isLeft(saved) ? saved : E.right(cookie())
  },
  drop: () => {
    dropFrame(frame)
    return cookie()
  },
})

/**
 * The session that the visit's cookie opens: of several cookies of that name the first that opens one. A visit that
 * shows a token and opens nothing is counted by the guard, if there is one.
 */
export const sessionOf =
  (
    store: SessionStore,
    cookie: SessionCookie,
    guard: TokenGuard | undefined,
    visit: Visit,
    options?: LoadOptions,
  ): TE.TaskEither<StoreError | RequestRefused, O.Option<Session>> =>
  async () => {
    const tokens = cookie.read(visit.cookieHeader, visit.secure)
    for (const token of tokens) {
      const found = await loadSession(store, token, options)()
      if (E.isLeft(found) || O.isSome(found.right)) return found
    }
    const [token] = tokens
    return token !== undefined && guard !== undefined ? guard.count(visit.address, token) : E.right(O.none)
  }

/** From the first line to the last: begin, run the handler, save, answer. */
export const conduct = async (
  begin: TE.TaskEither<unknown, RequestLife>,
  handler: (life: RequestLife) => Handled,
  response: WaitingResponse,
): Promise<void> => {
  const life = await begin()
  if (E.isLeft(life)) response.fail(life.left, O.none)
  // A handler that starts only now would never hear that its client has gone.
  else if (response.isAbandoned()) life.right.drop()
  else await live(life.right, () => handler(life.right), response)
}

const live = async (life: RequestLife, handler: () => Handled, response: WaitingResponse): Promise<void> => {
  const done = life.run(handler)
  const outcome = await Promise.race([done, response.pressed])
  if (outcome === undefined && response.isFailure()) {
    response.release(life.drop())
    return
  }
  const failed = outcome !== undefined && E.isLeft(outcome) ? outcome : undefined
  const committed = failed ?? (await life.commit())
  if (E.isLeft(committed)) {
    response.fail(committed.left, life.drop(), life.isInside)
    return
  }
  try {
    response.release(committed.right)
  } catch (error) {
    // What the handler wrote cannot be sent: a header that is not one, say.
    response.fail(error, committed.right, life.isInside)
    return
  }
  const late = await done
  if (E.isLeft(late)) response.fail(late.left, committed.right, life.isInside)
}

/** What became of a request whose handler gives its answer as a value. */
export interface Answered<A> {
  readonly result: E.Either<unknown, A>
  readonly cookie: O.Option<string>
}

/** The same from begin to end where the answer is a value, of which nothing goes out before it is given. */
export const answered = async <A>(
  begin: TE.TaskEither<unknown, RequestLife>,
  handler: (life: RequestLife) => Handled,
): Promise<Answered<A>> => {
  const life = (await attempt(begin)) as E.Either<unknown, RequestLife>
  if (E.isLeft(life)) return { result: life, cookie: O.none }
  const { run, commit, drop } = life.right
  const result = (await run(() => handler(life.right))) as E.Either<unknown, A>
  if (E.isLeft(result)) return { result, cookie: drop() }
  const committed = (await attempt(commit)) as E.Either<unknown, O.Option<string>>
  return E.isLeft(committed) ? { result: committed, cookie: drop() } : { result, cookie: committed.right }
}

// The token that a browser shows in vain is not taken away from it: another answer may just have given it
// a new one, by a rotation that overtook this request.
const cookieChange = (
  cookie: SessionCookie,
  { secure }: Visit,
  found: O.Option<Session>,
  { session, state }: Frame,
): O.Option<string> => {
  if (state === 'destroyed') return O.isSome(found) ? O.some(cookie.take(secure)) : O.none
  const known = O.isSome(found) && sessionToken(found.value) === sessionToken(session)
  return known || state === 'gone' || O.isNone(session.snapshot)
    ? O.none
    : O.some(cookie.give(sessionToken(session), secure, session.handle.lifetime.absoluteMs))
}

export const attempt = async (handler: () => Handled): Promise<E.Either<unknown, unknown>> => {
  try {
    const handled: unknown = await handler()
    // A function is a task: plain handlers give values or promises, functional ones a `TaskEither`.
    const result: unknown = typeof handled === 'function' ? await (handled as () => unknown)() : handled
    return isEither(result) ? result : E.right(result)
  } catch (error) {
    return E.left(error)
  }
}

const isEither = (value: unknown): value is E.Either<unknown, unknown> =>
  typeof value === 'object' &&
  value !== null &&
  '_tag' in value &&
  ((value._tag === 'Left' && 'left' in value) || (value._tag === 'Right' && 'right' in value))
