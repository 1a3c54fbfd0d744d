// Whose session it is: an entry like any other, which stores also keep a listing of.
import * as t from 'io-ts'
import { OWN, type SessionKey, sessionKey } from './key.js'
import type { SessionValue } from './session.js'
import { sessionSet } from './values.js'

/** The entry's key. */
export const PRINCIPAL = OWN.principal

const isPrincipal = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= 1024

const Principal = new t.Type<string>(
  'string of 1 to 1,024 bytes',
  isPrincipal,
  (value, context) => (isPrincipal(value) ? t.success(value) : t.failure(value, context)),
  t.identity,
)

/**
 * The key under which a session says whose it is. `sessionDel(sessionPrincipal)` makes it nobody's.
 *
 * @example
 * ```ts
 * import { buildSession, sessionFor, sessionPrincipal, sessionRef } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionFor('ada')(buildSession(memoryStore()))
 * console.log(sessionRef(sessionPrincipal, 'nobody')(session)) // ada
 * ```
 */
export const sessionPrincipal: SessionKey<string> = sessionKey(PRINCIPAL, Principal)

/**
 * Says whose session it is: a user's id, or whatever tells one party from another. `sessionsOf` then lists it,
 * and `endSessions` ends it. Do this at sign-in, with `rotateSession`.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionFor, sessionsOf } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const mine = pipe(
 *   saveSession(sessionFor('ada')(buildSession(store))),
 *   TE.chainW(() => sessionsOf(store, 'ada')),
 * )
 * console.log(await pipe(mine, TE.map((sessions) => sessions.length))()) // { _tag: 'Right', right: 1 }
 * ```
 */
export const sessionFor = (principal: string): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionSet(sessionPrincipal, principal)
