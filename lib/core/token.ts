// Defines the credential of a session: its public id and a 256-bit secret, written as `id.secret` in a cookie. A store
// gets the id and the hash of the secret, never the secret. Printing a token shows neither the secret nor its hash.

import crypto, { createHash, createHmac, randomBytes, randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import { O } from './prelude.cjs'

/** Returns 32 random bytes as 43 characters of base64url. */
export const randomSecret = (): string => randomBytes(32).toString('base64url')

let pool: Buffer = Buffer.alloc(0)

/** Returns some random bytes. Never use them as a secret: the bytes of later calls are in memory already. */
export const pooledBytes = (count: number): Buffer => {
  if (pool.length < count) pool = randomBytes(4096)
  const drawn = pool.subarray(0, count)
  pool = pool.subarray(count)
  return drawn
}

/** Returns 64 random bits in hexadecimal. Never use them as a secret. */
export const randomBits64 = (): string => pooledBytes(8).toString('hex')

declare const sessionId: unique symbol

/** The public id of a session. It has no meaning, may be logged, and is not a credential. */
export type SessionId = string & { readonly [sessionId]: true }

declare const secretHash: unique symbol

/** The SHA-256 of a secret as 64 hexadecimal digits. A store gets only this hash of the secret. */
export type SecretHash = string & { readonly [secretHash]: true }

export class Token {
  readonly #secret: string
  #hash: SecretHash | undefined

  private constructor(
    readonly id: SessionId,
    secret: string,
    /** A token and the result of `next` share this object. It tells current-scope.ts whether the session was stored. */
    readonly origin: object,
  ) {
    this.#secret = secret
    Object.freeze(this)
  }

  static fresh(id: SessionId): Token {
    return new Token(id, randomSecret(), {})
  }

  /** Returns a token of the same session with a new secret. */
  next(): Token {
    return new Token(this.id, randomSecret(), this.origin)
  }

  /** Parses a token. The result is `None` for a malformed token, so keyrow sends no query for such a token. */
  static parse(text: string): O.Option<Token> {
    const match = TOKEN.exec(text)
    return match === null ? O.none : O.some(new Token(match[1] as SessionId, match[2] as string, {}))
  }

  get hash(): SecretHash {
    this.#hash ??= sha256(this.#secret) as SecretHash
    return this.#hash
  }

  /** Derives 256 bits from the secret. The bits are different for each purpose. */
  derived(purpose: string): Buffer {
    return createHmac('sha256', this.#secret).update(`keyrow ${purpose}`).digest()
  }

  /** Returns the string that gives access to the session. Use this string only in the cookie. */
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

/** Returns the SHA-256 of a text in hexadecimal. */
// `crypto.hash` takes a third of the time of `createHash`, but needs Node.js 20.12.
export const sha256 = (text: string): string =>
  (crypto as Partial<typeof crypto>).hash?.('sha256', text, 'hex') ??
  createHash('sha256').update(text).digest('hex')

// 43 characters of base64url have 258 bits. The two spare bits of the last character must be zero.
const TOKEN =
  /^([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])$/

declare const saveId: unique symbol

/** 64 random bits that identify a save. A store keeps the bits of recent saves, to recognise a repeated save. */
export type IdempotencyKey = string & { readonly [saveId]: true }

export const newIdempotencyKey = (): IdempotencyKey => randomBits64() as IdempotencyKey

export const freshId = (): SessionId => randomUUID() as string as SessionId

// A store recognises its own session ids by a tag. An id has 82 random bits and a tag of 40 bits. The tag is an HMAC of
// the random bits, with a key that the store keeps in the database. An id with a tag is still a UUID of version 4.
/**
 * The origin of an id. `own`: this store made the id, but the session may have ended. `foreign`: this store did not
 * make the id, so no session of this store has the id. `unknown`: the store cannot decide.
 */
export type IdOrigin = 'own' | 'foreign' | 'unknown'

export interface Ids {
  readonly fresh: () => SessionId
  readonly originOf: (id: SessionId) => IdOrigin
  /** Returns 256 bits that only processes with the key of this store can make. They are different for each text. */
  readonly authenticate?: (text: string) => Buffer
}

const tagged = (key: string, id: SessionId): SessionId => {
  const random = id.slice(0, -10)
  const tag = createHmac('sha256', key).update(`keyrow id ${random}`).digest('hex')
  return `${random}${tag.slice(0, 10)}` as SessionId
}

export type VerifiableIds = ReturnType<typeof verifiableIds>

/** Makes ids with tags. Before `learn` has set the key of the tags, the origin of each id is `unknown`. */
export const verifiableIds = () => {
  let [key, until]: [string | undefined, number] = [undefined, 0]
  return {
    /** Sets the key. For the next `untaggedMs` ms, an untagged id is `unknown`: the id may be older than the key. */
    learn: (learned: string, untaggedMs: number): void => {
      key = learned
      until = performance.now() + untaggedMs
    },
    fresh: (): SessionId => (key === undefined ? freshId() : tagged(key, freshId())),
    // Before the key is known, no text is authentic.
    authenticate: (text: string): Buffer =>
      createHmac('sha256', key ?? randomSecret())
        .update(`keyrow text ${text}`)
        .digest(),
    originOf: (id: SessionId): IdOrigin => {
      if (key === undefined) return 'unknown'
      if (tagged(key, id) === id) return 'own'
      return performance.now() < until ? 'unknown' : 'foreign'
    },
  }
}
