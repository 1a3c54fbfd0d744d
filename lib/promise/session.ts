// The verbs of sessions, as promises.
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { DeepReadonly, Json } from '../core/json.js'
import type { SessionKey } from '../core/key.js'
import type { KeyNames, SessionValue } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import * as values from '../core/values.js'
import type { Flash } from '../core/well-known-keys.js'
import type { Database, Param, Query, Queryable, Row } from '../db/database.js'
import type { CheckedRequest } from '../http/csrf.js'
import * as forgery from '../http/csrf.js'
import * as principals from '../request/sign-in.js'
import * as edges from '../request/sign-in.js'
import * as reading from '../request/verbs.js'
import * as verbs from '../request/verbs.js'
import * as current from '../request/with-session.js'
import * as collecting from '../store/cleanup.js'
import * as background from '../store/cleanup.js'
import type { Session, SessionStore, Which } from '../store/contract.js'
import { bodyTask, given, orThrow, orThrowNow } from './sql.js'

/** The session that a token opens, or `undefined`; with `keys`, only what is in those is read. */
export const loadSession = async (
  store: SessionStore,
  token: string,
  options?: verbs.LoadOptions,
): Promise<Session | undefined> => O.toUndefined(await orThrow(verbs.loadSession(store, token, options)))

/** Stores what was edited since the load; gives the session as saved. */
export const saveSession = (session: Session): Promise<Session> => orThrow(verbs.saveSession(session))

/** Reads the rows again, under the unsaved edits. */
export const refreshSession = (session: Session): Promise<Session> => orThrow(reading.refreshSession(session))

/**
 * The session with these keys known as well, where it was loaded without them.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, loadSession, saveSession, loadKeys, sessionRef, sessionSet, sessionToken } from 'keyrow/promise'
 *
 * const store = memoryStore()
 * const saved = await saveSession(sessionSet('basket', ['tea'])(buildSession(store)))
 * const session = await loadSession(store, sessionToken(saved), { keys: ['user'] })
 * if (session) console.log(sessionRef('basket')(await loadKeys('basket')(session))) // [ 'tea' ]
 * ```
 */
export const loadKeys =
  (...keys: KeyNames) =>
  (session: Session): Promise<Session> =>
    orThrow(reading.loadKeys(...keys)(session))

/** Gives the session a new secret. */
export const rotateSession = (session: Session): Promise<Session> => orThrow(verbs.rotateSession(session))

/** Deletes the session with all its rows. */
export const destroySession = (session: Session): Promise<void> => orThrow(verbs.destroySession(session))

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
): Promise<A> => orThrow(current.withSession(session, () => bodyTask('withSession', fn), options))

/** Passes the session to `f`, which gives a value and the session to save; gives the value and the saved session. */
export const callWithSession = <A>(
  session: Session,
  f: (session: Session) => readonly [A, Session] | Promise<readonly [A, Session]>,
): Promise<readonly [A, Session]> =>
  orThrow(current.callWithSession(session, (given) => TE.fromTask(async () => f(given))))

/**
 * The current session.
 *
 * @throws `NoCurrentSession` where there is none, `SessionClosed` where its request has ended or its response has begun.
 */
export const currentSession = (): Promise<Session> => orThrowNow(current.sessionHere)

/** Replaces the current session by `f` of it; gives the new one. */
export const updateCurrentSession = (f: (session: Session) => Session): Promise<Session> =>
  orThrowNow(() => current.updatedHere(f))

/** Reads keys that the current session was loaded without; gives the current session, which knows them from now on. */
export const loadCurrentKeys = (...keys: KeyNames): Promise<Session> =>
  orThrow(reading.loadCurrentKeys(...keys))

/** Signs the current session in: a new secret, whose it is, and, if it is told, how long it lives. */
export const signIn = async (principal: string, options?: edges.SignInOptions): Promise<Session> =>
  orThrow(edges.signIn(principal, options))

/** Signs out: deletes the current session, and has the door take its cookie away. */
export const signOut = (): Promise<void> => orThrow(edges.signOut)

/** The token that the current session's forms show; see `verifyCsrf`. It makes no session by itself. */
export const csrfToken = (): Promise<string> => orThrow(edges.csrfToken)

/**
 * Checks that a request which changes something comes from a page of ours: the browser says so, or it shows the
 * session's token as `field` or as the header `X-CSRF-Token`. Rejects with `RequestRejected` (403).
 */
export const verifyCsrf = (request: CheckedRequest, field?: unknown): Promise<void> =>
  orThrow(forgery.verifyCsrf(request, field))

/** Adds a message to the current session, for the next page that shows messages. */
export const flash = (kind: string, text: string): Promise<Session> => orThrow(edges.flash(kind, text))

/** The current session's messages, which are then shown: they are taken away, unless a page is only fetched ahead. */
export const takeFlashes = (): Promise<readonly Flash[]> => orThrow(edges.takeFlashes)

/** The live sessions of a principal, the newest first: ids and times, never a token. */
export const sessionsOf = (
  store: SessionStore,
  principal: string,
): Promise<readonly principals.ListedSession[]> => orThrow(principals.sessionsOf(store, principal))

/** Destroys all sessions of a principal, all but one, or only one of them; gives the ids of those that it ended. */
export const destroySessionsOf = (
  store: SessionStore,
  principal: string,
  which?: Which,
): Promise<readonly SessionId[]> => orThrow(principals.destroySessionsOf(store, principal, which))

/** Deletes expired sessions with all that hangs from them. */
export const deleteExpiredSessions = (
  store: SessionStore,
  options?: collecting.DeleteExpiredOptions,
): Promise<collecting.DeletedExpired> => orThrow(collecting.deleteExpiredSessions(store, options))

/** A collector that runs beside a server, until it is stopped. */
export interface Cleanup {
  readonly stop: () => Promise<void>
}

/** Starts collecting garbage in the background; it keeps no process alive. */
export const startCleanup = (store: SessionStore, options?: background.CleanupOptions): Cleanup =>
  background.startCleanup(store, options)

/** Makes the store ready for use: run it at the start to fail early. */
export const prepareStore = (store: SessionStore): Promise<void> => orThrow(store.prepare)

/** Ends the database's connections. */
export const closeDatabase = (database: Database): Promise<void> => orThrow(database.close)

/** Runs one statement; gives its rows. */
export const queryDatabase = (
  database: Queryable,
  query: Query,
  params: readonly Param[],
): Promise<readonly Row[]> => orThrow(database.query(query, params))

// The values of a session, with `undefined` for what is absent.

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
    O.toUndefined(given(values.sessionRefStrict(key)(session)))

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
