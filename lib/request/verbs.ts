// Defines the operations on a session through its store. Each operation is a task. If a scope around the running code
// contains the session, the operation updates that scope. So the scope does not save the same edits again.

import { noEdits } from '../core/edits.js'
import {
  NoCurrentSession,
  type ProofRequired,
  type SaveConflict,
  type SessionClosed,
  type SessionError,
  SessionGone,
  type StoreError,
} from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import {
  isLoaded,
  type KeyNames,
  type Keys,
  keysOf,
  newSession,
  pick,
  type Snapshot,
  storedSession,
  withToken,
} from '../core/session.js'
import { type IdOrigin, type SessionId, Token } from '../core/token.js'
import { type Absence, onceCommitted, type Session, type SessionStore } from '../store/contract.js'
import { isObserved, publish, publishFailure, publishing } from '../store/events.js'
import { currentScope, guarded, syncDestroyed } from './current-scope.js'
import { isPassive, lookAt, type Scope, unprovenReason } from './scope.js'
import { endBirth, mayBeStored, storeSession } from './store-session.js'

/**
 * Builds a new session, which is only in memory until its first save. A session without values is never stored.
 *
 * @example
 * ```ts
 * import { buildSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = buildSession(memoryStore())
 * console.log(session.expiration._tag, session.store.size) // None 0
 * ```
 */
export const buildSession = (store: SessionStore): Session =>
  newSession(store, store.ids && Token.fresh(store.ids.fresh()))

export interface LoadOptions {
  /**
   * The keys to load in addition to keyrow's own keys. Other keys can be set, deleted and updated, but not read before
   * `loadKeys`. Default: all keys.
   */
  readonly keys?: KeyNames | undefined
}

/**
 * Loads the session of a token with one statement. The result is `None` for a token that is unknown, expired or
 * malformed. A malformed token costs no query. With `keys`, the cost does not depend on the session's other keys.
 *
 * @example
 * ```ts
 * import { loadSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * console.log(await loadSession(memoryStore(), 'no token')()) // { _tag: 'Right', right: { _tag: 'None' } }
 * ```
 */
export const loadSession = (
  store: SessionStore,
  token: string,
  options: LoadOptions = {},
): TE.TaskEither<StoreError, O.Option<Session>> => {
  const open = openSession(store, token, options)
  return () => open().then(found)
}

const found = <L, A>(opened: E.Either<L, E.Either<unknown, A>>): E.Either<L, O.Option<A>> => {
  if (E.isLeft(opened)) return opened
  return E.isLeft(opened.right) ? NOTHING : E.right(O.some(opened.right.right))
}

const NOTHING = E.right(O.none) as E.Right<O.None>

/** Loads the session of a token, or returns the reason why the token opens no session. */
export const openSession = (
  store: SessionStore,
  token: string,
  options: LoadOptions = {},
): TE.TaskEither<StoreError, E.Either<Absence | 'malformed', Session>> => {
  const parsed = Token.parse(token)
  const keys = options.keys && keysOf(options.keys)
  return () => (O.isSome(parsed) ? opened(store, parsed.value, keys) : Promise.resolve(malformed()))
}

const malformed = () => {
  publish('badToken', { reason: 'malformed' })
  return MALFORMED
}

const MALFORMED = E.right(E.left('malformed' as const))

// This function is not `async`, since `async` costs a microsecond in each call.
const opened = (
  store: SessionStore,
  token: Token,
  keys: Keys | undefined,
): Promise<E.Either<StoreError, E.Either<Absence, Session>>> => {
  const start = performance.now()
  return store
    .load(token.id, token.hash, { keys })()
    .then((answer) => {
      const loaded = only(keys, answer)
      if (E.isLeft(loaded)) {
        publishFailure('load', loaded.left)
        return loaded
      }
      publishLoaded(token.id, loaded.right, start)
      return E.isLeft(loaded.right)
        ? E.right(loaded.right)
        : E.right(E.right(storedSession(store, token, loaded.right.right, noEdits)))
    })
}

/** Returns the origin of the id in a token. The origin of a malformed token is `foreign`. */
export const originOf = ({ ids }: SessionStore, token: string): IdOrigin => {
  const parsed = Token.parse(token)
  if (O.isNone(parsed)) return 'foreign'
  return ids?.originOf(parsed.value.id) ?? 'unknown'
}

/** Publishes the event `badToken` for a token that the guard blocks without a load. */
export const publishUnopened = (token: string): void => {
  const parsed = Token.parse(token)
  if (O.isSome(parsed)) publish('badToken', { reason: 'unknown', id: parsed.value.id })
  else malformed()
}

type Loaded = E.Either<StoreError, E.Either<Absence, Snapshot>>

// A store may return more keys than requested. The other keys are dropped, so that a program that requests too few keys
// fails in its tests.
const only = (keys: Keys | undefined, loaded: Loaded): Loaded =>
  keys === undefined || E.isLeft(loaded) || E.isLeft(loaded.right)
    ? loaded
    : E.right(E.right(pick(loaded.right.right, keys)))

const publishLoaded = (id: SessionId, found: E.Either<Absence, Snapshot>, start: number): void => {
  if (E.isLeft(found)) {
    if (found.left === 'expired') publish('expired', { id })
    else publish('badToken', { reason: 'unknown', id })
  } else if (isObserved('loaded')) {
    const durationMs = performance.now() - start
    publish('loaded', { id, entries: found.right.entries.size, durationMs })
  }
}

/**
 * Stores the edits since the load with one statement, and returns the saved session. Without edits, only the expiration
 * is stored, if a touch is due.
 *
 * @throws as a `Left`: `SessionGone` for a session that was destroyed or has expired, `SaveConflict` for a new session
 * that was saved before, `SessionClosed` if the session's request has ended, or `ProofRequired` in a request that may only
 * read the session
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const saved = pipe(
 *   saveSession(sessionSet('theme', 'dark')(buildSession(memoryStore()))),
 *   TE.map((session) => session.edits.size),
 * )
 * console.log(await saved()) // { _tag: 'Right', right: 0 }
 * ```
 */
export const saveSession = (
  session: Session,
): TE.TaskEither<StoreError | SessionGone | SessionClosed | SaveConflict | ProofRequired, Session> =>
  guarded(session, storeSession(session))

/**
 * Replaces the session's secret. The session keeps its id, rows and unsaved edits. The old token stops working after
 * the store's `rotationGraceMs`. Rotate at each sign-in and change of privilege.
 *
 * @throws as a `Left`: `SaveConflict` if another rotation came first, `SessionGone`, `SessionClosed`, or `ProofRequired`
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, rotateSession, saveSession, sessionSet, sessionToken } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const before = sessionSet('user', 'ada')(buildSession(memoryStore()))
 * const rotated = pipe(saveSession(before), TE.chainW(rotateSession))
 * console.log(await pipe(rotated, TE.map((after) => sessionToken(after) === sessionToken(before)))()) // { _tag: 'Right', right: false }
 * ```
 */
export const rotateSession = (
  session: Session,
): TE.TaskEither<StoreError | SessionGone | SessionClosed | SaveConflict | ProofRequired, Session> =>
  guarded(session, rotate(session))

const rotate = (session: Session): TE.TaskEither<StoreError | SessionGone | SaveConflict, Session> =>
  pipe(
    TE.fromIO(() => session.token.next()),
    TE.chainFirst(
      (token): TE.TaskEither<StoreError | SessionGone | SaveConflict, void> =>
        O.isNone(session.snapshot)
          ? TE.right(undefined)
          : publishing(
              'rotate',
              session.handle.rotate(session.id, session.token.hash, token.hash),
              (_, durationMs) =>
                onceCommitted(session.handle, () => publish('rotated', { id: session.id, durationMs })),
            ),
    ),
    TE.map((token) => withToken(session, token)),
  )

/**
 * Deletes the session with all its rows. A later save of the session fails with `SessionGone`. A second destruction has
 * no effect.
 *
 * @throws as a `Left`: `ProofRequired` in a request that may only read the session
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, destroySession, saveSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const ended = pipe(
 *   saveSession(sessionSet('user', 'ada')(buildSession(memoryStore()))),
 *   TE.chainFirstW(destroySession),
 *   TE.map(sessionSet('user', 'bob')),
 *   TE.chainW(saveSession),
 * )
 * console.log((await ended())._tag) // Left
 * ```
 */
export const destroySession =
  (session: Session): TE.TaskEither<StoreError | ProofRequired, void> =>
  () => {
    const reason = unprovenReason(session)
    return reason === undefined ? destroy(session)() : Promise.resolve(E.left(reason))
  }

const destroy = (session: Session): TE.TaskEither<StoreError, void> =>
  pipe(
    TE.fromIO(() => endBirth(session)),
    TE.chain(() =>
      mayBeStored(session)
        ? publishing('destroy', session.handle.destroy(session.id), (_, durationMs) =>
            onceCommitted(session.handle, () => publish('destroyed', { id: session.id, durationMs })),
          )
        : TE.right(undefined),
    ),
    TE.chainFirstIOK(() => () => syncDestroyed(session)),
  )

/**
 * Returns the session's credential, for its cookie. Never log it. It is valid after the first save.
 *
 * @example
 * ```ts
 * import { buildSession, sessionToken } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * console.log(sessionToken(buildSession(memoryStore())).length) // 80
 * ```
 */
export const sessionToken = (session: Session): string => session.token.reveal()

type Read = TE.TaskEither<StoreError | SessionGone | SessionClosed | ProofRequired, Session>

/**
 * Reads the session again, keeps its unsaved edits, and extends the expiration if a touch is due. A session that was
 * never saved is returned unchanged. If the session was loaded with `keys`, only those keys are read.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, refreshSession, saveSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const refreshed = pipe(
 *   saveSession(sessionSet('theme', 'dark')(buildSession(memoryStore()))),
 *   TE.map(sessionSet('language', 'en')),
 *   TE.chainW(refreshSession),
 *   TE.map((session) => [session.store.size, session.edits.size]),
 * )
 * console.log(await refreshed()) // { _tag: 'Right', right: [ 2, 1 ] }
 * ```
 */
export const refreshSession = (session: Session): Read =>
  ifStored(session, (known) => reread(session, known, 'refresh', known.keys))

const ifStored = (session: Session, read: (known: Snapshot) => Read): Read =>
  guarded(session, O.isNone(session.snapshot) ? TE.right(session) : read(session.snapshot.value), 'read')

const reread = (
  session: Session,
  known: Snapshot,
  operation: 'refresh' | 'loadKeys',
  keys: Keys | undefined,
): TE.TaskEither<StoreError | SessionGone, Session> =>
  pipe(
    publishing(operation, session.handle.refresh(session.id, known, keys, !isPassive(session))),
    TE.chainW(TE.fromOption(() => new SessionGone(session.id))),
    TE.map((snapshot) => storedSession(session.handle, session.token, pick(snapshot, keys), session.edits)),
  )

/**
 * Returns a function that loads further keys of a session, and keeps its unsaved edits. If all these keys are already
 * loaded, no statement is sent. Otherwise one statement reads these keys and the saved changes of other requests.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, loadSession, saveSession, loadKeys, sessionRef, sessionSet, sessionToken } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const basket = pipe(
 *   saveSession(pipe(buildSession(store), sessionSet('user', 'ada'), sessionSet('basket', ['tea']))),
 *   TE.chainW((session) => loadSession(store, sessionToken(session), { keys: ['user'] })),
 *   TE.chainW(TE.fromOption(() => new Error('it has ended'))),
 *   TE.chainW(loadKeys('basket')),
 *   TE.map(sessionRef('basket', [])),
 * )
 * console.log(await basket()) // { _tag: 'Right', right: [ 'tea' ] }
 * ```
 */
export const loadKeys =
  (...keys: KeyNames) =>
  (session: Session): Read =>
    ifStored(session, (known) => fetched(session, known, keysOf(keys)))

const fetched = (session: Session, known: Snapshot, wanted: Keys): Read =>
  wanted.every((key) => isLoaded(session, key))
    ? TE.right(session)
    : reread(session, known, 'loadKeys', known.keys?.union(wanted))

/**
 * Loads further keys of the current session and returns the session. Concurrent calls run one after the other.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, loadCurrentKeys, sessionRef, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(loadCurrentKeys('basket'), TE.map(sessionRef('basket', []))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: [] }
 * ```
 */
export const loadCurrentKeys =
  (...keys: KeyNames): TE.TaskEither<SessionError, Session> =>
  () => {
    const scope = currentScope()
    return scope === undefined
      ? Promise.resolve(E.left(new NoCurrentSession()))
      : afterOthers(scope, () =>
          pipe(
            loadKeys(...keys)(lookAt(scope)),
            TE.map(() => scope.session),
          )(),
        )
  }

const afterOthers = <A>(scope: Scope, act: () => Promise<A>): Promise<A> => {
  const result = (scope.loading ?? Promise.resolve()).then(act)
  scope.loading = result.catch(() => undefined)
  return result
}
