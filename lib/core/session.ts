// The session as a value: what the store held when it was last read (the snapshot), and what this request
// did since (the edits). Nothing here does I/O, and nothing is ever changed in place.

import * as O from 'fp-ts/lib/Option.js'
import { Set as HashSet } from 'immutable'
import type { ActiveRecord } from './active-record.js'
import { applyEdits, type Edits, type Entries, noEdits, noEntries } from './edits.js'
import { type AnyKey, isStorable, nameOf, OWN } from './key.js'
import { freshId, type IdempotencyKey, type SessionId, Token } from './token.js'

// What is known of a session of which only some keys were read. A key that was not read is never taken for one that
// is absent: it cannot be looked at, and what depends on its value waits until a store has it.

/** The names of keys. */
export type Keys = HashSet<string>

/** Entries, and of which keys they are all there is. */
export interface PartialSnapshot {
  readonly entries: Entries
  /** Absent: of all keys. */
  readonly keys?: Keys | undefined
}

/** What a program names. */
export type KeyNames = readonly (string | AnyKey)[]

/** The names of these keys, and keyrow's own. What cannot be stored is not there to be read. */
export const keysOf = (keys: KeyNames): Keys =>
  HashSet(keys.map(nameOf)).filter(isStorable).union(Object.values(OWN))

/** Whether the value of this key is known, as it is after the edits. */
const isLoadedKey = ({ keys }: PartialSnapshot, edits: Edits, name: string): boolean => {
  if (keys === undefined || keys.has(name)) return true
  const edit = edits.get(name)
  return edit === undefined ? !isStorable(name) : edit._tag !== 'Update'
}

/** Whether there are updates of values that are not known, so that only a store can run them. */
export const hasUnloadedUpdates = ({ keys }: PartialSnapshot, edits: Edits): boolean =>
  keys !== undefined && edits.some((edit, key) => edit._tag === 'Update' && !keys.has(key))

/** The entries after the edits, without those whose outcome is not known. */
const applyLoaded = (edits: Edits, known: PartialSnapshot): Entries =>
  applyEdits(
    hasUnloadedUpdates(known, edits) ? edits.filter((_, key) => isLoadedKey(known, edits, key)) : edits,
    known.entries,
  )

/** The keys that are known once these edits are saved. */
export const keysAfter = ({ keys }: PartialSnapshot, edits: Edits): Keys | undefined =>
  keys?.union(edits.keySeq())

/** Of what is known these keys, and no others; all when none are named. */
export const pick = <K extends PartialSnapshot>(known: K, keys: Keys | undefined): K => {
  if (keys === undefined || keys === known.keys) return known
  const both = known.keys === undefined ? keys : keys.intersect(known.keys)
  return { ...known, entries: entriesOf(known.entries, both), keys: both }
}

/** Two views of one moment as one. */
export const union = <K extends PartialSnapshot>(one: K, other: K): K =>
  other.keys === undefined || one.keys === other.keys
    ? other
    : {
        ...other,
        entries: one.keys === undefined ? one.entries : one.entries.merge(other.entries),
        keys: one.keys?.union(other.keys),
      }

export const entriesOf = (entries: Entries, keys: Keys): Entries =>
  noEntries.withMutations((some) => {
    for (const key of keys) {
      const value = entries.get(key)
      if (value !== undefined) some.set(key, value)
    }
  })

/** A session's rows as one consistent read saw them. */
export interface Snapshot extends PartialSnapshot {
  /** Rises with every save; rows are stamped with it. */
  readonly revision: number
  /** When the session will have expired, in milliseconds since 1970, by the store's clock. */
  readonly expiration: number
  /** Whether moving the expiration is worth a write by now, by the store's clock. */
  readonly touchDue: boolean
  /** The save that made this revision: a number alone might mean another one, after a database was restored. */
  readonly versionTag: IdempotencyKey
}

/** What is known of a session that was not read: nothing. */
export const emptySnapshot: Snapshot = Object.freeze({
  revision: 0,
  expiration: 0,
  touchDue: false,
  versionTag: '' as IdempotencyKey,
  entries: noEntries,
})

/** A session held by a store of type `H`; `Session` is this with any `SessionStore`. */
export interface SessionValue<H> extends ActiveRecord<H, SessionId> {
  /** Milliseconds since 1970 by the store's clock; `None` before the first save. */
  readonly expiration: O.Option<number>
  /** The values as this request sees them: the snapshot with the edits applied. Of keys that are known. */
  readonly store: Entries
  /** What was done since the last load, save or refresh. */
  readonly edits: Edits
  /** What the store is known to hold; `None` before the first save. */
  readonly snapshot: O.Option<Snapshot>
  readonly token: Token
}

// Member by member: to spread a frozen object takes the engine three times as long.
const make = <H>(
  {
    handle,
    token,
    expiration,
    snapshot,
  }: Pick<SessionValue<H>, 'handle' | 'token' | 'expiration' | 'snapshot'>,
  edits: Edits,
  store: Entries,
): SessionValue<H> => Object.freeze({ handle, id: token.id, expiration, store, edits, snapshot, token })

/** A new session, with a fresh id and secret unless it is given a token; in memory only. */
export const newSession = <H>(handle: H, token = Token.fresh(freshId())): SessionValue<H> =>
  make({ handle, token, expiration: O.none, snapshot: O.none }, noEdits, noEntries)

/** The session that a store holds, with `edits` on top of what it holds. */
export const storedSession = <H>(
  handle: H,
  token: Token,
  snapshot: Snapshot,
  edits: Edits,
): SessionValue<H> =>
  make(
    { handle, token, expiration: O.some(snapshot.expiration), snapshot: O.some(snapshot) },
    edits,
    edits.isEmpty() ? snapshot.entries : applyLoaded(edits, snapshot),
  )

export const withToken = <H>(session: SessionValue<H>, token: Token): SessionValue<H> =>
  make({ ...session, token }, session.edits, session.store)

/** The same session in another store. */
export const withStore = <H>(session: SessionValue<H>, handle: H): SessionValue<H> =>
  handle === session.handle ? session : make({ ...session, handle }, session.edits, session.store)

export const withEdits = <H>(session: SessionValue<H>, edits: Edits): SessionValue<H> =>
  edits === session.edits
    ? session
    : make(
        session,
        edits,
        O.isSome(session.snapshot)
          ? applyLoaded(edits, session.snapshot.value)
          : applyEdits(edits, noEntries),
      )

/** One more edit, whose result on the visible values is `store`. */
export const withEdit = <H>(session: SessionValue<H>, edits: Edits, store: Entries): SessionValue<H> =>
  make(session, edits, store)

/** Whether the value of this key can be told: it was read or set, or the session is new. */
export const isLoaded = <H>({ snapshot, edits }: SessionValue<H>, name: string): boolean =>
  O.isNone(snapshot) || isLoadedKey(snapshot.value, edits, name)

/** Whether there is nothing that a store would have to keep: a session that was never saved, with no values. */
export const isBlank = <H>(session: SessionValue<H>): boolean =>
  O.isNone(session.snapshot) && session.store.isEmpty()
