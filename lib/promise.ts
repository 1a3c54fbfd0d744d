// The same names for plain `async` functions: a `TaskEither` becomes a promise that rejects with the tagged
// error, and an `Option` becomes `undefined`. Everything here converts; nothing is implemented here.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionError } from './base/errors.js'
import type { DeepReadonly } from './base/frozen.js'
import type { Json } from './base/json.js'
import * as collecting from './collector/collect.js'
import * as background from './collector/collector.js'
import * as current from './current/current-session.js'
import * as principals from './current/principal.js'
import * as edges from './current/sign-in.js'
import * as verbs from './current/verbs.js'
import * as forgery from './door/forgery.js'
import type { Database, Param, Query, Queryable, Row } from './port/database.js'
import type { Session, SessionStore, Which } from './port/session-store.js'
import type { Flash } from './session/flash.js'
import type { SessionKey } from './session/key.js'
import type { SessionValue } from './session/session.js'
import type { SessionId } from './session/token.js'
import * as values from './session/values.js'

export * from './base/errors.js'
export type { DeepReadonly } from './base/frozen.js'
export type { Json } from './base/json.js'
export type { Collected, CollectOptions } from './collector/collect.js'
export type { CollectorOptions } from './collector/collector.js'
export { type BatchLimits, batched } from './combinator/batched.js'
export { type MemoryLimit, remembered } from './combinator/remembered.js'
export type { WithSessionOptions } from './current/current-session.js'
export type { ListedSession } from './current/principal.js'
export { buildSession, sessionToken } from './current/verbs.js'
export type { CheckedRequest } from './door/forgery.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './door/guard.js'
export { RequestRefused } from './door/refused.js'
export type { Database, Param, Query, Queryable, QueryEvent, Row } from './port/database.js'
export { onSessionEvent, type SessionEventName, type SessionEvents } from './port/events.js'
export type { Lifetime } from './port/lifetime.js'
export { observedDatabase } from './port/observed.js'
export type { Session, SessionStore, Which } from './port/session-store.js'
export { type Flash, flash, flashes, unflash } from './session/flash.js'
export { type SessionKey, sessionKey } from './session/key.js'
export { sessionFor, sessionPrincipal } from './session/principal.js'
export type { SessionId } from './session/token.js'
export { sessionDel, sessionSet } from './session/values.js'
export { type SessionStoreOptions, sessionStore } from './sql/session-store.js'

const run = async <L extends Error, A>(task: TE.TaskEither<L, A>): Promise<A> => {
  const result = await task()
  if (E.isLeft(result)) throw result.left
  return result.right
}

type Reader<B> = <H>(session: SessionValue<H>) => B
type Editor = <H>(session: SessionValue<H>) => SessionValue<H>

/**
 * The value of a key, or the fallback, or `undefined`.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, sessionRef, sessionSet } from 'keyrow/promise'
 *
 * const session = sessionSet('theme', 'dark')(buildSession(memoryStore()))
 * console.log(sessionRef('theme')(session), sessionRef('language', 'en')(session)) // dark en
 * ```
 */
export function sessionRef(key: string): Reader<Json | undefined>
export function sessionRef<A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined>
export function sessionRef<B>(key: string, fallback: B): Reader<Json | B>
export function sessionRef<A>(key: SessionKey<A>, fallback: NoInfer<DeepReadonly<A>>): Reader<DeepReadonly<A>>
export function sessionRef<A, B>(key: SessionKey<A>, fallback: B): Reader<DeepReadonly<A> | B>
export function sessionRef(key: string | SessionKey<unknown>, fallback?: unknown): Reader<unknown> {
  return values.sessionRef(key as string, fallback)
}

/** The value of a typed key, or `undefined`; throws a `DecodeError` for a stored value that does not fit. */
export const sessionRefStrict =
  <A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined> =>
  (session) =>
    pipe(
      values.sessionRefStrict(key)(session),
      E.match(
        (error) => {
          throw error
        },
        (value) => O.toUndefined(value),
      ),
    )

/**
 * Replaces a key's value by `f` of it, or of the fallback, or of `undefined`; replayed when it is saved.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, sessionRef, sessionUpdate } from 'keyrow/promise'
 *
 * const session = sessionUpdate('visits', (visits) => Number(visits) + 1, 0)(buildSession(memoryStore()))
 * console.log(sessionRef('visits')(session)) // 1
 * ```
 */
export function sessionUpdate(key: string, f: (value: Json | undefined) => Json): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A> | undefined) => NoInfer<A | DeepReadonly<A>>,
): Editor
export function sessionUpdate(key: string, f: (value: Json) => Json, fallback: Json): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A>) => NoInfer<A | DeepReadonly<A>>,
  fallback: NoInfer<DeepReadonly<A>>,
): Editor
export function sessionUpdate(
  key: string | SessionKey<unknown>,
  f: (value: never) => unknown,
  fallback?: unknown,
): Editor {
  return values.sessionUpdate(key as string, f as (value: Json) => Json, fallback as Json)
}

/** The session that a token opens, or `undefined`. */
export const loadSession = (store: SessionStore, token: string): Promise<Session | undefined> =>
  run(pipe(verbs.loadSession(store, token), TE.map(O.toUndefined)))

/** Stores what was edited since the load; gives the session as saved. */
export const saveSession = (session: Session): Promise<Session> => run(verbs.saveSession(session))

/** Reads the rows again, under the unsaved edits. */
export const refreshSession = (session: Session): Promise<Session> => run(verbs.refreshSession(session))

/** Gives the session a new secret. */
export const rotateSession = (session: Session): Promise<Session> => run(verbs.rotateSession(session))

/** Deletes the session with all its rows. */
export const destroySession = (session: Session): Promise<void> => run(verbs.destroySession(session))

/**
 * Runs `fn` with `session` as the current one, then saves it once. What `fn` throws comes out as itself.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, currentSession, sessionRef, sessionSet, updateCurrentSession, withSession } from 'keyrow/promise'
 *
 * const greeting = await withSession(buildSession(memoryStore()), async () => {
 *   await updateCurrentSession(sessionSet('user', 'Ada'))
 *   return `Hello ${String(sessionRef('user')(await currentSession()))}`
 * })
 * console.log(greeting) // Hello Ada
 * ```
 */
export const withSession = <A>(
  session: Session,
  fn: () => A | Promise<A>,
  options?: current.WithSessionOptions,
): Promise<A> =>
  run(current.withSession(session, () => TE.fromTask(async () => notTask(await fn())), options))

/** A `TaskEither` of the other face that slipped in would never be run, and its edits lost in silence. */
const notTask = <A>(value: A): A => {
  if (typeof value === 'function')
    throw new TypeError(
      'withSession: the body gave a function; is it a task of `keyrow`, which has to be run?',
    )
  return value
}

/** Passes the session to `f`, which gives a value and the session to save; gives the value and the saved session. */
export const callWithSession = <A>(
  session: Session,
  f: (session: Session) => readonly [A, Session] | Promise<readonly [A, Session]>,
): Promise<readonly [A, Session]> =>
  run(current.callWithSession(session, (given) => TE.fromTask(async () => f(given))))

/** The current session; rejects with `NoCurrentSession` where there is none. */
export const currentSession = (): Promise<Session> => run(current.currentSession)

/** Replaces the current session by `f` of it; gives the new one. */
export const updateCurrentSession = (f: (session: Session) => Session): Promise<Session> =>
  run<SessionError, Session>(current.updateCurrentSession(f))

/** Signs the current session in: a new secret, and whose it is. */
export const signIn = (principal: string): Promise<Session> => run(edges.signIn(principal))

/** Signs out: deletes the current session, and has the door take its cookie away. */
export const signOut = (): Promise<void> => run(edges.signOut)

/** The token that the current session's forms show; see `checkForgery`. */
export const csrfToken = (): Promise<string> => run(edges.csrfToken)

/**
 * Checks that a request which changes something comes from a page of ours; rejects with `RequestRefused` (403).
 * The token is `field`, or else the header `X-CSRF-Token`.
 */
export const checkForgery = (request: forgery.CheckedRequest, field?: unknown): Promise<void> =>
  run(forgery.checkForgery(request, field))

/** The current session's messages, which are then shown: they are taken away. */
export const takeFlashes = (): Promise<readonly Flash[]> => run(edges.takeFlashes)

/** The live sessions of a principal, the newest first: ids and times, never a token. */
export const sessionsOf = (
  store: SessionStore,
  principal: string,
): Promise<readonly principals.ListedSession[]> => run(principals.sessionsOf(store, principal))

/** Destroys all sessions of a principal, all but one, or only one of them; gives the ids of those that it ended. */
export const endSessions = (
  store: SessionStore,
  principal: string,
  which?: Which,
): Promise<readonly SessionId[]> => run(principals.endSessions(store, principal, which))

/** Deletes expired sessions with all that hangs from them. */
export const collectGarbage = (
  store: SessionStore,
  options?: collecting.CollectOptions,
): Promise<collecting.Collected> => run(collecting.collectGarbage(store, options))

/** A collector that runs beside a server, until it is stopped. */
export interface Collector {
  readonly stop: () => Promise<void>
}

/** Starts collecting garbage in the background; it keeps no process alive. */
export const startCollector = (store: SessionStore, options?: background.CollectorOptions): Collector =>
  background.startCollector(store, options)

/** Makes the store ready for use: run it at the start to fail early. */
export const prepareStore = (store: SessionStore): Promise<void> => run(store.prepare)

/** Ends the database's connections. */
export const closeDatabase = (database: Database): Promise<void> => run(database.close)

/** Runs one statement; gives its rows. */
export const queryDatabase = (
  database: Queryable,
  query: Query,
  params: readonly Param[],
): Promise<readonly Row[]> => run(database.query(query, params))
