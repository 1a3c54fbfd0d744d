// Defines the operations on sessions in the form that returns promises.

import * as proofs from '../bound/current-proof.js'
import { given, orThrow } from '../core/errors.js'
import type { DeepReadonly, Json } from '../core/json.js'
import type { DataOf, DeclaredKey, SessionKey, UndeclaredKey } from '../core/key.js'
import { O, TE } from '../core/prelude.cjs'
import type { KeyNames, SessionValue } from '../core/session.js'
import * as values from '../core/values.js'
import type { Flash } from '../core/well-known-keys.js'
import type { Database, Param, Query, Queryable } from '../db/database.js'
import * as csrf from '../http/csrf.js'
import * as signing from '../request/sign-in.js'
import * as verbs from '../request/verbs.js'
import * as current from '../request/with-session.js'
import * as background from '../store/cleanup.js'
import type { Session, SessionStore } from '../store/contract.js'
import { bodyTask, lifted, liftedOption, orThrowNow } from './sql.js'

/** Loads the session that a token opens (`undefined` if it opens none). With `keys`, loads only these keys. */
export const loadSession = liftedOption(verbs.loadSession)

/** Stores the edits since the load, and returns the session as saved. */
export const saveSession = lifted(verbs.saveSession)

/** Reads the session again, and keeps its unsaved edits. */
export const refreshSession = lifted(verbs.refreshSession)

/** Loads further keys of a session that was loaded without them, and keeps the session's unsaved edits. */
export const loadKeys = (...keys: KeyNames) => lifted(verbs.loadKeys(...keys))

/** Replaces the session's secret, so that the session has a new token. */
export const rotateSession = lifted(verbs.rotateSession)

/** Deletes the session with all its rows. */
export const destroySession = lifted(verbs.destroySession)

/**
 * Runs `fn` with `session` as the current session, then saves `session` once. Rejects with the error that `fn` throws.
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

/** Passes `session` to `f`, which returns a value and a session to save. Returns this value and the saved session. */
export const callWithSession = <A>(
  session: Session,
  f: (session: Session) => readonly [A, Session] | Promise<readonly [A, Session]>,
): Promise<readonly [A, Session]> =>
  orThrow(current.callWithSession(session, (given) => TE.fromTask(async () => f(given))))

/**
 * Returns the current session.
 *
 * @throws `NoCurrentSession` if there is none, and `SessionClosed` if the request has ended or its response has begun
 */
export const currentSession = (): Promise<Session> => orThrowNow(current.sessionHere)

/** Calls `f` with the current session. The result of `f` becomes the current session, and is returned. */
export const updateCurrentSession = (f: (session: Session) => Session): Promise<Session> =>
  orThrowNow(() => current.updatedHere(f))

/** Loads more keys of the current session, and returns the session. */
export const loadCurrentKeys = (...keys: KeyNames): Promise<Session> =>
  orThrow(verbs.loadCurrentKeys(...keys))

/** Signs a user in: sets the principal and lifetime (default: the store's) of the current session, and rotates it. */
export const signIn = lifted((principal: string, options?: signing.SignInOptions) =>
  signing.signIn(principal, options),
)

/** Signs the user out by destroying the current session. The adapter then clears the session's cookie. */
export const signOut = (): Promise<void> => orThrow(signing.signOut)

/**
 * Destroys the current session, and replaces it by a new session without values. Edits of this request that are not saved
 * yet are dropped.
 *
 * @throws `TypeError` in a transaction of the session's database, and while a flow of the session is answered.
 * `NoCurrentSession`, `SessionClosed`
 */
export const resetSession = (): Promise<Session> => orThrow(signing.resetSession)

/** Returns a CSRF token of the current session, for a form. `verifyCsrf` checks this token. */
export const csrfToken = (): Promise<string> => orThrow(signing.csrfToken)

/**
 * Checks that a request with an unsafe method comes from a page of this site. `Sec-Fetch-Site` decides, or without it
 * `Origin`: a same-origin request passes, and a cross-site request fails. Any other request needs the current session's
 * `csrfToken`, as `field` or in the header `X-CSRF-Token`. If the check fails, rejects with `RequestRejected` (403).
 */
export const verifyCsrf = lifted(csrf.verifyCsrf)

/** Returns what the browser of the current request has proved about the session: `proven`, `unproven` or `unbound`. */
export const currentProof = (): Promise<proofs.Proof> => orThrow(proofs.currentProof)

/** Rejects with `ProofRequired` if the current session is bound to a browser that did not prove that it has the key. */
export const requireProof = (): Promise<void> => orThrow(proofs.requireProof)

/** Adds a message to the current session, for the next page that shows messages. */
export const flash = (kind: string, text: string): Promise<Session> => orThrow(signing.flash(kind, text))

/** Returns the flash messages of the current session, and removes them. A prefetch of a page does not remove them. */
export const takeFlashes = (): Promise<readonly Flash[]> => orThrow(signing.takeFlashes)

/** Returns the live sessions of a principal, the newest first. The result has ids and times, but no tokens. */
export const sessionsOf = lifted(signing.sessionsOf)

/** Destroys a principal's sessions: all, all but `except`, or just `only`. Returns the ids of the destroyed ones. */
export const destroySessionsOf = lifted(signing.destroySessionsOf)

/** Ends the oldest sessions of a principal, so that at most `most` are left. Returns the ids of the ended sessions. */
export const limitSessionsOf = lifted(signing.limitSessionsOf)

/** Deletes expired sessions with all their rows. */
export const deleteExpiredSessions = lifted(background.deleteExpiredSessions)

/** A cleanup that runs in the background until it is stopped. */
export interface Cleanup {
  readonly stop: () => Promise<void>
}

/** Deletes expired sessions in the background, at intervals. The cleanup does not keep the process alive. */
export const startCleanup = (store: SessionStore, options?: background.CleanupOptions): Cleanup =>
  background.startCleanup(store, options)

/** Creates or upgrades the tables of a store. A call at the start of the program detects a failure early. */
export const prepareStore = (store: SessionStore): Promise<void> => orThrow(store.prepare)

/** Closes the database's connections. */
export const closeDatabase = (database: Database): Promise<void> => orThrow(database.close)

/** Runs one statement, and returns its rows. */
export const queryDatabase = lifted((database: Queryable, query: Query, params: readonly Param[]) =>
  database.query(query, params),
)

type Reader<B> = <H>(session: SessionValue<H>) => B
type Editor = <H>(session: SessionValue<H>) => SessionValue<H>

/** Returns a key's value. If there is none or the codec rejects it, returns the fallback (default: `undefined`). */
export function sessionRef<K extends DeclaredKey>(key: K): Reader<DeepReadonly<DataOf<K>> | undefined>
export function sessionRef<K extends DeclaredKey>(
  key: K,
  fallback: NoInfer<DeepReadonly<DataOf<K>>>,
): Reader<DeepReadonly<DataOf<K>>>
export function sessionRef(key: string): Reader<Json | undefined>
export function sessionRef<A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined>
export function sessionRef<B>(key: string, fallback: B): Reader<Json | B>
export function sessionRef<A>(key: SessionKey<A>, fallback: NoInfer<DeepReadonly<A>>): Reader<DeepReadonly<A>>
export function sessionRef<A, B>(key: SessionKey<A>, fallback: B): Reader<DeepReadonly<A> | B>
export function sessionRef(key: string | SessionKey<unknown>, fallback?: unknown): Reader<unknown> {
  return values.sessionRef(key as string, fallback)
}

/** Returns a typed key's value, or `undefined` if there is none. Throws a `DecodeError` if the codec rejects it. */
export const sessionRefStrict =
  <A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined> =>
  (session) =>
    O.toUndefined(given(values.sessionRefStrict(key)(session)))

/**
 * Calls `f` with the value of a key, and sets the key to the result. If the key has no value, `f` gets the fallback
 * (default: `undefined`). If another request changes the key before the save, `f` runs again on the newer value.
 */
export function sessionUpdate<K extends DeclaredKey>(
  key: K,
  f: (value: DeepReadonly<DataOf<K>> | undefined) => NoInfer<DeepReadonly<DataOf<K>>>,
): Editor
export function sessionUpdate<K extends DeclaredKey>(
  key: K,
  f: (value: DeepReadonly<DataOf<K>>) => NoInfer<DeepReadonly<DataOf<K>>>,
  fallback: NoInfer<DeepReadonly<DataOf<K>>>,
): Editor
export function sessionUpdate<K extends string>(
  key: UndeclaredKey<K>,
  f: (value: Json | undefined) => Json,
): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A> | undefined) => NoInfer<A | DeepReadonly<A>>,
): Editor
export function sessionUpdate<K extends string>(
  key: UndeclaredKey<K>,
  f: (value: Json) => Json,
  fallback: Json,
): Editor
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
