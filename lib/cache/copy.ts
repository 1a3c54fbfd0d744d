// Encodes a session's entries for a shared cache, and decodes them. A copy is encrypted and authenticated together with
// the session's id, so the cache can neither read nor change it, nor return it for another session. Each copy has a key
// and a nonce of its own, both derived from random bytes, so one secret is safe for any number of copies.

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import type { Entries } from '../core/edits.js'
import { deepFreeze } from '../core/json.js'
import { E, HashMap, O, t } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'

/** Encodes and decodes copies. */
export interface Copies {
  readonly encode: (id: SessionId, snapshot: Snapshot) => Uint8Array
  /** Returns `None` for bytes that are no copy of this session, or that were made with an unknown secret or format. */
  readonly decode: (id: SessionId, bytes: Uint8Array) => O.Option<Snapshot>
}

// The layout of a copy: the format, a salt, a nonce, the tag of AES-GCM, and the encrypted JSON.
const FORMAT = 1
const SALT = { start: 1, end: 33 }
const NONCE = { start: 33, end: 45 }
const TAG = { start: 45, end: 61 }

const SECRET_BYTES = 32
const ALGORITHM = 'aes-256-gcm'

const Content = t.type({
  revision: t.number,
  versionTag: t.string,
  entries: t.array(t.tuple([t.string, t.unknown])),
})

const keyFrom = (secret: Uint8Array, salt: Uint8Array): Uint8Array =>
  new Uint8Array(hkdfSync('sha256', secret, salt, 'keyrow session copy', 32))

const boundTo = (id: SessionId): Uint8Array => Buffer.from(`${String(FORMAT)} ${id}`)

/**
 * Makes the codec of copies. The first secret encodes, and all of them decode.
 *
 * @throws `RangeError` unless there are secrets, each with 32 bytes
 */
export const copiesWith = (secrets: readonly Uint8Array[]): Copies => {
  const [first] = secrets
  if (first === undefined || secrets.some((secret) => !isSecret(secret)))
    throw new RangeError(
      `secrets must be a list of byte arrays with ${String(SECRET_BYTES)} random bytes each`,
    )
  return {
    encode: (id, snapshot) => encrypted(first, id, contentOf(snapshot)),
    decode: (id, bytes) => {
      if (bytes.length < TAG.end || bytes[0] !== FORMAT) return O.none
      for (const secret of secrets) {
        const content = decrypted(secret, id, bytes)
        if (content !== undefined) return snapshotOf(content)
      }
      return O.none
    },
  }
}

const isSecret = (secret: unknown): boolean => secret instanceof Uint8Array && secret.length === SECRET_BYTES

const contentOf = ({ revision, versionTag, entries }: Snapshot): string =>
  JSON.stringify({ revision, versionTag, entries: [...entries] })

const encrypted = (secret: Uint8Array, id: SessionId, content: string): Uint8Array => {
  const random = randomBytes(TAG.start - SALT.start)
  const [salt, nonce] = [random.subarray(0, SALT.end - SALT.start), random.subarray(SALT.end - SALT.start)]
  const cipher = createCipheriv(ALGORITHM, keyFrom(secret, salt), nonce).setAAD(boundTo(id))
  const data = [cipher.update(content, 'utf8'), cipher.final()]
  return Buffer.concat([Buffer.of(FORMAT), random, cipher.getAuthTag(), ...data])
}

/** Returns `undefined` if the bytes are not authentic. */
const decrypted = (secret: Uint8Array, id: SessionId, bytes: Uint8Array): string | undefined => {
  const part = ({ start, end }: { readonly start: number; readonly end?: number }) =>
    bytes.subarray(start, end)
  const decipher = createDecipheriv(ALGORITHM, keyFrom(secret, part(SALT)), part(NONCE), {
    authTagLength: TAG.end - TAG.start,
  })
    .setAAD(boundTo(id))
    .setAuthTag(part(TAG))
  try {
    const data = [decipher.update(part({ start: TAG.end })), decipher.final()]
    return Buffer.concat(data).toString('utf8')
  } catch {
    return undefined
  }
}

// The content was encoded by keyrow, but perhaps by another version of keyrow.
const snapshotOf = (content: string): O.Option<Snapshot> => {
  const decoded = Content.decode(JSON.parse(content))
  if (E.isLeft(decoded)) return O.none
  const { revision, versionTag, entries } = decoded.right
  const header = { revision, versionTag: versionTag as IdempotencyKey, expiration: 0, touchDue: false }
  return O.some(makeSnapshot(header, HashMap(deepFreeze(entries)) as Entries, undefined))
}
