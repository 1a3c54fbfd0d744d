// What is done to a session through its store: the effects, each a task that does nothing until it runs.
// A session that is current somewhere around us is told what became of it, so that its frame goes on from
// there instead of saving the same edits again.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { noEdits } from '../core/edits.js'
import {
  NoCurrentSession,
  type SaveConflict,
  type SessionClosed,
  type SessionError,
  SessionGone,
  type StoreError,
} from '../core/errors.js'
import { shared } from '../core/process.js'
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
import type { Absence, Session, SessionStore } from '../store/contract.js'
import { publish, publishing, publishOutcome } from '../store/events.js'
import { onceCommitted } from '../store/in-transaction.js'
import { currentScope, guarded, syncDestroyed } from './current-scope.js'
import { endBirth, mayBeStored, storeSession } from './save.js'
import { lookAt, type Scope } from './scope.js'

/**
 * A new session, in memory until its first save; a session without values is never stored.
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
   * Only these keys are read (and keyrow's own); others may be set, deleted and updated, but are not seen before
   * `loadKeys`. Default: all.
   */
  readonly keys?: KeyNames | undefined
}

/**
 * The session that a token opens. `None` for a token that is malformed (which costs no query), unknown or
 * expired: such a token is simply no session. One statement. With `keys` it costs what is in those, however much
 * else the session holds.
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
  return async () => {
    const opened = await open()
    if (E.isLeft(opened)) return opened
    return E.isLeft(opened.right) ? NOTHING : E.right(O.some(opened.right.right))
  }
}

const NOTHING = E.right(O.none) as E.Right<O.None>

/** The session that a token opens, or why it opens none. */
export const openSession = (
  store: SessionStore,
  token: string,
  options: LoadOptions = {},
): TE.TaskEither<StoreError, E.Either<Absence | 'malformed', Session>> => {
  const parsed = Token.parse(token)
  const keys = options.keys && keysOf(options.keys)
  return () => (O.isSome(parsed) ? opened(store, parsed.value, keys) : Promise.resolve(failure()))
}

const failure = () => {
  publish('badToken', { reason: 'malformed' })
  return MALFORMED
}

const MALFORMED = E.right(E.left('malformed' as const))

const opened = async (
  store: SessionStore,
  token: Token,
  keys: Keys | undefined,
): Promise<E.Either<StoreError, E.Either<Absence, Session>>> => {
  const start = performance.now()
  const loaded = only(keys, await store.load(token.id, token.hash, { keys })())
  publishOutcome('load', start, loaded, publishLoaded(token.id))
  if (E.isLeft(loaded)) return loaded
  if (E.isLeft(loaded.right)) return E.right(loaded.right)
  return E.right(E.right(storedSession(store, token, loaded.right.right, noEdits)))
}

/** Who made the id of a token: `foreign` when it is no token at all. */
export const originOf = ({ ids }: SessionStore, token: string): IdOrigin => {
  const parsed = Token.parse(token)
  if (O.isNone(parsed)) return 'foreign'
  return ids?.originOf(parsed.value.id) ?? 'unknown'
}

/** Publishes that a token was shown which is not looked up. */
export const publishUnopened = (token: string): void => {
  const parsed = Token.parse(token)
  if (O.isSome(parsed)) publish('badToken', { reason: 'unknown', id: parsed.value.id })
  else failure()
}

type Loaded = E.Either<StoreError, E.Either<Absence, Snapshot>>

// What is read is what was asked for, also where a store has more at hand: so that a program that asks for too little
// finds out in its first specs.
const only = (keys: Keys | undefined, loaded: Loaded): Loaded =>
  keys === undefined || E.isLeft(loaded) || E.isLeft(loaded.right)
    ? loaded
    : E.right(E.right(pick(loaded.right.right, keys)))

const publishLoaded =
  (id: SessionId) =>
  (found: E.Either<Absence, Snapshot>, durationMs: number): void => {
    if (E.isRight(found)) publish('loaded', { id, entries: found.right.entries.size, durationMs })
    else if (found.left === 'expired') publish('expired', { id })
    else publish('badToken', { reason: 'unknown', id })
  }

/**
 * Stores what was edited since the load, and gives the session as saved. One statement, or none when
 * nothing changed and the expiration need not move yet. `SessionGone` when it was destroyed or has expired:
 * then nothing is stored. `SaveConflict` when a new session was saved twice. `SessionClosed` when the request
 * that the session came from has ended.
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
): TE.TaskEither<StoreError | SessionGone | SessionClosed | SaveConflict, Session> =>
  guarded(session, storeSession(session))

/**
 * Gives the session a new secret; its id, rows and unsaved edits stay, and the old token opens nothing any
 * more (unless the store has a grace). Do this at every sign-in and change of privilege. Of several
 * rotations at once one wins; the others get `SaveConflict`.
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
): TE.TaskEither<StoreError | SessionGone | SessionClosed | SaveConflict, Session> =>
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
 * Deletes the session with all its rows. It is never written again: a later save fails with `SessionGone`.
 * Destroying what is gone already is no error.
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
export const destroySession = (session: Session): TE.TaskEither<StoreError, void> =>
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
 * The session's credential, for its cookie and nothing else: never log it. It opens the session once that
 * has been saved.
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

// Reading a session again: what changed since, or keys that it was loaded without.

type Read = TE.TaskEither<StoreError | SessionGone | SessionClosed, Session>

/**
 * Reads the rows again, keeps the unsaved edits on top, and moves the expiration forward if that is due.
 * A session that was never saved comes back as it is; of one that was loaded with `keys` it reads those.
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

/** Of a session that was never saved there is nothing to read. */
const ifStored = (session: Session, read: (known: Snapshot) => Read): Read =>
  guarded(session, O.isNone(session.snapshot) ? TE.right(session) : read(session.snapshot.value))

const reread = (
  session: Session,
  known: Snapshot,
  operation: 'refresh' | 'fetch',
  keys: Keys | undefined,
): TE.TaskEither<StoreError | SessionGone, Session> =>
  pipe(
    publishing(operation, session.handle.refresh(session.id, known, keys)),
    TE.chainW(TE.fromOption(() => new SessionGone(session.id))),
    TE.map((snapshot) => storedSession(session.handle, session.token, pick(snapshot, keys), session.edits)),
  )

/**
 * The session with these keys known as well, where it was loaded without them; the unsaved edits stay on top. One
 * statement, or none when all of them are known. All that is known afterwards is of one moment: what other requests
 * saved since the load is read along, as by `refreshSession`.
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
    : reread(session, known, 'fetch', known.keys?.union(wanted))

/**
 * Reads keys that the current session was loaded without; gives the current session, which knows them from now on.
 * Several at once go one after the other, so that each adds to what is known.
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

/** Tasks that wait for their frame's fetches before them. */
const latest = shared('fetches:1', () => new WeakMap<Scope, Promise<unknown>>())

const afterOthers = <A>(scope: Scope, act: () => Promise<A>): Promise<A> => {
  const done = (latest.get(scope) ?? Promise.resolve()).then(act)
  latest.set(
    scope,
    done.catch(() => undefined),
  )
  return done
}
