// Signs in and out, makes CSRF tokens, handles flash messages, and lists and ends the sessions of a principal.

import { randomBytes } from 'node:crypto'
import {
  NoCurrentSession,
  ProofRequired,
  SessionClosed,
  type SessionError,
  type StoreError,
} from '../core/errors.js'
import { nameOf, OWN } from '../core/key.js'
import { numberOption } from '../core/options.js'
import { A, E, flow, identity, O, pipe, TE } from '../core/prelude.cjs'
import type { KeyNames } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import { sessionDel, sessionRef, sessionSetAnew } from '../core/values.js'
import {
  type Device,
  type Flash,
  type OwnLifetime,
  ownLifetimeKey,
  principalOf,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionSignedIn,
  withEntries,
} from '../core/well-known-keys.js'
import {
  checkedLifetime,
  type Listed,
  onceCommitted,
  type Session,
  type SessionStore,
  type Which,
} from '../store/contract.js'
import { publish, publishing } from '../store/events.js'
import { currentScope, syncEnded } from './current-scope.js'
import { beginAnew, currentRequest, isSameStore, lookAt, readOnlyHere } from './scope.js'
import { buildSession, destroySession, refreshSession, rotateSession } from './verbs.js'
import { currentSession, orSessionError, updateCurrentSession } from './with-session.js'

export interface SignInOptions {
  /** The session's own lifetime in milliseconds. Default: the store's lifetime. */
  readonly lifetime?: OwnLifetime | undefined
  /**
   * The keys whose values stay. With this option the current session is destroyed, and a new session takes its place, with
   * the values of these keys only. Default: the session stays, with all its values.
   */
  readonly keep?: KeyNames | undefined
  /**
   * A description of the user's device for `sessionsOf`, or `true` for the `User-Agent` and the network of the current
   * request. Default: nothing is stored.
   */
  readonly device?: Device | true | undefined
}

/**
 * Signs the current session in. `signIn` sets the session's principal and rotates its secret. The old token stops
 * working after the store's `rotationGraceMs`. The session keeps its values, unless `keep` says which of them stay.
 *
 * With `lifetime` ("remember me"), the session gets a lifetime of its own, and its cookie stays after the browser is
 * closed. A later sign-in without `lifetime` restores the store's lifetime.
 *
 * @throws `RangeError` for times outside of 1 ms to 10,000 years, `EncodeError` (as a `Left`) for an invalid principal,
 * `KeyNotLoaded` for a key of `keep` that was not loaded
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, sessionPrincipal, sessionRef, signIn, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const day = 86_400_000
 * const lifetime = { idleMs: 14 * day, absoluteMs: 60 * day }
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(signIn('user 17', { lifetime }), TE.map(sessionRef(sessionPrincipal, 'none'))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: 'user 17' }
 * ```
 */
export const signIn = (
  principal: string,
  { lifetime, keep, device }: SignInOptions = {},
): TE.TaskEither<SessionError, Session> => {
  const own = lifetime && checkedLifetime(lifetime)
  const edit = (session: Session): Session =>
    pipe(
      sessionSignedIn(principal, device === true ? currentRequest()?.device() : device)(session),
      unboundUnlessProven,
      own ? sessionSetAnew(ownLifetimeKey, own) : sessionDel(ownLifetimeKey),
    )
  return async () => {
    const session = await currentSession()
    if (E.isLeft(session)) return session
    // A rotation or a reset cannot be undone, so a principal that cannot be stored must fail before. If the rotation fails,
    // the session must not have the principal, since somebody else may know its secret. So the edit is only tested here.
    const possible = orSessionError(() => edit(session.right))
    if (E.isLeft(possible)) return possible
    const values = keep === undefined ? await rotated(session.right)() : await replaced(session.right, keep)()
    if (E.isLeft(values)) return values
    return updateCurrentSession(flow(values.right, edit))()
  }
}

/** A browser that has not proved to have the key of the session may register its own key after the sign-in. */
const unboundUnlessProven: Edit = (session) => {
  const { id, isProven } = currentRequest()?.proof ?? {}
  const stays = !session.store.has(OWN.bound) || (isProven === true && id === session.id)
  return stays ? session : sessionDel(OWN.bound)(session)
}

type Edit = (session: Session) => Session

const rotated = (session: Session): TE.TaskEither<SessionError, Edit> =>
  TE.map((): Edit => identity)(rotateSession(session))

/** Puts a new session into the place of the current one. Returns the edit that sets the values of these keys. */
const replaced = (session: Session, keep: KeyNames): TE.TaskEither<SessionError, Edit> =>
  pipe(
    // Another request may have changed the values since the load.
    refreshSession(session),
    TE.chainW((fresh) => TE.fromEither(orSessionError(() => kept(fresh, keep)))),
    TE.chainW((values) =>
      pipe(
        resetSession,
        TE.map((): Edit => withEntries(values)),
      ),
    ),
  )

/** Returns the values of these keys. */
const kept = (session: Session, keys: KeyNames): Session['store'] => {
  const names = keys.map(nameOf).filter((name) => O.isSome(sessionRef(name)(session)))
  return session.store.filter((_, name) => names.includes(name))
}

/**
 * Signs out by destroying the current session. The adapter then clears the session's cookie. `resetSession` begins a new
 * session as well.
 *
 * @example
 * ```ts
 * import { buildSession, signOut, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () => signOut)
 * console.log((await request())._tag) // Right
 * ```
 */
export const signOut: TE.TaskEither<StoreError | NoCurrentSession | SessionClosed | ProofRequired, void> =
  pipe(currentSession, TE.chainW(destroySession))

/**
 * Destroys the current session, and replaces it by a new session without values, which is stored if the request sets a
 * value. So a page after a sign-out can show a message. Edits of this request that are not saved yet are dropped. If the
 * session has ended already, for example by `signOut`, only the new session begins.
 *
 * @throws `TypeError` in a transaction of the session's database, and while a flow of the session is answered.
 * `NoCurrentSession`, `SessionClosed` (as a `Left`)
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, flash, resetSession, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(resetSession, TE.chainW(() => flash('info', 'Goodbye.')), TE.map(({ store }) => store.size)),
 * )
 * console.log(await request()) // { _tag: 'Right', right: 1 }
 * ```
 */
export const resetSession: TE.TaskEither<
  StoreError | NoCurrentSession | SessionClosed | ProofRequired,
  Session
> = async () => {
  const scope = currentScope()
  if (scope === undefined) return E.left(new NoCurrentSession())
  const { session, ended, state } = scope
  if (ended) return E.left(new SessionClosed(session.id))
  if (session.handle.transactionScope !== undefined)
    throw new TypeError(
      'resetSession: end the transaction first, since a rollback would bring the session back',
    )
  if (scope.answers > 0)
    throw new TypeError(
      'resetSession: a flow of this session is answered, so reset the session at another URL',
    )
  const destroyed = state === 'open' ? await destroySession(session)() : E.right(undefined)
  if (E.isLeft(destroyed)) return destroyed
  if (scope.ended) return E.left(new SessionClosed(session.id))
  // A concurrent call may have begun the new session.
  if (scope.session.id === session.id) beginAnew(scope, buildSession(session.handle))
  return E.right(scope.session)
}

/** Returns the key of the session's CSRF tokens. The key is derived from the secret, so a rotation changes it. */
export const csrfKey = (session: Session): Buffer => session.token.derived('csrf')

/**
 * Returns a CSRF token of the current session, for a hidden field or the header `X-CSRF-Token` (see `verifyCsrf`). The
 * token has 86 characters, differs each time, and is valid until the session is rotated or ends. If the session is not
 * stored yet, the token is valid only if this request stores the session. Making a token stores nothing.
 *
 * @throws `NoCurrentSession`, `SessionClosed` (as a `Left`)
 *
 * @example
 * ```ts
 * import { buildSession, csrfToken, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () => csrfToken)
 * const token = await request()
 * console.log(token._tag === 'Right' && token.right.length) // 86
 * ```
 */
export const csrfToken: TE.TaskEither<NoCurrentSession | SessionClosed, string> = pipe(
  currentSession,
  TE.map((session) => masked(csrfKey(session))),
)

// An attacker could guess a constant token from the lengths of compressed responses (BREACH). So a random mask is used.
const masked = (key: Buffer): string => {
  const mask = randomBytes(key.length)
  return Buffer.concat([mask, key.map((byte, index) => byte ^ (mask[index] ?? 0))]).toString('base64url')
}

/**
 * Adds a message to the current session, for the next page that shows messages. The program chooses the `kind` of the
 * message, such as `info`.
 *
 * @throws `EncodeError` (as a `Left`) for text with U+0000
 *
 * @example
 * ```ts
 * import { buildSession, flash, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () => flash('info', 'Hi'))
 * console.log((await request())._tag) // Right
 * ```
 */
export const flash = (kind: string, text: string): TE.TaskEither<SessionError, Session> =>
  updateCurrentSession(sessionFlash(kind, text))

/**
 * Returns the current session's messages, and removes them from the session at the next save. A prefetch (`isPrefetch`)
 * does not remove the messages, since the page may never be shown. Neither does a request that may only read.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, flash, takeFlashes, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(flash('info', 'Saved.'), TE.chain(() => takeFlashes), TE.map((taken) => taken.map(({ text }) => text))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: [ 'Saved.' ] }
 * ```
 */
export const takeFlashes: TE.TaskEither<SessionError, readonly Flash[]> = pipe(
  currentSession,
  TE.map(sessionFlashes),
  TE.chainFirstW((shown) =>
    shown.length === 0 || currentRequest()?.isPassive === true
      ? TE.right(undefined)
      : updateCurrentSession(sessionClearFlashes(shown)),
  ),
)

/** One of a principal's sessions. */
export interface ListedSession extends Listed {
  readonly current: boolean
}

/**
 * Returns the live sessions of a principal, the newest first. The result has ids, times and the devices that `signIn` has
 * stored, but no tokens. Requests extend the expiration of a session not each time, so `lastSeen` may be older than the
 * last request, by the store's `touchFraction` of its idle time, and by more in the last idle time of the session.
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionFor, sessionsOf } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * await saveSession(sessionFor('ada')(buildSession(store)))()
 * const listed = await sessionsOf(store, 'ada')()
 * console.log(listed._tag === 'Right' && listed.right.map(({ current }) => current)) // [ false ]
 * ```
 */
export const sessionsOf = (
  store: SessionStore,
  principal: string,
): TE.TaskEither<StoreError, readonly ListedSession[]> =>
  publishing(
    'sessionsOf',
    pipe(
      store.sessionsOf(principal),
      TE.map(A.map((one) => ({ ...one, current: one.id === currentIn(store)?.id }))),
    ),
  )

/** Returns the current session, if it is one of this store. */
const currentIn = (store: SessionStore): Session | undefined => {
  const scope = currentScope()
  if (scope === undefined || scope.ended) return undefined
  const session = lookAt(scope)
  return isSameStore(session.handle, store) ? session : undefined
}

/**
 * Destroys all sessions of a principal, all but one, or only one, and returns the ids of the destroyed sessions. An id
 * of another principal's session has no effect. A later save of a destroyed session fails with `SessionGone`. A session
 * that is created concurrently may remain.
 *
 * @throws as a `Left`: `ProofRequired` in a request that may only read its session
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, destroySessionsOf, saveSession, sessionFor } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const ended = pipe(
 *   saveSession(sessionFor('ada')(buildSession(store))),
 *   TE.chainW(({ id }) => destroySessionsOf(store, 'ada', { except: id })),
 * )
 * console.log(await ended()) // { _tag: 'Right', right: [] }
 * ```
 */
export const destroySessionsOf = (
  store: SessionStore,
  principal: string,
  which: Which = {},
): TE.TaskEither<StoreError | ProofRequired, readonly SessionId[]> => {
  const ending = publishing('destroySessionsOf', store.endAll(principal, which), (ids, durationMs) => {
    onceCommitted(store, () => {
      for (const id of ids) publish('destroyed', { id, durationMs })
    })
    syncEnded(store, ids)
  })
  return async () => {
    const readOnly = readOnlyHere()
    return readOnly === undefined ? ending() : E.left(new ProofRequired(readOnly))
  }
}

/**
 * Ends the oldest sessions of a principal, so that at most `most` are left, and returns the ids of the ended sessions. The
 * current session counts if it is one of the principal's, and never ends. So call it after `signIn`. Two sign-ins at the
 * same moment may leave one session more, which the next call ends.
 *
 * @throws `RangeError` unless `most` is an integer from 1 on
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, limitSessionsOf, signIn, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const visit = withSession(buildSession(store), () =>
 *   pipe(signIn('ada'), TE.chainW(() => limitSessionsOf(store, 'ada', 1))),
 * )
 * console.log(await visit()) // { _tag: 'Right', right: [] }
 * ```
 */
export const limitSessionsOf = (
  store: SessionStore,
  principal: string,
  most: number,
): TE.TaskEither<StoreError | ProofRequired, readonly SessionId[]> => {
  const limit = numberOption('most', most, 1, 1e6, 'integer')
  return pipe(
    sessionsOf(store, principal),
    TE.map((listed) => {
      const others = listed.filter(({ current }) => !current)
      const isListed = others.length < listed.length
      return others.slice(isListed || isOfCurrent(store, principal) ? limit - 1 : limit)
    }),
    TE.chain(TE.traverseSeqArray(({ id }) => destroySessionsOf(store, principal, { only: id }))),
    TE.map(A.flatten),
  )
}

/** Whether the current session is one of the principal's, although it may not be stored yet. */
const isOfCurrent = (store: SessionStore, principal: string): boolean => {
  const session = currentIn(store)
  return session !== undefined && principalOf(session) === principal
}
