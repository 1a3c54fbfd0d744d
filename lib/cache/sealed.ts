// Encrypts values for a shared cache, and decrypts them. A value is authenticated together with its key, so the cache can
// neither read nor change it, nor return it for another key. Each value has an encryption key and a nonce of its own,
// which are derived from random bytes. So one secret is safe for any number of values.

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { O } from '../core/prelude.cjs'

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

const keyFrom = (secret: Uint8Array, salt: Uint8Array): Uint8Array =>
  new Uint8Array(hkdfSync('sha256', secret, salt, 'keyrow shared cache', 32))

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
  const own = secrets.map((secret) => Uint8Array.from(secret))
  return {
    seal: (key, text) => encrypted(own[0] as Uint8Array, key, text),
    open: (key, bytes) => {
      if (bytes.length < TAG.end || bytes[0] !== FORMAT) return O.none
      for (const secret of own) {
        const text = decrypted(secret, key, bytes)
        if (text !== undefined) return O.some(text)
      }
      return O.none
    },
  }
}

const isSecret = (secret: unknown): boolean => secret instanceof Uint8Array && secret.length === SECRET_BYTES

const encrypted = (secret: Uint8Array, key: string, text: string): Uint8Array => {
  const random = randomBytes(TAG.start - SALT.start)
  const [salt, nonce] = [random.subarray(0, SALT.end - SALT.start), random.subarray(SALT.end - SALT.start)]
  const cipher = createCipheriv(ALGORITHM, keyFrom(secret, salt), nonce).setAAD(boundTo(key))
  const data = [cipher.update(text, 'utf8'), cipher.final()]
  return Buffer.concat([Buffer.of(FORMAT), random, cipher.getAuthTag(), ...data])
}

/** Returns `undefined` if the bytes are not authentic. */
const decrypted = (secret: Uint8Array, key: string, bytes: Uint8Array): string | undefined => {
  const part = ({ start, end }: { readonly start: number; readonly end?: number }) =>
    bytes.subarray(start, end)
  const decipher = createDecipheriv(ALGORITHM, keyFrom(secret, part(SALT)), part(NONCE), {
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
