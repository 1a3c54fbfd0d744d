// Reading a session again: what changed since, or keys that it was loaded without.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import { NoCurrentSession, type SessionClosed, type SessionError, SessionGone } from '../base/errors.js'
import { shared } from '../base/shared.js'
import type { Session } from '../port/session-store.js'
import { type KeyNames, type Keys, keysOf, narrowed } from '../session/known.js'
import { heldSession, knows, type Snapshot } from '../session/session.js'
import { type Frame, lookAt } from './frame.js'
import { currentFrame, told } from './scope.js'
import { telling } from './telling.js'

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
  told(session, O.isNone(session.snapshot) ? TE.right(session) : read(session.snapshot.value))

const reread = (
  session: Session,
  known: Snapshot,
  operation: 'refresh' | 'fetch',
  keys: Keys | undefined,
): TE.TaskEither<StoreError | SessionGone, Session> =>
  pipe(
    telling(operation, session.handle.refresh(session.id, known, keys)),
    TE.chainW(TE.fromOption(() => new SessionGone(session.id))),
    TE.map((snapshot) => heldSession(session.handle, session.token, narrowed(snapshot, keys), session.edits)),
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
 * import { buildSession, loadSession, saveSession, sessionFetch, sessionRef, sessionSet, sessionToken } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const basket = pipe(
 *   saveSession(pipe(buildSession(store), sessionSet('user', 'ada'), sessionSet('basket', ['tea']))),
 *   TE.chainW((session) => loadSession(store, sessionToken(session), { keys: ['user'] })),
 *   TE.chainW(TE.fromOption(() => new Error('it has ended'))),
 *   TE.chainW(sessionFetch('basket')),
 *   TE.map(sessionRef('basket', [])),
 * )
 * console.log(await basket()) // { _tag: 'Right', right: [ 'tea' ] }
 * ```
 */
export const sessionFetch =
  (...keys: KeyNames) =>
  (session: Session): Read =>
    ifStored(session, (known) => fetched(session, known, keysOf(keys)))

const fetched = (session: Session, known: Snapshot, wanted: Keys): Read =>
  wanted.every((key) => knows(session, key))
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
 * import { buildSession, fetchCurrentSession, sessionRef, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(fetchCurrentSession('basket'), TE.map(sessionRef('basket', []))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: [] }
 * ```
 */
export const fetchCurrentSession =
  (...keys: KeyNames): TE.TaskEither<SessionError, Session> =>
  () => {
    const frame = currentFrame()
    return frame === undefined
      ? Promise.resolve(E.left(new NoCurrentSession()))
      : afterOthers(frame, () =>
          pipe(
            sessionFetch(...keys)(lookAt(frame)),
            TE.map(() => frame.session),
          )(),
        )
  }

/** Tasks that wait for their frame's fetches before them. */
const latest = shared('fetches:1', () => new WeakMap<Frame, Promise<unknown>>())

const afterOthers = <A>(frame: Frame, act: () => Promise<A>): Promise<A> => {
  const done = (latest.get(frame) ?? Promise.resolve()).then(act)
  latest.set(
    frame,
    done.catch(() => undefined),
  )
  return done
}
