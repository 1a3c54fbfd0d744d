// Encodes a session's entries for a shared cache, and decodes them.

import type { Entries } from '../core/edits.js'
import { deepFreeze } from '../core/json.js'
import { E, HashMap, O, t } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { sealingWith } from './sealed.js'

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
