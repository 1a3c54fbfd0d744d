// Tells the program whether the browser has proved that the current session is its own.

import { type NoCurrentSession, ProofRequired, type SessionClosed } from '../core/errors.js'
import { pipe, TE } from '../core/prelude.cjs'
import { currentRequest } from '../request/scope.js'
import { currentSession } from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import { publish } from '../store/events.js'
import { registrationOf } from './binding.js'

/**
 * What a request proves. `proven`: the browser has the key to which the session is bound. `unproven`: the session is bound,
 * and the browser has not proved that it has the key. `unbound`: the session is not bound to a key.
 */
export type Proof = 'proven' | 'unproven' | 'unbound'

const proofOf = (session: Session): Proof => {
  if (registrationOf(session) === undefined) return 'unbound'
  const proof = currentRequest()?.proof
  return proof?.id === session.id && proof.isProven ? 'proven' : 'unproven'
}

/**
 * Returns what the browser of the current request has proved: `proven`, `unproven` for a bound session whose browser did not
 * prove that it has the key, or `unbound`. Outside of a request, and in an adapter without the option `bound`, a bound session
 * is `unproven`. Most browsers do not know bound sessions, so `unbound` is no sign of an attack.
 *
 * @throws `NoCurrentSession`, `SessionClosed` (as a `Left`)
 *
 * @example
 * ```ts
 * import { buildSession, currentProof, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () => currentProof)
 * console.log(await request()) // { _tag: 'Right', right: 'unbound' }
 * ```
 */
export const currentProof: TE.TaskEither<NoCurrentSession | SessionClosed, Proof> = pipe(
  currentSession,
  TE.map(proofOf),
)

/**
 * Fails if the current session is bound to a browser, and this browser did not prove that the session is its own. Call it
 * before a critical action, for example in a request that the option `unproven` allows. A session that is not bound passes.
 *
 * @throws `ProofRequired` (403), `NoCurrentSession`, `SessionClosed` (as a `Left`)
 *
 * @example
 * ```ts
 * import { buildSession, requireProof, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () => requireProof)
 * console.log((await request())._tag) // Right
 * ```
 */
export const requireProof: TE.TaskEither<NoCurrentSession | SessionClosed | ProofRequired, void> = pipe(
  currentSession,
  TE.chainW((session) => {
    if (proofOf(session) !== 'unproven') return TE.right(undefined)
    publish('proofRefused', { id: session.id, reason: 'unproven' })
    return TE.left(new ProofRequired(session.id))
  }),
)
