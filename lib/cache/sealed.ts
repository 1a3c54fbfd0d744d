// Encrypts values for a shared cache, and decrypts them. A value is authenticated together with its key, so the cache can
// neither read nor change it, nor return it for another key. Each process derives an encryption key of its own with a
// random salt, and another one after a million values. Each value has a random nonce. So one secret is safe for any number
// of values.

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Entries } from '../core/edits.js'
import { deepFreeze } from '../core/json.js'
import { E, HashMap, O, t } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import { type IdempotencyKey, pooledBytes, type SessionId } from '../core/token.js'

/** Encrypts and decrypts values. */
export interface Sealing {
  readonly seal: (key: string, text: string) => Uint8Array
  /** Returns `None` for bytes that were not sealed under this key by one of the secrets, or have another format. */
  readonly open: (key: string, bytes: Uint8Array) => O.Option<string>
}

// The layout of a sealed value: the format, a salt, a nonce, the tag of AES-GCM, and the encrypted text.
const FORMAT = 1
const SALT = { start: 1, end: 33 }
const NONCE = { start: 33, end: 45 }
const TAG = { start: 45, end: 61 }

const SECRET_BYTES = 32
const ALGORITHM = 'aes-256-gcm'

/** A salt is used for at most this many values, so that two values of a key hardly ever have the same nonce. */
const VALUES_PER_SALT = 1_000_000

/** The derivation of a key takes about as long as all the rest of a decryption. */
const MAX_KEYS = 200

/** Derives keys from a secret. The keys of the last salts are kept. */
const keysFrom = (secret: Uint8Array): ((salt: Uint8Array) => Uint8Array) => {
  const keys = new LRUCache<string, Uint8Array>({ max: MAX_KEYS })
  return (salt) => {
    const name = Buffer.from(salt.buffer, salt.byteOffset, salt.length).toString('latin1')
    const known = keys.get(name)
    if (known !== undefined) return known
    const key = new Uint8Array(hkdfSync('sha256', secret, salt, 'keyrow shared cache', 32))
    keys.set(name, key)
    return key
  }
}

/** Returns a function that returns the salt for the next value. */
const salts = (): (() => Uint8Array) => {
  let [salt, values] = [randomBytes(SALT.end - SALT.start), 0]
  return () => {
    values += 1
    if (values > VALUES_PER_SALT) [salt, values] = [randomBytes(SALT.end - SALT.start), 1]
    return salt
  }
}

const boundTo = (key: string): Uint8Array => Buffer.from(`${String(FORMAT)} ${key}`)

/**
 * Makes a `Sealing`. The first secret encrypts, and all of them decrypt.
 *
 * @throws `RangeError` unless there are secrets, each with 32 bytes
 */
export const sealingWith = (secrets: readonly Uint8Array[]): Sealing => {
  if (secrets.length === 0 || !secrets.every(isSecret))
    throw new RangeError(
      `secrets must be a list of byte arrays with ${String(SECRET_BYTES)} random bytes each`,
    )
  // The program may overwrite its own bytes afterwards.
  const own = secrets.map((secret) => keysFrom(Uint8Array.from(secret)))
  const nextSalt = salts()
  return {
    seal: (key, text) => encrypted(own[0] as KeyOf, nextSalt(), key, text),
    open: (key, bytes) => {
      if (bytes.length < TAG.end || bytes[0] !== FORMAT) return O.none
      for (const keyOf of own) {
        const text = decrypted(keyOf, key, bytes)
        if (text !== undefined) return O.some(text)
      }
      return O.none
    },
  }
}

const isSecret = (secret: unknown): boolean => secret instanceof Uint8Array && secret.length === SECRET_BYTES

type KeyOf = ReturnType<typeof keysFrom>

const encrypted = (keyOf: KeyOf, salt: Uint8Array, key: string, text: string): Uint8Array => {
  const nonce = pooledBytes(NONCE.end - NONCE.start)
  const cipher = createCipheriv(ALGORITHM, keyOf(salt), nonce).setAAD(boundTo(key))
  const data = [cipher.update(text, 'utf8'), cipher.final()]
  return Buffer.concat([Buffer.of(FORMAT), salt, nonce, cipher.getAuthTag(), ...data])
}

/** Returns `undefined` if the bytes are not authentic. */
const decrypted = (keyOf: KeyOf, key: string, bytes: Uint8Array): string | undefined => {
  const part = ({ start, end }: { readonly start: number; readonly end?: number }) =>
    bytes.subarray(start, end)
  const decipher = createDecipheriv(ALGORITHM, keyOf(part(SALT)), part(NONCE), {
    authTagLength: TAG.end - TAG.start,
  })
    .setAAD(boundTo(key))
    .setAuthTag(part(TAG))
  try {
    const data = [decipher.update(part({ start: TAG.end })), decipher.final()]
    return Buffer.concat(data).toString('utf8')
  } catch {
    return undefined
  }
}

// A copy has the entries of a session as JSON, encrypted for this session.

/** Encodes and decodes copies. */
export interface Copies {
  readonly encode: (id: SessionId, snapshot: Snapshot) => Uint8Array
  /** Returns `None` for bytes that are no copy of this session. */
  readonly decode: (id: SessionId, bytes: Uint8Array) => O.Option<Snapshot>
}

const Content = t.type({
  revision: t.number,
  versionTag: t.string,
  entries: t.array(t.tuple([t.string, t.unknown])),
})

/**
 * Makes the codec of copies. The first secret encodes, and all of them decode.
 *
 * @throws `RangeError` unless there are secrets, each with 32 bytes
 */
export const copiesWith = (secrets: readonly Uint8Array[]): Copies => {
  const { seal, open } = sealingWith(secrets)
  return {
    encode: (id, snapshot) => seal(`copy ${id}`, contentOf(snapshot)),
    decode: (id, bytes) => O.chain(snapshotOf)(open(`copy ${id}`, bytes)),
  }
}

const contentOf = ({ revision, versionTag, entries }: Snapshot): string =>
  JSON.stringify({ revision, versionTag, entries: [...entries] })

// The content was encoded by keyrow, but perhaps by another version of keyrow.
const snapshotOf = (content: string): O.Option<Snapshot> => {
  const decoded = Content.decode(JSON.parse(content))
  if (E.isLeft(decoded)) return O.none
  const { revision, versionTag, entries } = decoded.right
  const header = { revision, versionTag: versionTag as IdempotencyKey, expiration: 0, touchDue: false }
  return O.some(makeSnapshot(header, HashMap(deepFreeze(entries)) as Entries, undefined))
}
