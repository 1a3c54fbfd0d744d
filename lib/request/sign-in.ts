// Signing in and out, and the token that a form shows: what a program does with the current session at the
// edges of its life.
import { randomBytes } from 'node:crypto'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { NoCurrentSession, SessionClosed, SessionError, StoreError } from '../core/errors.js'
import type { SessionId } from '../core/token.js'
import { sessionDel, sessionSetAnew } from '../core/values.js'
import {
  type Flash,
  type OwnLifetime,
  ownLifetimeKey,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionFor,
} from '../core/well-known-keys.js'
import {
  checkedLifetime,
  type Listed,
  type Session,
  type SessionStore,
  type Which,
} from '../store/contract.js'
import { publish, publishing } from '../store/events.js'
import { onceCommitted } from '../store/in-transaction.js'
import { currentScope, syncEnded } from './current-scope.js'
import { currentRequest, isSameStore, lookAt } from './scope.js'
import { destroySession, rotateSession } from './verbs.js'
import { currentSession, updateCurrentSession } from './with-session.js'

export interface SignInOptions {
  /** How long this session lives, in milliseconds: unused, and at all from now on. Default: as the store says. */
  readonly lifetime?: OwnLifetime | undefined
}

/**
 * Signs the current session in: it gets a new secret, so that whoever knew the old one is left outside, and
 * says whose it is. What the visitor had in it stays.
 *
 * With `lifetime` ("remember me") the session has times of its own from now on instead of the store's, and its cookie
 * outlives the browser; a later sign-in without it gives it the store's again.
 *
 * @throws `RangeError` for times that are not from 1 ms to 10,000 years, at once; `EncodeError` for what cannot be a
 * principal
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, sessionPrincipal, sessionRef, signIn, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(signIn('user 17'), TE.map(sessionRef(sessionPrincipal, 'nobody'))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: 'user 17' }
 *
 * const day = 86_400_000
 * const remembered = signIn('user 17', { lifetime: { idleMs: 14 * day, absoluteMs: 60 * day } })
 * const later = withSession(buildSession(memoryStore()), () => remembered)
 * console.log((await later())._tag) // Right
 * ```
 */
export const signIn = (
  principal: string,
  { lifetime }: SignInOptions = {},
): TE.TaskEither<SessionError, Session> => {
  const own = lifetime && checkedLifetime(lifetime)
  return pipe(
    // Before the rotation, which is not undone: a principal that cannot be stored rotates nothing.
    updateCurrentSession(
      flow(sessionFor(principal), own ? sessionSetAnew(ownLifetimeKey, own) : sessionDel(ownLifetimeKey)),
    ),
    TE.chainW(rotateSession),
    TE.chainW(() => currentSession),
  )
}

/**
 * Signs out: deletes the current session with all that is in it, and has the door take its cookie away.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, signIn, signOut, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(signIn('user 17'), TE.chainW(() => signOut)),
 * )
 * console.log((await request())._tag) // Right
 * ```
 */
export const signOut: TE.TaskEither<StoreError | NoCurrentSession | SessionClosed, void> = pipe(
  currentSession,
  TE.chainW(destroySession),
)

/** What the forms of this session show, unmasked. Derived from its secret: another one after each rotation. */
export const csrfKey = (session: Session): Buffer => session.token.derived('csrf')

/**
 * The token that the current session's forms show, for a hidden field or for the header `X-CSRF-Token`; see
 * `verifyCsrf`. 86 characters, another text each time, all of them good until the session is rotated or ends. A
 * visitor without a session gets one of the same form, which is good only if this request stores something: the
 * token by itself makes no session, and no row.
 *
 * @throws `NoCurrentSession`
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

// A text that is the same in every compressed answer could be guessed by their lengths.
const masked = (key: Buffer): string => {
  const mask = randomBytes(key.length)
  return Buffer.concat([mask, key.map((byte, index) => byte ^ (mask[index] ?? 0))]).toString('base64url')
}

/**
 * Adds a message to the current session, for the next page that shows messages. `kind` is a name for its look, such
 * as `info`.
 *
 * @throws `EncodeError` for text with U+0000
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, flash, takeFlashes, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(flash('info', 'Hi'), TE.chain(() => takeFlashes)),
 * )
 * console.log(await request()) // { _tag: 'Right', right: [ { kind: 'info', text: 'Hi' } ] }
 * ```
 */
export const flash = (kind: string, text: string): TE.TaskEither<SessionError, Session> =>
  updateCurrentSession(sessionFlash(kind, text))

/**
 * The current session's messages, which are then shown: they are taken away when the request is saved. A request that
 * only fetches a page ahead (`isPrefetch`) shows them and keeps them, since perhaps nobody sees that page.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, sessionFlash, takeFlashes, updateCurrentSession, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(
 *     updateCurrentSession(sessionFlash('info', 'Saved.')),
 *     TE.chain(() => takeFlashes),
 *     TE.map((taken) => taken.map(({ text }) => text)),
 *   ),
 * )
 * console.log(await request()) // { _tag: 'Right', right: [ 'Saved.' ] }
 * ```
 */
export const takeFlashes: TE.TaskEither<SessionError, readonly Flash[]> = pipe(
  currentSession,
  TE.map(sessionFlashes),
  TE.chainFirstW((shown) =>
    shown.length === 0 || currentRequest()?.isPrefetch === true
      ? TE.right(undefined)
      : updateCurrentSession(sessionClearFlashes(shown)),
  ),
)

// Whose sessions there are, and ending them: "where am I signed in", "sign out everywhere".

/** One of a principal's sessions. */
export interface ListedSession extends Listed {
  /** Whether it is the current session. */
  readonly current: boolean
}

/**
 * The live sessions of a principal, the newest first: ids and times, never a token.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionFor, sessionsOf } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const listed = pipe(
 *   saveSession(sessionFor('ada')(buildSession(store))),
 *   TE.chainW(() => sessionsOf(store, 'ada')),
 *   TE.map((sessions) => sessions.map(({ current }) => current)),
 * )
 * console.log(await listed()) // { _tag: 'Right', right: [ false ] }
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
      TE.map((sessions) => sessions.map((listed) => ({ ...listed, current: isCurrent(store, listed.id) }))),
    ),
  )

const isCurrent = (store: SessionStore, id: SessionId): boolean => {
  const scope = currentScope()
  if (scope === undefined || scope.ended) return false
  const session = lookAt(scope)
  return session.id === id && isSameStore(session.handle, store)
}

/**
 * Destroys all sessions of a principal, all but one, or only one of them (an id that is somebody else's ends
 * nothing); gives the ids of those that it ended. They may be in use: whoever saves one later gets `SessionGone`. One that is created while this runs may stay.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, destroySessionsOf, saveSession, sessionFor } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const signIn = saveSession(sessionFor('ada')(buildSession(store)))
 * const ended = pipe(
 *   signIn,
 *   TE.chainW(({ id }) => destroySessionsOf(store, 'ada', { except: id })),
 *   TE.map((ids) => ids.length),
 * )
 * console.log(await ended()) // { _tag: 'Right', right: 0 }
 * ```
 */
export const destroySessionsOf = (
  store: SessionStore,
  principal: string,
  which: Which = {},
): TE.TaskEither<StoreError, readonly SessionId[]> =>
  publishing('destroySessionsOf', store.endAll(principal, which), (ids, durationMs) => {
    onceCommitted(store, () => {
      for (const id of ids) publish('destroyed', { id, durationMs })
    })
    syncEnded(store, ids)
  })
