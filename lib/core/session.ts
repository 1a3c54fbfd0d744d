// Defines the session as an immutable value. A session has the snapshot of its last read or save, and the edits that
// the request has made after this snapshot. No function of this file does I/O.

import { type InspectOptions, inspect } from 'node:util'
import { applyEdits, type Edits, type Entries, noEdits, noEntries } from './edits.js'
import { type AnyKey, isStorable, nameOf, OWN } from './key.js'
import { HashSet, O } from './prelude.cjs'
import { freshId, type IdempotencyKey, type SessionId, Token } from './token.js'

export type Keys = HashSet<string>

/** The entries of all keys of a session, or of some of its keys. */
export interface PartialSnapshot {
  readonly entries: Entries
  /** The loaded keys, or `undefined` for all keys. The value of a key that is not loaded is unknown, not absent. */
  readonly keys?: Keys | undefined
}

/** The keys that a program passes, as names or as typed keys. */
export type KeyNames = readonly (string | AnyKey)[]

/** Returns the names of `keys` and of keyrow's own keys. A name that cannot be stored is left out. */
export const keysOf = (keys: KeyNames): Keys =>
  HashSet(keys.map(nameOf)).filter(isStorable).union(Object.values(OWN))

/** Whether the value of the key `name` is known after the edits are applied. */
const isLoadedKey = ({ keys }: PartialSnapshot, edits: Edits, name: string): boolean => {
  if (keys === undefined || keys.has(name)) return true
  const edit = edits.get(name)
  return edit === undefined ? !isStorable(name) : edit._tag !== 'Update'
}

/** Whether any `Update` edit needs a value that is not loaded. Only a store can apply such an edit. */
export const hasUnloadedUpdates = ({ keys }: PartialSnapshot, edits: Edits): boolean =>
  keys !== undefined && edits.some((edit, key) => edit._tag === 'Update' && !keys.has(key))

/** Applies all edits except each `Update` of a key that is not loaded. */
const applyLoaded = (edits: Edits, snapshot: PartialSnapshot): Entries =>
  applyEdits(
    hasUnloadedUpdates(snapshot, edits) ? edits.filter((_, key) => isLoadedKey(snapshot, edits, key)) : edits,
    snapshot.entries,
  )

/** Returns the keys that are loaded after a save of `edits`, or `undefined` for all keys. */
export const keysAfter = ({ keys }: PartialSnapshot, edits: Edits): Keys | undefined =>
  keys?.union(edits.keySeq())

/** Restricts a snapshot to these keys. If `keys` is `undefined`, the snapshot stays as it is. */
export const pick = (snapshot: Snapshot, keys: Keys | undefined): Snapshot => {
  if (keys === undefined || keys === snapshot.keys) return snapshot
  const both = snapshot.keys === undefined ? keys : keys.intersect(snapshot.keys)
  return makeSnapshot(snapshot, entriesOf(snapshot.entries, both), both)
}

/** Returns one snapshot with the entries of two snapshots of the same revision. */
export const union = (one: Snapshot, other: Snapshot): Snapshot =>
  other.keys === undefined || one.keys === other.keys
    ? other
    : makeSnapshot(
        other,
        one.keys === undefined ? one.entries : one.entries.merge(other.entries),
        one.keys?.union(other.keys),
      )

export const entriesOf = (entries: Entries, keys: Keys): Entries =>
  noEntries.withMutations((some) => {
    for (const key of keys) {
      const value = entries.get(key)
      if (value !== undefined) some.set(key, value)
    }
  })

/** The state of a session's rows, from one consistent read. */
export interface Snapshot extends PartialSnapshot {
  /** Rises by one with each save. The row of each entry has the revision of the save that wrote the row. */
  readonly revision: number
  /** The time of expiry in milliseconds since 1970, by the store's clock. */
  readonly expiration: number
  /** Whether a touch is due: the session was not extended for at least `touchFraction` of `idleMs`. */
  readonly touchDue: boolean
  /** Identifies the save that made `revision`. After a restore of a backup, another save may get the same number. */
  readonly versionTag: IdempotencyKey
}

/** The part of a snapshot that comes from the header. */
export type Header = Omit<Snapshot, keyof PartialSnapshot>

// All snapshots are made here, with the same properties in the same order. V8 compiles functions for the layouts of
// their arguments, and compiles a function again if it meets another layout. Otherwise, such compilations would take
// most of the processor time in the first seconds of a process.
export const makeSnapshot = (
  { revision, expiration, touchDue, versionTag }: Header,
  entries: Entries,
  keys: Keys | undefined,
): Snapshot => ({ revision, expiration, touchDue, versionTag, entries, keys })

/** Returns the snapshot after a touch, or with the result that no touch is due. */
export const afterTouch = (snapshot: Snapshot, expiration = snapshot.expiration): Snapshot =>
  makeSnapshot({ ...snapshot, expiration, touchDue: false }, snapshot.entries, snapshot.keys)

export const isSameRevision = (one: Snapshot, other: Snapshot): boolean =>
  one.revision === other.revision && one.versionTag === other.versionTag

/** A placeholder for the snapshot of a session that was not read. */
export const emptySnapshot: Snapshot = Object.freeze({
  revision: 0,
  expiration: 0,
  touchDue: false,
  versionTag: '' as IdempotencyKey,
  entries: noEntries,
  keys: undefined,
})

/**
 * An active record. Functions on the record read and write it through the `handle`. The `id` identifies the record.
 *
 * @example
 * ```ts
 * import type { ActiveRecord } from 'keyrow'
 *
 * const invoice: ActiveRecord<'ledger', number> = { handle: 'ledger', id: 42 }
 * console.log(invoice.id) // 42
 * ```
 */
export interface ActiveRecord<H, I> {
  readonly handle: H
  readonly id: I
}

/** A session in a store of type `H`. */
export interface SessionValue<H> extends ActiveRecord<H, SessionId> {
  /** The time of expiry in milliseconds since 1970, by the store's clock. It is `None` before the first save. */
  readonly expiration: O.Option<number>
  /** The values of the loaded keys after the edits. */
  readonly store: Entries
  /** The changes since the last load, save or refresh. */
  readonly edits: Edits
  /** The state that was last read from the store or written to it. It is `None` before the first save. */
  readonly snapshot: O.Option<Snapshot>
  readonly token: Token
}

type Stored<H> = Pick<SessionValue<H>, 'handle' | 'token' | 'expiration' | 'snapshot'>

// The printed form of a session shows the names of its keys. It omits the values, which are often personal data. The
// JSON of a session has the values, but no handle.
class FrozenSession<H> implements SessionValue<H> {
  readonly id: SessionId
  readonly handle: H
  readonly token: Token
  readonly expiration: O.Option<number>
  readonly snapshot: O.Option<Snapshot>

  constructor(
    { handle, token, expiration, snapshot }: Stored<H>,
    readonly edits: Edits,
    readonly store: Entries,
  ) {
    this.id = token.id
    this.handle = handle
    this.token = token
    this.expiration = expiration
    this.snapshot = snapshot
    if (store.has('__proto__'))
      Object.defineProperty(store, 'toJSON', { value: entriesToJson, configurable: true })
    Object.freeze(this)
  }

  toJSON(): object {
    return { id: this.id, expiration: O.toNullable(this.expiration), store: this.store }
  }

  /** @internal */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    const names = ({ size }: Entries | Edits, keys: Iterable<string>): string =>
      inspect(size > MAX_PRINTED_NAMES ? size : [...keys], {
        ...options,
        breakLength: Number.POSITIVE_INFINITY,
      })
    const { id, store, edits } = this
    return `Session { id: '${id}', keys: ${names(store, store.keys())}, edits: ${names(edits, edits.keys())} }`
  }
}

const MAX_PRINTED_NAMES = 20

/** The `toJSON` of Immutable.js loses a key `__proto__`, since an assignment to `__proto__` sets the prototype. */
function entriesToJson(this: Entries): object {
  return Object.fromEntries(this)
}

/** Returns a new session, which is only in memory. Its id and secret are fresh unless a token is given. */
export const newSession = <H>(handle: H, token = Token.fresh(freshId())): SessionValue<H> =>
  new FrozenSession({ handle, token, expiration: O.none, snapshot: O.none }, noEdits, noEntries)

/** Returns a stored session with unsaved `edits`. */
export const storedSession = <H>(
  handle: H,
  token: Token,
  snapshot: Snapshot,
  edits: Edits,
): SessionValue<H> =>
  new FrozenSession(
    { handle, token, expiration: O.some(snapshot.expiration), snapshot: O.some(snapshot) },
    edits,
    edits.isEmpty() ? snapshot.entries : applyLoaded(edits, snapshot),
  )

export const withToken = <H>(session: SessionValue<H>, token: Token): SessionValue<H> =>
  new FrozenSession({ ...session, token }, session.edits, session.store)

export const withStore = <H>(session: SessionValue<H>, handle: H): SessionValue<H> =>
  handle === session.handle
    ? session
    : new FrozenSession({ ...session, handle }, session.edits, session.store)

export const withEdits = <H>(session: SessionValue<H>, edits: Edits): SessionValue<H> =>
  edits === session.edits
    ? session
    : new FrozenSession(
        session,
        edits,
        O.isSome(session.snapshot)
          ? applyLoaded(edits, session.snapshot.value)
          : applyEdits(edits, noEntries),
      )

/** Returns a copy of the session with these edits. `store` must have the values that result from `edits`. */
export const withEdit = <H>(session: SessionValue<H>, edits: Edits, store: Entries): SessionValue<H> =>
  new FrozenSession(session, edits, store)

/** Whether the value of this key is known: the key was read, set or deleted, or the session was never saved. */
export const isLoaded = <H>({ snapshot, edits }: SessionValue<H>, name: string): boolean =>
  O.isNone(snapshot) || isLoadedKey(snapshot.value, edits, name)

/** Whether the session was never saved and has no values. Such a session is never stored. */
export const isBlank = <H>(session: SessionValue<H>): boolean =>
  O.isNone(session.snapshot) && session.store.isEmpty()
