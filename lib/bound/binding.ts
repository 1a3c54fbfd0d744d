// Defines what binds a session to a browser: the browser's public key, which is one key of the session, and texts that are
// authenticated for one session until a time. Such a text is a challenge, or the value of the bound cookie. So neither a
// challenge nor a refresh of the cookie is stored. The key of the authentication is the store's key of verifiable ids, which
// is in the database. It is in no cookie, and in no value of a session.

import { timingSafeEqual } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { OWN, type SessionKey, sessionKey } from '../core/key.js'
import { t } from '../core/prelude.cjs'
import { randomBits64 } from '../core/token.js'
import { sessionRef } from '../core/values.js'
import type { Session, SessionStore } from '../store/contract.js'
import { PublicJwk } from './proof-token.js'

/** The public key of the browser to which a session is bound. */
export const boundKey = sessionKey(
  OWN.bound,
  t.readonly(
    t.type({
      /** Identifies the registration. */
      id: t.string,
      algorithm: t.union([t.literal('ES256'), t.literal('RS256')]),
      jwk: PublicJwk,
      /** The time of the registration in milliseconds since 1970. */
      at: t.number,
    }),
  ),
)

export type BoundKey = typeof boundKey extends SessionKey<infer A> ? A : never

export const newBoundKey = (key: Omit<BoundKey, 'id'>): BoundKey => ({ ...key, id: randomBits64() })

/** Returns the key to which a session is bound, or `undefined`. */
export const boundKeyOf = (session: Session): BoundKey | undefined =>
  session.store.has(OWN.bound) ? sessionRef(boundKey, undefined)(session) : undefined

/** The registration of a key. */
export type Registration = Pick<BoundKey, 'id' | 'at'>

/** Returns the registration of the key of a session, without the cost of decoding the key. */
export const registrationOf = (session: Session): Registration | undefined => {
  const value = session.store.get(OWN.bound) as Partial<Registration> | undefined
  return typeof value?.id === 'string' && typeof value.at === 'number' ? (value as Registration) : undefined
}

/** Returns the present time by the store's clock, as far as it is known. */
export const timeOf = ({ clock = Date.now }: SessionStore): number => clock()

/** The maximum time in milliseconds for which a challenge can be signed. */
export const CHALLENGE_MS = 120_000

/**
 * Returns the end of a new challenge. All challenges of one minute are the same. Chromium limits the number of its signatures,
 * and keeps the signature of a challenge that it gets again.
 */
export const challengeEnd = (session: Session): number =>
  (Math.floor(timeOf(session.handle) / (CHALLENGE_MS / 2)) + 2) * (CHALLENGE_MS / 2)

/** What an authenticated text is for. A text for one purpose, or for one session, is not valid for another. */
type Purpose = 'register' | 'refresh' | `cookie ${string}`

/** Makes a text that `expiryOf` accepts. A thief of the cookies cannot make it, since the key is known to the store only. */
export const authenticatedText = (session: Session, purpose: Purpose, expiresAt: number): string => {
  const expires = Math.floor(expiresAt).toString(36)
  const mac = session.handle.ids?.authenticate?.(`bound ${purpose} ${session.id} ${expires}`)
  return `${expires}.${mac?.toString('base64url') ?? ''}`
}

/** Returns the time until which a text is valid for the session, or `undefined` if no process of the store has made it. */
export const expiryOf = (session: Session, purpose: Purpose, text: string): number | undefined => {
  const expires = /^([0-9a-z]{1,9})\.[\w-]{43}$/.exec(text)?.[1]
  if (expires === undefined) return undefined
  const expiresAt = Number.parseInt(expires, 36)
  const [given, own] = [Buffer.from(text), Buffer.from(authenticatedText(session, purpose, expiresAt))]
  return given.length === own.length && timingSafeEqual(given, own) ? expiresAt : undefined
}

/** The purpose of the bound cookie. A new registration makes the cookies of an earlier one invalid. */
export const cookieOf = ({ id }: Registration): Purpose => `cookie ${id}`

/** Bound cookies that were verified. A browser sends a cookie again for some minutes. */
const verified = new LRUCache<
  string,
  { readonly session: string; readonly id: string; readonly expiresAt: number }
>({
  max: 10_000,
})

/** Returns the time until which a bound cookie is valid, or `undefined` if it does not belong to the registration. */
export const cookieExpiry = (
  session: Session,
  registration: Registration,
  text: string,
): number | undefined => {
  const { id } = registration
  const known = verified.get(text)
  if (known?.session === session.id && known.id === id) return known.expiresAt
  const expiresAt = expiryOf(session, cookieOf(registration), text)
  if (expiresAt !== undefined) verified.set(text, { session: session.id, id, expiresAt })
  return expiresAt
}
