// The credential of a session: its public id and a 256-bit secret, written `id.secret` in a cookie. Stores
// see the id and the secret's hash, never the secret. A token never shows itself when it is printed.
import crypto, { createHash, createHmac, randomBytes, randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import * as O from 'fp-ts/lib/Option.js'

// Randomness from the operating system: public ids, and secrets.

/** A random UUID (version 4, 122 random bits), in lower case. */
const randomId = (): string => randomUUID()

/** 32 random bytes (256 bits) as 43 characters of base64url. */
export const randomSecret = (): string => randomBytes(32).toString('base64url')

let bits: Buffer = Buffer.alloc(0)

/** 64 random bits as 16 hexadecimal digits. No secret: they come from a supply that is drawn all at once. */
export const randomBits64 = (): string => {
  if (bits.length === 0) bits = randomBytes(4096)
  const drawn = bits.toString('hex', 0, 8)
  bits = bits.subarray(8)
  return drawn
}

declare const sessionId: unique symbol

/** The id of a session: public, meaningless, fit for logs. It opens nothing. */
export type SessionId = string & { readonly [sessionId]: true }

declare const secretHash: unique symbol

/** The SHA-256 of a secret, as 64 hexadecimal digits: all that a store ever sees of it. */
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

  /** The same session with another secret. */
  next(): Token {
    return new Token(this.id, randomSecret(), this.origin)
  }

  /** `None` for whatever is not exactly a token; so a malformed one never costs a query. */
  static parse(text: string): O.Option<Token> {
    const match = TOKEN.exec(text)
    return match === null ? O.none : O.some(new Token(match[1] as SessionId, match[2] as string, {}))
  }

  get hash(): SecretHash {
    return sha256(this.#secret) as SecretHash
  }

  /** 256 bits that only whoever knows the secret can tell, other ones for each purpose. */
  derived(purpose: string): Buffer {
    return createHmac('sha256', this.#secret).update(`keyrow ${purpose}`).digest()
  }

  /** The credential itself, for the cookie and nothing else. */
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

// In one call a third of the time; Node.js has that from 20.12 on.
const sha256 = (text: string): string =>
  (crypto as Partial<typeof crypto>).hash?.('sha256', text, 'hex') ??
  createHash('sha256').update(text).digest('hex')

// 43 characters of base64url hold 258 bits; the last one's two spare bits must be zero.
const TOKEN =
  /^([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])$/

declare const saveId: unique symbol

/** 64 random bits in hexadecimal, which a store remembers for a while. */
export type IdempotencyKey = string & { readonly [saveId]: true }

export const newIdempotencyKey = (): IdempotencyKey => randomBits64() as IdempotencyKey

export const freshId = (): SessionId => randomId() as SessionId

// Ids that can be told from all others: of their 122 random bits the last 40 are a tag, an HMAC of the other 82 under
// a key that lives where the sessions live. They are UUIDs of version 4 like any other, and open nothing.

/**
 * Who made an id. `own`: this store, once, whether its session still lives or not. `foreign`: somebody else, and no
 * session that lives has it. `unknown`: that cannot be told.
 */
export type IdOrigin = 'own' | 'foreign' | 'unknown'

/** Makes ids, and knows them. */
export interface Ids {
  readonly fresh: () => SessionId
  readonly originOf: (id: SessionId) => IdOrigin
}

const TAG_DIGITS = 10

const tagged = (key: string, id: string): SessionId => {
  const random = id.slice(0, -TAG_DIGITS)
  const tag = createHmac('sha256', key).update(`keyrow id ${random}`).digest('hex')
  return `${random}${tag.slice(0, TAG_DIGITS)}` as SessionId
}

/** What a store knows of its ids: nothing until it has read the key. */
export interface VerifiableIds extends Ids {
  /** `untaggedMs`: for so long ids without a tag may still be alive, those that were made before there was a key. */
  readonly learn: (key: string, untaggedMs: number) => void
}

export const verifiableIds = (): VerifiableIds => {
  let [key, until]: [string | undefined, number] = [undefined, 0]
  return {
    learn: (learned, untaggedMs) => {
      key = learned
      until = performance.now() + untaggedMs
    },
    fresh: () => (key === undefined ? (randomId() as SessionId) : tagged(key, randomId())),
    originOf: (id) => {
      if (key === undefined) return 'unknown'
      if (tagged(key, id) === id) return 'own'
      return performance.now() < until ? 'unknown' : 'foreign'
    },
  }
}
