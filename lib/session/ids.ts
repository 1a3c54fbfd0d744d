// Ids that can be told from all others: of their 122 random bits the last 40 are a tag, an HMAC of the other 82 under
// a key that lives where the sessions live. They are UUIDs of version 4 like any other, and open nothing.
import { createHmac } from 'node:crypto'
import { randomId } from '../base/random.js'
import type { SessionId } from './token.js'

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
export interface KnownIds extends Ids {
  /** `untaggedMs`: for so long ids without a tag may still be alive, those that were made before there was a key. */
  readonly learn: (key: string, untaggedMs: number) => void
}

export const knownIds = (): KnownIds => {
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
