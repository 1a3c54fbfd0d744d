// Defines the contract of a session store. The suite in `keyrow/testing` checks it.
//
// - If the session is missing or destroyed, or the secret is wrong, a load returns `Left('unknown')`. A load of an
//   expired session returns `Left('expired')`. For a missing, destroyed or expired session, a refresh returns `None`, a
//   write fails with `SessionGone`, and a destruction succeeds. Other errors mean a failure of the store or a conflict.
// - All times of a session come from the store's clock. A caller never sends a time.
// - Each operation is atomic and ends within a limited time. A store gets the hash of a secret, never the secret.
import type { Either } from 'fp-ts/lib/Either.js'
import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { Entries } from '../core/edits.js'
import type { SaveConflict, SessionGone, StoreError } from '../core/errors.js'
import { MAX_LIFETIME_MS, numberOption } from '../core/options.js'
import type { Keys, SessionValue, Snapshot } from '../core/session.js'
import type { IdempotencyKey, Ids, SecretHash, SessionId } from '../core/token.js'
import type { Device, OwnLifetime } from '../core/well-known-keys.js'
import type { Database, TransactionScope } from '../db/database.js'
import type { Change, Saved, SavedSnapshot, SaveRequest, Unsaved } from './change.js'
import type { FlowStore, RowWrite } from './flow-contract.js'

export type { Change, Saved, SavedSnapshot, SaveRequest, Unsaved } from './change.js'

/** The limits of a session's life. The store enforces them. */
export interface Lifetime {
  /** A session expires after this many milliseconds without use. Default: 30 minutes. */
  readonly idleMs: number
  /** The maximum age of a session in milliseconds, even if it is used. Default: the longer of 12 hours and `idleMs`. */
  readonly absoluteMs: number
  /**
   * A request without edits extends the expiration only if the extension is at least this fraction of `idleMs`. With 0
   * every request extends the expiration. A request that stores edits always extends the expiration. Default: 0.1.
   */
  readonly touchFraction: number
  /** The old secret still works for this many milliseconds after a rotation. Default: 0. */
  readonly rotationGraceMs: number
}

/** The number of latest saves that a store recognises for each session, so that it stores no save twice. */
export const RECENT_SAVES = 64

const MINUTE_MS = 60_000

/** Returns a lifetime with defaults for the missing options. Throws a `RangeError` if an option is out of range. */
export const lifetimeOf = ({
  idleMs = 30 * MINUTE_MS,
  absoluteMs = Math.max(12 * 60 * MINUTE_MS, idleMs),
  touchFraction = 0.1,
  rotationGraceMs = 0,
}: Partial<Lifetime>): Lifetime =>
  Object.freeze({
    idleMs: numberOption('idleMs', idleMs, 1, MAX_LIFETIME_MS),
    absoluteMs: numberOption('absoluteMs', absoluteMs, 1, MAX_LIFETIME_MS),
    touchFraction: numberOption('touchFraction', touchFraction, 0, 1),
    rotationGraceMs: numberOption('rotationGraceMs', rotationGraceMs, 0, MAX_LIFETIME_MS),
  })

/** Checks a session's own lifetime. Throws a `RangeError` if a time is out of range. */
export const checkedLifetime = ({ idleMs, absoluteMs }: OwnLifetime): OwnLifetime => ({
  idleMs: numberOption('lifetime.idleMs', idleMs, 1, MAX_LIFETIME_MS),
  absoluteMs: numberOption('lifetime.absoluteMs', absoluteMs, 1, MAX_LIFETIME_MS),
})

/** The reason why a token opens no session. */
export type Absence = 'expired' | 'unknown'

/** One of a principal's sessions, with times in milliseconds since 1970 by the store's clock. */
export interface Listed {
  readonly id: SessionId
  readonly createdAt: number
  readonly expiration: number
  /** The time of the last request that has extended the expiration. */
  readonly lastSeen: number
  /** The device that `signIn` has stored. */
  readonly device: Device | undefined
}

/** Chooses all sessions of a principal, all but one, or only one. */
export interface Which {
  readonly except?: SessionId | undefined
  readonly only?: SessionId | undefined
}

/** The result of deleting one batch of expired sessions. */
export interface ExpiredBatch {
  /** The number of deleted sessions. */
  readonly sessions: number
  /** Whether there may be more expired sessions. */
  readonly more: boolean
  /** True if the batch did nothing because another cleanup was running. */
  readonly busy: boolean
}

export interface Reading {
  /** The snapshot that the caller already has. The store may read only the rows that were saved after it. */
  readonly known?: Snapshot | undefined
  /** The keys to load, or `undefined` for all keys. The result may have more keys, as its field `keys` shows. */
  readonly keys?: Keys | undefined
}

export interface LoadRequest extends Reading {
  readonly id: SessionId
  readonly secret: SecretHash
}

/**
 * Operations on several sessions in one statement and one transaction. Results are in the order of the requests. An
 * error means that nothing was done, or that the effect is unknown.
 */
export interface BatchOperations {
  readonly load: (
    requests: readonly LoadRequest[],
  ) => TaskEither<StoreError, readonly Either<Absence, Snapshot>[]>
  /**
   * Saves several sessions, with one request for each. A `Left` means that the batch has no result for this save, for
   * example because the session has ended. The caller then calls the store's `save` to get the result or the error.
   */
  readonly save: (
    requests: readonly SaveRequest[],
  ) => TaskEither<StoreError, readonly Either<Unsaved, SavedSnapshot>[]>
  /**
   * Stores rows of different flows, with at most one row for each flow. The results say whether this batch has stored each
   * row. If it has not, the caller calls `write` of the store's flows. `write` stores the row, returns the error, or
   * recognises that an earlier batch has stored the row.
   */
  readonly addRows?: (rows: readonly RowWrite[]) => TaskEither<StoreError, readonly boolean[]>
}

/** Late saves of one session. The idempotency keys of `changes` are the version tags of the states after each save. */
export interface LateRequest extends SaveRequest {
  /** The idempotency keys of the saves, which the store remembers. */
  readonly saves: readonly IdempotencyKey[]
}

/** A state of a session, as its header names it. */
export type HeaderState = Pick<Snapshot, 'revision' | 'versionTag'>

/** The present state of a session, and what has happened to it. */
export interface LateState extends HeaderState {
  /** Those of the requested saves that are stored. */
  readonly stored: readonly IdempotencyKey[]
  /** The keys that were written since the requested state. `undefined` if the session never had that state, or long ago. */
  readonly changed: readonly string[] | undefined
}

/**
 * Operations for saves that were answered before the store had them. The store remembers the idempotency keys of these
 * saves for at least an hour, so that no save is stored twice, however many other saves follow.
 */
export interface LateSaves {
  /**
   * Stores several saves of each session in one statement. A session is saved only if it is live, and if its header has
   * the revision and the version tag of `since`. The results say which sessions this call has saved.
   */
  readonly store: (requests: readonly LateRequest[]) => TaskEither<StoreError, readonly boolean[]>
  /** Returns the state of a live session, which of the saves are stored, and what has changed since `base`. */
  readonly find: (
    id: SessionId,
    base: HeaderState,
    saves: readonly IdempotencyKey[],
  ) => TaskEither<StoreError, Option<LateState>>
  /** Saves a change like `save`, unless the save is remembered. */
  readonly save: (
    id: SessionId,
    change: Change,
  ) => TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot>
  /**
   * Locks a live session, so that no other request saves it meanwhile, and runs a task in the lock's transaction. The
   * result is `busy` if the session was locked by another transaction for two seconds, or for the role's `lock_timeout`.
   */
  readonly locked: <A>(
    id: SessionId,
    task: (inside: LockedSession) => TaskEither<StoreError, A>,
  ) => TaskEither<StoreError, Option<A> | 'busy'>
  /** Forgets some of the saves that were stored more than an hour ago. */
  readonly forget: TaskEither<StoreError, void>
}

/** The operations in the transaction of a lock. */
export interface LockedSession extends Pick<LateSaves, 'store' | 'find'> {
  readonly refresh: SessionStore['refresh']
}

export interface SessionStore {
  readonly lifetime: Lifetime

  /** Makes ids that the store recognises as its own. Without `ids`, the origin of a token is unknown. */
  readonly ids?: Ids

  /**
   * Returns the present time by the store's clock in milliseconds since 1970, as far as it is known. Without `clock`, the
   * clock of the process is used.
   */
  readonly clock?: () => number

  /** Prepares the store. The first operation runs this task. A program can run it to detect a failure early. */
  readonly prepare: TaskEither<StoreError, void>

  /**
   * Inserts a new session with its entries, at revision 1. An entry `keyrow:lifetime` gives the session a lifetime of
   * its own. A repetition of the same creation changes nothing. A creation fails with `SaveConflict` if a session with
   * this id exists, or was created or destroyed within the last hour.
   */
  readonly create: (
    id: SessionId,
    secret: SecretHash,
    save: IdempotencyKey,
    entries: Entries,
  ) => TaskEither<StoreError | SaveConflict, Saved>

  /** Reads a live session consistently. The secret must be the current one, or the previous one in its grace time. */
  readonly load: (
    id: SessionId,
    secret: SecretHash,
    reading?: Reading,
  ) => TaskEither<StoreError, Either<Absence, Snapshot>>

  /**
   * Applies all edits or none to a live session. A save raises the revision by one and extends the expiration. Keys
   * without an edit are not written. If several saves set or delete one key, the save with the highest revision wins.
   * An update applies to the result of the saves before it. An edit of `keyrow:lifetime` begins a new lifetime. Only
   * this edit may make the expiration earlier. A repetition of the same save changes nothing. If an update throws, the
   * promise rejects and nothing is written. The result includes the saves of other requests. It has all keys, or at
   * least the keys of `since` and of the edits.
   */
  readonly save: (
    id: SessionId,
    change: Change,
  ) => TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot>

  /** Extends the expiration of a live session, and never shortens it. Nothing else changes. */
  readonly touch: (id: SessionId) => TaskEither<StoreError | SessionGone, Saved>

  /**
   * Reads a live session consistently by its id, and extends its expiration if a touch is due. The store may skip rows
   * that are already in `known`. The result has the keys in `keys`, by default the keys of `known`.
   */
  readonly refresh: (
    id: SessionId,
    known: Snapshot,
    keys?: Keys,
    /** Whether to extend the expiration if a touch is due. Default: true. */
    touches?: boolean,
  ) => TaskEither<StoreError, Option<Snapshot>>

  /**
   * Replaces the secret `from` with `to`. Exactly one of several concurrent rotations succeeds. The others fail with
   * `SaveConflict`. Entries, revision and expiration do not change.
   */
  readonly rotate: (
    id: SessionId,
    from: SecretHash,
    to: SecretHash,
  ) => TaskEither<StoreError | SaveConflict | SessionGone, void>

  /** Deletes the session with all its rows. A repetition changes nothing. For an hour the id cannot be used again. */
  readonly destroy: (id: SessionId) => TaskEither<StoreError, void>

  /** Returns the live sessions whose entry `keyrow:principal` is this principal, the newest first. */
  readonly sessionsOf: (principal: string) => TaskEither<StoreError, readonly Listed[]>

  /** Destroys the chosen sessions of a principal and returns their ids. */
  readonly endAll: (principal: string, which: Which) => TaskEither<StoreError, readonly SessionId[]>

  /** Deletes at most `limit` expired sessions. Waits for no lock, deletes no live session, and may run concurrently. */
  readonly deleteExpired: (limit: number) => TaskEither<StoreError, ExpiredBatch>

  /** The flows of the sessions, if the store has them. */
  readonly flows?: FlowStore

  /** Operations on several sessions at once, if the store has them. `batched` uses them. */
  readonly batch?: BatchOperations

  /** Operations for late saves, if the store has them. `writeBehind` uses them. */
  readonly late?: LateSaves

  /** If an open transaction requires another handle, returns the error that the operations of this store get. */
  readonly misuse?: () => StoreError | undefined

  /** Returns this store for another handle of its database. The store of a transaction retries nothing. */
  readonly using?: (handle: Database) => SessionStore

  /** Returns the handle of the database's innermost open transaction in the current async context. */
  readonly current?: Database['current']

  /** The transaction to which this store belongs, and the same store outside of the transaction. */
  readonly transactionScope?: Omit<TransactionScope, 'outer'> & { readonly outer: SessionStore }
}

/** An immutable value. `sessionSet` and `sessionDel` return an edited session, and `saveSession` stores its edits. */
export type Session = SessionValue<SessionStore>

const STORES = Symbol('stores of keyrow')

type Using = NonNullable<SessionStore['using']>
type Stores = Map<Using, SessionStore>

// A transaction has the stores in it as a member, by the `using` of the store. In a `WeakMap` they would live until the
// next full collection, since they refer to the transaction.
interface Transaction {
  [STORES]?: Stores
}

const storesIn = (transaction: Transaction): Stores => {
  const stores = transaction[STORES] ?? new Map<Using, SessionStore>()
  transaction[STORES] = stores
  return stores
}

/** Adds `using` to a store. For each transaction, `using` calls `inner` once to make a store in this transaction. */
export const withTransactions = (
  store: SessionStore,
  inner: (tx: Database) => SessionStore,
): SessionStore => {
  const using = (handle: Database): SessionStore => {
    if (handle.transactionScope === undefined) return root
    const { outer, transaction } = handle.transactionScope
    const stores = storesIn(transaction)
    const made = stores.get(using)
    if (made !== undefined) return made
    const store = {
      ...inner(handle),
      using,
      transactionScope: { ...handle.transactionScope, outer: using(outer) },
    }
    stores.set(using, store)
    return store
  }
  const root: SessionStore = { ...store, using }
  return root
}

/** Replaces operations of the store `inner` by `own`. The stores in transactions keep the operations of `inner`. */
export const wrapStore = (inner: SessionStore, own: Partial<SessionStore>): SessionStore => {
  const { using } = inner
  const store = { ...inner, ...own }
  return using === undefined ? store : withTransactions(store, using)
}

/**
 * Runs `effect` after the commit of the store's outermost transaction, or at once outside of a transaction. If the
 * store's transaction or an outer one is rolled back, runs `undone` instead.
 */
export const onceCommitted = (
  { transactionScope }: SessionStore,
  effect: () => void,
  undone: () => void = () => undefined,
): void => {
  if (transactionScope === undefined) effect()
  else
    transactionScope.onEnd((committed) =>
      committed ? onceCommitted(transactionScope.outer, effect, undone) : undone(),
    )
}
