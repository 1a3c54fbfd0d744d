// Whose sessions there are, and ending them: "where am I signed in", "sign out everywhere".

import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import { publish } from '../port/events.js'
import type { Listed, SessionStore, Which } from '../port/session-store.js'
import type { SessionId } from '../session/token.js'
import { onceCommitted } from './commits.js'
import { isSameStore, lookAt } from './frame.js'
import { absorbEnded, currentFrame } from './scope.js'
import { telling } from './telling.js'

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
  telling(
    'sessionsOf',
    pipe(
      store.sessionsOf(principal),
      TE.map((sessions) => sessions.map((listed) => ({ ...listed, current: isCurrent(store, listed.id) }))),
    ),
  )

const isCurrent = (store: SessionStore, id: SessionId): boolean => {
  const frame = currentFrame()
  if (frame === undefined || frame.ended) return false
  const session = lookAt(frame)
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
 * import { buildSession, endSessions, saveSession, sessionFor } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const signIn = saveSession(sessionFor('ada')(buildSession(store)))
 * const ended = pipe(
 *   signIn,
 *   TE.chainW(({ id }) => endSessions(store, 'ada', { except: id })),
 *   TE.map((ids) => ids.length),
 * )
 * console.log(await ended()) // { _tag: 'Right', right: 0 }
 * ```
 */
export const endSessions = (
  store: SessionStore,
  principal: string,
  which: Which = {},
): TE.TaskEither<StoreError, readonly SessionId[]> =>
  telling('endSessions', store.endAll(principal, which), (ids, durationMs) => {
    onceCommitted(store, () => {
      for (const id of ids) publish('destroyed', { id, durationMs })
    })
    absorbEnded(store, ids)
  })
