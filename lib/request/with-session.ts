// Defines `withSession` and the current session. By default the edits of a failed body are dropped. A destroyed session
// is not saved. Code that outlives its request cannot change the session.

import {
  attempted,
  isSessionError,
  NoCurrentSession,
  type SessionClosed,
  type SessionError,
} from '../core/errors.js'
import { E, pipe, TE } from '../core/prelude.cjs'
import { withStore } from '../core/session.js'
import type { Session } from '../store/contract.js'
import {
  closeScope,
  currentScope,
  dropScope,
  endReason,
  scopeFor,
  sessionOf,
  sessionThere,
} from './current-scope.js'
import {
  closedReason,
  inNewScope,
  isSameRow,
  lookAt,
  mergeInto,
  openScope,
  replace,
  type Scope,
} from './scope.js'
import { saveSession } from './verbs.js'

export interface WithSessionOptions {
  /** Whether to save the changes if the body fails. Default: false. */
  readonly saveOnFailure?: boolean
}

/**
 * Runs `fn` and its task with `session` as the current session, then saves the session once. If the task fails (with a
 * `Left`, a throw or a rejection), the caller gets that failure, and the changes are dropped.
 *
 * A nested call with the same session joins the outer call, which saves at its end. If the outer task succeeds, the
 * save includes the changes of a failed nested task.
 *
 * @throws as a `Left`: `SessionClosed` if the session's request has ended, and the errors of `saveSession`
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, currentSession, sessionRef, sessionSet, updateCurrentSession, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const greet = pipe(currentSession, TE.map(sessionRef('user', 'stranger')), TE.map((user) => `Hello ${String(user)}`))
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(updateCurrentSession(sessionSet('user', 'Ada')), TE.chainW(() => greet)),
 * )
 * console.log(await request()) // { _tag: 'Right', right: 'Hello Ada' }
 * ```
 */
export const withSession =
  <L, A>(
    session: Session,
    fn: () => TE.TaskEither<L, A>,
    options: WithSessionOptions = {},
  ): TE.TaskEither<L | SessionError, A> =>
  () => {
    const reason = endReason(session)
    if (reason !== undefined) return Promise.resolve(E.left(reason))
    const there = sessionThere(session)
    const scope = scopeFor(there)
    if (scope === undefined) return runScope(openScope(there), fn, options.saveOnFailure ?? false)
    mergeInto(scope, session)
    return inNewScope(scope, () => settle(fn))
  }

// This function is not `async`, since each promise costs a microsecond in each request.
const runScope = <L, A>(
  scope: Scope,
  fn: () => TE.TaskEither<L, A>,
  saveOnFailure: boolean,
): Promise<E.Either<L | SessionError, A>> => {
  const failed = async (): Promise<void> => {
    // If the save fails too, the caller gets the error of the body.
    if (saveOnFailure) await closeScope(scope)()
    else dropScope(scope)
  }
  return inNewScope(scope, () => settle(fn)).then(
    (result) =>
      E.isRight(result)
        ? closeScope(scope)().then((saved) => (E.isLeft(saved) ? saved : result))
        : failed().then(() => result),
    (defect: unknown) =>
      failed().then(() => {
        throw defect
      }),
  )
}

const settle = <L, A>(fn: () => TE.TaskEither<L, A>): Promise<E.Either<L | SessionError, A>> =>
  attempted<L | SessionError, A>(() => fn()())

/**
 * Passes the session to `f` and saves the session that `f` returns. The session does not become the current session. If
 * `f` fails, the caller gets that failure, and nothing is saved.
 *
 * @example
 * ```ts
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, callWithSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = callWithSession(buildSession(memoryStore()), (session) =>
 *   TE.right(['welcome', sessionSet('visits', 1)(session)] as const),
 * )
 * console.log((await request())._tag) // Right
 * ```
 */
export const callWithSession = <L, A>(
  session: Session,
  f: (session: Session) => TE.TaskEither<L, readonly [A, Session]>,
): TE.TaskEither<L | SessionError, readonly [A, Session]> =>
  pipe(
    () => settle(() => f(session)),
    TE.chainW(([value, after]) =>
      pipe(
        saveSession(after),
        TE.map((saved) => [value, saved] as const),
      ),
    ),
  )

/**
 * Returns the current session at the time when the task runs. After the end of the request the task fails. A session
 * value that the program has kept can still be read.
 *
 * @throws as a `Left`: `NoCurrentSession`, or `SessionClosed` if the request has ended or its response has begun
 *
 * @example
 * ```ts
 * import { currentSession } from 'keyrow'
 *
 * console.log((await currentSession())._tag) // Left
 * ```
 */
export const currentSession: TE.TaskEither<NoCurrentSession | SessionClosed, Session> = () =>
  Promise.resolve(sessionHere())

/** Returns the current session, synchronously. */
export const sessionHere = (): E.Either<NoCurrentSession | SessionClosed, Session> => {
  const scope = currentScope()
  return scope === undefined ? E.left(new NoCurrentSession()) : sessionOf(scope)
}

/**
 * Replaces the current session with the result of `f`.
 *
 * @throws as a `Left`: `SessionClosed` if the request has ended, `SessionGone` if the session was destroyed,
 * `NoCurrentSession`, or a session error that `f` throws, such as `EncodeError`
 *
 * @example
 * ```ts
 * import { sessionSet, updateCurrentSession } from 'keyrow'
 *
 * console.log((await updateCurrentSession(sessionSet('theme', 'dark'))())._tag) // Left
 * ```
 */
export const updateCurrentSession =
  (f: (session: Session) => Session): TE.TaskEither<SessionError, Session> =>
  () =>
    new Promise((resolve) => resolve(updatedHere(f)))

/** Replaces the current session, synchronously. */
export const updatedHere = (f: (session: Session) => Session): E.Either<SessionError, Session> =>
  E.flatten(orSessionError(() => update(f)))

/** Returns a session error that `f` throws as a `Left`. */
export const orSessionError = <A>(f: () => A): E.Either<SessionError, A> => {
  try {
    return E.right(f())
  } catch (error) {
    if (isSessionError(error)) return E.left(error)
    throw error
  }
}

const update = (f: (session: Session) => Session): E.Either<SessionError, Session> => {
  const scope = currentScope()
  if (scope === undefined) return E.left(new NoCurrentSession())
  const reason = closedReason(scope)
  if (reason !== undefined) return E.left(reason)
  const session = f(lookAt(scope))
  if (!isSameRow(scope.session, session))
    throw new TypeError('updateCurrentSession: the function returned another session')
  // `f` may return a session value from before the last save or rotation. Of such a value only new edits are applied.
  if (session.token === scope.session.token && session.snapshot === scope.session.snapshot)
    replace(scope, withStore(session, scope.session.handle))
  else mergeInto(scope, session)
  return E.right(scope.session)
}
