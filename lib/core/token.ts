// The credential of a session: its public id and a 256-bit secret, written `id.secret` in a cookie. A store gets the
// id and the hash of the secret, never the secret. Printing a token shows neither.

import crypto, { createHash, createHmac, randomBytes, randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import { O } from './prelude.cjs'

/** 32 random bytes as 43 characters of base64url. */
export const randomSecret = (): string => randomBytes(32).toString('base64url')

let bits: Buffer = Buffer.alloc(0)

/** 64 random bits as 16 hexadecimal digits. They are drawn in bulk, so they are no secret. */
export const randomBits64 = (): string => {
  if (bits.length === 0) bits = randomBytes(4096)
  const drawn = bits.toString('hex', 0, 8)
  bits = bits.subarray(8)
  return drawn
}

declare const sessionId: unique symbol

/** The id of a session: public, meaningless, fit for logs. It is no credential. */
export type SessionId = string & { readonly [sessionId]: true }

declare const secretHash: unique symbol

/** The SHA-256 of a secret as 64 hexadecimal digits. A store gets nothing else of it. */
export type SecretHash = string & { readonly [secretHash]: true }

export class Token {
  readonly #secret: string

  private constructor(
    readonly id: SessionId,
    secret: string,
    /** All tokens of one session share this object. It holds what became of a session that was built here. */
    readonly origin: object,
  ) {
    this.#secret = secret
    Object.freeze(this)
  }

  static fresh(id: SessionId): Token {
    return new Token(id, randomSecret(), {})
  }

  /** A token of the same session with a new secret. */
  next(): Token {
    return new Token(this.id, randomSecret(), this.origin)
  }

  /** Returns `None` for any text that is not exactly a token, so that a malformed one costs no query. */
  static parse(text: string): O.Option<Token> {
    const match = TOKEN.exec(text)
    return match === null ? O.none : O.some(new Token(match[1] as SessionId, match[2] as string, {}))
  }

  get hash(): SecretHash {
    return sha256(this.#secret) as SecretHash
  }

  /** Derives 256 bits from the secret, different for each purpose. */
  derived(purpose: string): Buffer {
    return createHmac('sha256', this.#secret).update(`keyrow ${purpose}`).digest()
  }

  /** Returns the credential, for the cookie and nothing else. */
  reveal(): string {
    return `${this.id}.${this.#secret}`
  }

  toString(): string {
    return `[token of ${this.id}]`
  }

  toJSON(): string {
    return this.toString()
  }

  /** @internal */
  [inspect.custom](): string {
    return this.toString()
  }
}

// One call takes a third of the time. Node.js has it since 20.12.
const sha256 = (text: string): string =>
  (crypto as Partial<typeof crypto>).hash?.('sha256', text, 'hex') ??
  createHash('sha256').update(text).digest('hex')

// 43 characters of base64url hold 258 bits. The two spare bits of the last one must be zero.
const TOKEN =
  /^([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])$/

declare const saveId: unique symbol

/** 64 random bits in hexadecimal. A store keeps those of the last saves, so that a repeated save is done once. */
export type IdempotencyKey = string & { readonly [saveId]: true }

export const newIdempotencyKey = (): IdempotencyKey => randomBits64() as IdempotencyKey

export const freshId = (): SessionId => randomUUID() as string as SessionId

// Ids that a store recognizes as its own. Of their 122 random bits the last 40 are a tag: an HMAC of the other 82 with
// a key that is stored beside the sessions. They are UUIDs of version 4 like any other.
/**
 * The origin of an id. `own`: this store made it; its session may have ended. `foreign`: this store did not make it,
 * so it has no such session. `unknown`: the store cannot tell.
 */
export type IdOrigin = 'own' | 'foreign' | 'unknown'

export interface Ids {
  readonly fresh: () => SessionId
  readonly originOf: (id: SessionId) => IdOrigin
}

const tagged = (key: string, id: SessionId): SessionId => {
  const random = id.slice(0, -10)
  const tag = createHmac('sha256', key).update(`keyrow id ${random}`).digest('hex')
  return `${random}${tag.slice(0, 10)}` as SessionId
}

export type VerifiableIds = ReturnType<typeof verifiableIds>

/** Ids of a store that reads its key later. Until then each origin is `unknown`. */
export const verifiableIds = () => {
  let [key, until]: [string | undefined, number] = [undefined, 0]
  return {
    /** Ids from before there was a key have no tag; they may live for `untaggedMs` more. */
    learn: (learned: string, untaggedMs: number): void => {
      key = learned
      until = performance.now() + untaggedMs
    },
    fresh: (): SessionId => (key === undefined ? freshId() : tagged(key, freshId())),
    originOf: (id: SessionId): IdOrigin => {
      if (key === undefined) return 'unknown'
      if (tagged(key, id) === id) return 'own'
      return performance.now() < until ? 'unknown' : 'foreign'
    },
  }
}
