// Reads and verifies the proofs that browsers send: JSON Web Tokens of the W3C draft "Device Bound Session Credentials", as
// Chromium 156 makes them. Only the two algorithms of the draft are accepted, and only tokens in their shortest encoding, so
// that a changed proof is never a valid one.

import { createPublicKey, type KeyObject, verify } from 'node:crypto'
import { E, O, t } from '../core/prelude.cjs'
import type { ProofRefusal } from '../store/events.js'

export type ProofAlgorithm = 'ES256' | 'RS256'

/** The algorithms that a browser may choose from, as the registration header names them. */
export const ALGORITHMS = '(ES256 RS256)'

/** The maximum length of a proof. A proof of a 4,096-bit RSA key has about 2,300 characters. */
const MAX_LENGTH = 4096

export interface Proof {
  readonly algorithm: ProofAlgorithm
  /** The public key, which only the proof of a registration has. */
  readonly jwk: unknown
  /** The challenge of the server that the browser has signed. */
  readonly challenge: string
  readonly signed: string
  readonly signature: Buffer
}

const algorithm = t.union([t.literal('ES256'), t.literal('RS256')])
// The member `crit` would name extensions that a verifier must understand. There are none.
const header = t.intersection([
  t.type({ typ: t.literal('dbsc+jwt'), alg: t.string }),
  t.partial({ jwk: t.unknown, crit: t.undefined }),
])
const payload = t.type({ jti: t.string })

type Refused = E.Either<ProofRefusal, never>
const refused = (reason: ProofRefusal): Refused => E.left(reason)

/** Reads a proof without verifying its signature. Newer browsers may send the proof as a quoted string. */
export const parseProof = (text: string): E.Either<ProofRefusal, Proof> => {
  if (text.length > MAX_LENGTH) return refused('malformed')
  const match = /^(?:"(.*)"|(.*))$/.exec(text)
  const parts = (match?.[1] ?? match?.[2] ?? '').split('.')
  const [head, body, last] = parts.map(bytesIn)
  if (parts.length !== 3 || head === undefined || body === undefined || last === undefined)
    return refused('malformed')
  const [found, claims] = [header.decode(jsonIn(head)), payload.decode(jsonIn(body))]
  if (E.isLeft(found) || E.isLeft(claims)) return refused('malformed')
  const { alg, jwk } = found.right
  if (!algorithm.is(alg)) return refused('algorithm')
  const signed = `${parts[0] ?? ''}.${parts[1] ?? ''}`
  return E.right({ algorithm: alg, jwk, challenge: claims.right.jti, signed, signature: last })
}

/** Returns the bytes of base64url, or `undefined` if another text would be the encoding of the same bytes. */
const bytesIn = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, 'base64url')
  return text !== '' && bytes.toString('base64url') === text ? bytes : undefined
}

const jsonIn = (bytes: Buffer): unknown => {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    return undefined
  }
}

/** The public key of a browser, with the members of a JSON Web Key that its algorithm needs. */
export const PublicJwk = t.union([
  t.readonly(t.type({ kty: t.literal('EC'), crv: t.literal('P-256'), x: t.string, y: t.string })),
  t.readonly(t.type({ kty: t.literal('RSA'), n: t.string, e: t.literal('AQAB') })),
])
export type PublicJwk = t.TypeOf<typeof PublicJwk>

const RSA_BITS = { min: 2048, max: 4096 }

/** Returns the public key of a registration. Other members of the key are left out. */
export const publicKeyOf = ({ algorithm, jwk }: Proof): E.Either<ProofRefusal, PublicJwk> => {
  const decoded = PublicJwk.decode(jwk)
  if (E.isLeft(decoded)) return refused('key')
  const key: PublicJwk =
    decoded.right.kty === 'EC'
      ? { kty: 'EC', crv: 'P-256', x: decoded.right.x, y: decoded.right.y }
      : { kty: 'RSA', n: decoded.right.n, e: 'AQAB' }
  const opened = keyObjectOf(key)
  if (O.isNone(opened) || (key.kty === 'EC') !== (algorithm === 'ES256')) return refused('key')
  const { modulusLength } = opened.value.asymmetricKeyDetails ?? {}
  const isLong =
    modulusLength === undefined || (modulusLength >= RSA_BITS.min && modulusLength <= RSA_BITS.max)
  return isLong ? E.right(key) : refused('key')
}

/** The point of an EC key may not be on the curve. Node.js throws an error for such a key. */
const keyObjectOf = (key: PublicJwk): O.Option<KeyObject> =>
  O.tryCatch(() => createPublicKey({ key: { ...key }, format: 'jwk' }))

/** Whether the key has signed the proof. The algorithm is the one of the registration, whatever the proof says. */
export const isSignedBy = (
  { algorithm, signed, signature }: Proof,
  pinned: ProofAlgorithm,
  jwk: PublicJwk,
): boolean => {
  const key = algorithm === pinned ? keyObjectOf(jwk) : O.none
  return (
    O.isSome(key) &&
    verify('sha256', Buffer.from(signed), { key: key.value, dsaEncoding: 'ieee-p1363' }, signature)
  )
}
