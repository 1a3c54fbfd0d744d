// The port to where sessions live. Whoever writes a store keeps this contract; the suite in
// `keyrow/testing` proves it.
//
//  - What is missing, expired, destroyed or opened with the wrong secret is `None`, or `SessionGone` where
//    something was to be written. An error means that the store itself failed.
//  - Time is the store's own clock; a caller never sends a time.
//  - Each operation is atomic, and has a bound on how long it takes.
//  - Nothing here is called with a secret, only with its hash.

import type { Either } from 'fp-ts/lib/Either.js'
import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { Edits, Entries } from '../core/edits.js'
import type { SaveConflict, SessionGone, StoreError } from '../core/errors.js'
import { MAX_LIFETIME_MS, numberOption } from '../core/options.js'
import type { Keys, SessionValue, Snapshot } from '../core/session.js'
import type { IdempotencyKey, Ids, SecretHash, SessionId } from '../core/token.js'
import type { OwnLifetime } from '../core/well-known-keys.js'
import type { Database, TransactionScope } from '../db/database.js'

// How long a session lives, and when moving its expiration is worth a write. All enforced by the store, on
// its own clock.

export interface Lifetime {
  /** A session unused for this many milliseconds expires. Default: 30 minutes. */
  readonly idleMs: number
  /** A session this many milliseconds old expires, used or not. Default: 12 hours. */
  readonly absoluteMs: number
  /**
   * The expiration is moved by a request that stores nothing once it can move forward by this fraction of
   * `idleMs`; a request that stores something moves it anyway. From 0 (always) to 1. Default: 0.1.
   */
  readonly touchFraction: number
  /** For this many milliseconds after a rotation the old secret still opens the session. Default: 0. */
  readonly rotationGraceMs: number
}

const minute = 60_000

const defaults: Lifetime = {
  idleMs: 30 * minute,
  absoluteMs: 12 * 60 * minute,
  touchFraction: 0.1,
  rotationGraceMs: 0,
}

/** The lifetime with defaults filled in; throws a `RangeError` for a figure that makes no sense. */
export const lifetimeOf = (options: Partial<Lifetime>): Lifetime => {
  const lifetime: Lifetime = {
    idleMs: options.idleMs ?? defaults.idleMs,
    absoluteMs: options.absoluteMs ?? Math.max(defaults.absoluteMs, options.idleMs ?? 0),
    touchFraction: options.touchFraction ?? defaults.touchFraction,
    rotationGraceMs: options.rotationGraceMs ?? defaults.rotationGraceMs,
  }
  numberOption('idleMs', lifetime.idleMs, 1, MAX_LIFETIME_MS)
  numberOption('absoluteMs', lifetime.absoluteMs, 1, MAX_LIFETIME_MS)
  numberOption('touchFraction', lifetime.touchFraction, 0, 1)
  numberOption('rotationGraceMs', lifetime.rotationGraceMs, 0, MAX_LIFETIME_MS)
  return Object.freeze(lifetime)
}

/** The same figures; throws a `RangeError` for one that makes no sense. */
export const checkedLifetime = ({ idleMs, absoluteMs }: OwnLifetime): OwnLifetime => ({
  idleMs: numberOption('lifetime.idleMs', idleMs, 1, MAX_LIFETIME_MS),
  absoluteMs: numberOption('lifetime.absoluteMs', absoluteMs, 1, MAX_LIFETIME_MS),
})

/** Why a token opens nothing. */
export type Absence = 'expired' | 'unknown'

/** One of a principal's sessions; times are milliseconds since 1970 by the store's clock. */
export interface Listed {
  readonly id: SessionId
  readonly createdAt: number
  readonly expiration: number
}

/** Which of a principal's sessions are meant: all when it says nothing, all but one, or one. */
export interface Which {
  readonly except?: SessionId | undefined
  readonly only?: SessionId | undefined
}

/** What one batch of a collection did. */
export interface ExpiredBatch {
  /** How many sessions were deleted. */
  readonly sessions: number
  /** Whether there may be more to do at once. */
  readonly more: boolean
  /** Whether another collector was at work, so that nothing was done. */
  readonly busy: boolean
}

/** A session as saved. `rounds`: how many it took; 2 when it had to look at others' saves first. */
export interface SavedSnapshot extends Snapshot {
  readonly rounds?: number
}

/** What a write did: the header's new revision, and its expiration in milliseconds since 1970. */
export interface Saved {
  readonly revision: number
  readonly expiration: number
}

/** What the caller of a load has already, and what he wants. */
export interface Reading {
  /** Rows that are not newer need not be read again. */
  readonly known?: Snapshot | undefined
  /** Only these keys are asked for. What comes may be more, and says by its own `keys` what it is. */
  readonly keys?: Keys | undefined
}

export interface LoadRequest extends Reading {
  readonly id: SessionId
  readonly secret: SecretHash
}

/** Changes of one session that are saved as one, in their order. `edits` and `entries` are of all of them. */
export interface SaveRequest extends Omit<Change, 'save'> {
  readonly id: SessionId
  readonly changes: readonly Change[]
}

/**
 * Operations on several sessions in one statement and one transaction. Each session has a result of its own, in the
 * order of the requests; an error means that none was done, or that this is unknown.
 */
export interface BatchOperations {
  readonly load: (
    requests: readonly LoadRequest[],
  ) => TaskEither<StoreError, readonly Either<Absence, Snapshot>[]>
  /**
   * The sessions are different ones. `None`: not done now, because another save is under way or came first, or because
   * the session is gone; `save` does it, or tells why not.
   */
  readonly save: (
    requests: readonly SaveRequest[],
  ) => TaskEither<StoreError, readonly Option<SavedSnapshot>[]>
}

/** A session's edits, and what they were made on. */
export interface Change {
  /** Tells this save from all others, so that one whose answer was lost is not done twice. */
  readonly save: IdempotencyKey
  readonly edits: Edits
  /** It may know only some keys. */
  readonly since: Snapshot
  /** `since.entries` with the edits applied; without updates of keys that `since` does not know. */
  readonly entries: Entries
}

export interface SessionStore {
  readonly lifetime: Lifetime

  /**
   * Makes ids that it knows again, if the store can do that: of a token that opens nothing it then can be told whether
   * it is of a session that was here once. Without it ids are random ones.
   */
  readonly ids?: Ids

  /** Makes the store ready for use. Runs by itself before the first operation; run it to fail early. */
  readonly prepare: TaskEither<StoreError, void>

  /**
   * A new session with all its entries, at revision 1. An entry `keyrow:lifetime` gives it a lifetime of its own. An insert, never an upsert: when the id is taken (by
   * another save than this one) it is a `SaveConflict` and nothing changes.
   */
  readonly create: (
    id: SessionId,
    secret: SecretHash,
    save: IdempotencyKey,
    entries: Entries,
  ) => TaskEither<StoreError | SaveConflict, Saved>

  /** One consistent read of a live session that this secret (or, within its grace, the previous one) opens. */
  readonly load: (
    id: SessionId,
    secret: SecretHash,
    reading?: Reading,
  ) => TaskEither<StoreError, Either<Absence, Snapshot>>

  /**
   * Applies the edits, all or none, if the session still lives; raises the revision by one and moves the
   * expiration forward. Keys that are not in the edits are not written. Of two saves, the one with the
   * higher revision wins on a key that both set or delete; an update is applied to what the saves before it
   * left. An edit of `keyrow:lifetime` begins another lifetime, its own or again the store's: only then may the
   * expiration move backwards. The same save twice is done once. What a step throws comes out as a rejection, and nothing is
   * written. Gives the session as saved, with what other requests saved meanwhile: all keys, or at least those that
   * `since` knows and those of the edits.
   */
  readonly save: (
    id: SessionId,
    change: Change,
  ) => TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot>

  /** Moves the expiration forward if the session still lives, never backwards; nothing else changes. */
  readonly touch: (id: SessionId) => TaskEither<StoreError | SessionGone, Saved>

  /**
   * One consistent read of a live session by its id, whose expiration is moved if that is due. Rows that
   * `known` has already need not be read again. Of the keys that `known` knows, or of these.
   */
  readonly refresh: (id: SessionId, known: Snapshot, keys?: Keys) => TaskEither<StoreError, Option<Snapshot>>

  /**
   * Replaces the secret `from` by `to`, for exactly one of those who try; for the others it is a
   * `SaveConflict`. Entries, revision and expiration stay.
   */
  readonly rotate: (
    id: SessionId,
    from: SecretHash,
    to: SecretHash,
  ) => TaskEither<StoreError | SaveConflict | SessionGone, void>

  /** Deletes the session and all that hangs from it. Idempotent. */
  readonly destroy: (id: SessionId) => TaskEither<StoreError, void>

  /** The live sessions whose entry `keyrow:principal` is this, the newest first. */
  readonly sessionsOf: (principal: string) => TaskEither<StoreError, readonly Listed[]>

  /** Destroys those of them that are meant; gives the ids of those that it destroyed. */
  readonly endAll: (principal: string, which: Which) => TaskEither<StoreError, readonly SessionId[]>

  /**
   * Deletes at most so many expired sessions and all that hangs from them. Never waits for a lock, never deletes
   * what is alive, and any number may run.
   */
  readonly deleteExpired: (limit: number) => TaskEither<StoreError, ExpiredBatch>

  /** What the store can do for several sessions at once, if it can: `batched` makes use of it. */
  readonly batch?: BatchOperations

  /** Why nothing can be done through this store here and now: it is the outer one, inside of a transaction. */
  readonly misuse?: () => StoreError | undefined

  /** Of a store in a database: the same store through another handle of that, which tries nothing again. */
  readonly using?: (handle: Database) => SessionStore

  /** Of a store in a database: the handle of that database's innermost transaction that is open here. */
  readonly current?: Database['current']

  /** Of a store through a transaction's handle: the transaction, and the same store outside of it. */
  readonly transactionScope?: Omit<TransactionScope, 'outer'> & { readonly outer: SessionStore }
}

/**
 * A session: an immutable value. It is edited by `sessionSet` and `sessionDel`, and stored by `saveSession`.
 */
export type Session = SessionValue<SessionStore>
