// Answers the two requests with which a browser binds a session: the registration of its key, and the refresh of the bound
// cookie. The statuses are those that Chromium 156 understands. A 403 with a challenge makes it sign the challenge. A 404 and
// a 403 without a challenge end the binding in the browser. An error with a status of 5xx keeps it.

import { isDeepStrictEqual } from 'node:util'
import { ProofRequired, type SessionError } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { sessionUpdate } from '../core/values.js'
import { saveSession } from '../request/verbs.js'
import { sessionHere, updateCurrentSession } from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import { type ProofRefusal, publish } from '../store/events.js'
import {
  authenticatedText,
  type BoundKey,
  boundKey,
  boundKeyOf,
  CHALLENGE_MS,
  challengeEnd,
  expiryOf,
  newBoundKey,
  timeOf,
} from './binding.js'
import { isSignedBy, type Proof, parseProof, publicKeyOf } from './proof-token.js'

export interface BindingRequest {
  /** The header `Secure-Session-Response`. */
  readonly proof: string | undefined
  /** The header `Sec-Secure-Session-Id`. */
  readonly id: string | undefined
}

export interface BindingReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** The reply, and the key that the browser has proved to have. The reply gets the bound cookie of this key. */
export interface BindingResult {
  readonly reply: BindingReply
  readonly proven?: BoundKey
}

/** Returns the JSON that tells the browser how to refresh which cookie. */
export type Instructions = (session: Session) => string

type Answer = TE.TaskEither<SessionError, BindingResult>

const empty = (status: number, headers: Readonly<Record<string, string>> = {}): BindingReply => ({
  status,
  headers: { ...headers, 'Cache-Control': 'no-store' },
  body: '',
})

const accepted = (instructions: Instructions, session: Session, proven: BoundKey): BindingResult => ({
  reply: {
    status: 200,
    headers: { 'Content-Type': 'application/json; charset=utf-8', 'Cache-Control': 'no-store' },
    body: instructions(session),
  },
  proven,
})

const refusing = (session: Session, reason: ProofRefusal, reply: BindingReply): E.Right<BindingResult> => {
  const { id, snapshot } = session
  publish('proofRefused', { ...(O.isSome(snapshot) ? { id } : {}), reason })
  return E.right({ reply }) as E.Right<BindingResult>
}

/** Returns the value of the header `Secure-Session-Challenge`. */
export const challengeFor = (session: Session): string =>
  `"${authenticatedText(session, 'refresh', challengeEnd(session))}";id="${session.id}"`

/** Returns the challenge of a registration. */
export const registrationChallenge = (session: Session): string =>
  authenticatedText(session, 'register', challengeEnd(session))

/** The clock of another process may be ahead by this time. */
const AHEAD_MS = 10_000

const isSignable = (session: Session, purpose: 'register' | 'refresh', { challenge }: Proof): boolean => {
  const expiresAt = expiryOf(session, purpose, challenge) ?? 0
  const now = timeOf(session.handle)
  return expiresAt >= now && expiresAt <= now + CHALLENGE_MS + AHEAD_MS
}

/**
 * Binds the current session to the key of the browser. A session is bound only once. If the response to a registration was
 * lost, the browser may register the same key again while its challenge is valid.
 */
export const register =
  ({ proof }: BindingRequest, instructions: Instructions): Answer =>
  async () => {
    const current = sessionHere()
    if (E.isLeft(current)) return current
    const session = current.right
    const forbidden = (reason: ProofRefusal) => refusing(session, reason, empty(403))
    if (O.isNone(session.snapshot)) return forbidden('noSession')
    if (proof === undefined) return forbidden('noProof')
    const registration = registrationIn(session, proof)
    if (E.isLeft(registration)) return forbidden(registration.left)
    const present = boundKeyOf(session)
    if (present === undefined) return bind(session, registration.right, instructions)()
    return isDeepStrictEqual(present.jwk, registration.right.jwk)
      ? E.right(accepted(instructions, session, present))
      : forbidden('alreadyBound')
  }

/** Returns the key of a valid registration. */
const registrationIn = (session: Session, text: string): E.Either<ProofRefusal, BoundKey> =>
  pipe(
    E.Do,
    E.bind('proof', () => parseProof(text)),
    E.bind('jwk', ({ proof }) => publicKeyOf(proof)),
    E.filterOrElse(
      ({ proof, jwk }) => isSignedBy(proof, proof.algorithm, jwk),
      (): ProofRefusal => 'signature',
    ),
    E.filterOrElse(
      ({ proof }) => isSignable(session, 'register', proof),
      (): ProofRefusal => 'challenge',
    ),
    E.map(({ proof, jwk }) => newBoundKey({ algorithm: proof.algorithm, jwk, at: timeOf(session.handle) })),
  )

const bind = (session: Session, key: BoundKey, instructions: Instructions): Answer => {
  // If another registration was first, the save fails.
  const unlessBound = (present: O.Option<unknown>): BoundKey => {
    if (O.isSome(present)) throw new ProofRequired(session.id)
    return key
  }
  return pipe(
    updateCurrentSession(sessionUpdate(boundKey, unlessBound)),
    TE.chainW(saveSession),
    TE.map(() => {
      publish('deviceBound', { id: session.id, algorithm: key.algorithm })
      return accepted(instructions, session, key)
    }),
  )
}

/** Renews the proof of a bound session. Nothing is stored. A challenge can be signed again while it is valid. */
export const refresh =
  ({ proof, id }: BindingRequest, instructions: Instructions): Answer =>
  () => {
    const current = sessionHere()
    if (E.isLeft(current)) return Promise.resolve(current)
    const session = current.right
    const key = boundKeyOf(session)
    return Promise.resolve(
      key === undefined || unquoted(id) !== session.id
        ? refusing(session, 'noSession', empty(404))
        : refreshed(session, key, proof, instructions),
    )
  }

const unquoted = (text = ''): string => text.replace(/^"(.*)"$/, '$1')

const refreshed = (
  session: Session,
  key: BoundKey,
  proof: string | undefined,
  instructions: Instructions,
): E.Right<BindingResult> => {
  const ask = (): BindingReply => empty(403, { 'Secure-Session-Challenge': challengeFor(session) })
  if (proof === undefined) return E.right({ reply: ask() }) as E.Right<BindingResult>
  const parsed = parseProof(proof)
  if (E.isLeft(parsed)) return refusing(session, parsed.left, empty(403))
  if (!isSignedBy(parsed.right, key.algorithm, key.jwk))
    return refusing(session, parsed.right.algorithm === key.algorithm ? 'signature' : 'algorithm', empty(403))
  // The challenge may be too old. The browser gets a new one.
  if (!isSignable(session, 'refresh', parsed.right)) return refusing(session, 'challenge', ask())
  publish('proofRefreshed', { id: session.id })
  return E.right(accepted(instructions, session, key)) as E.Right<BindingResult>
}
