// Defines a change of a session, as a store saves it, and the results of writes.

import type { Edits, Entries } from '../core/edits.js'
import type { Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'

/** A session's edits, and the snapshot to which they apply. */
export interface Change {
  /** Identifies this save, so that a retry after a lost answer does not save twice. */
  readonly save: IdempotencyKey
  readonly edits: Edits
  /** The snapshot before the edits. It may have only some keys. */
  readonly since: Snapshot
  /** `since.entries` with the edits applied, except updates of keys that `since` does not have. */
  readonly entries: Entries
  /** Whether an earlier attempt may have stored the change. Default: false. */
  readonly mayBeDone?: boolean
}

/** The result of a write: the new revision, and the expiration in milliseconds since 1970. */
export interface Saved {
  readonly revision: number
  readonly expiration: number
}

/** A saved session. `rounds` is 2 if the save ran in a transaction that locks the header, otherwise 1. */
export interface SavedSnapshot extends Snapshot {
  readonly rounds?: number
}

/** One save that stores several changes of a session, in order. `edits` and `entries` combine all changes. */
export interface SaveRequest extends Omit<Change, 'save' | 'mayBeDone'> {
  readonly id: SessionId
  readonly changes: readonly Change[]
}

/** Why a batch has no result for a save. `mayBeStored`: this batch or an earlier attempt may have stored the save. */
export type Unsaved = 'notStored' | 'mayBeStored'
