// The session as a value: what the store held when it was last read (the snapshot), and what this request
// did since (the edits). Nothing here does I/O, and nothing is ever changed in place.
import * as O from 'fp-ts/lib/Option.js'
import type { ActiveRecord } from '../record/active-record.js'
import { applyEdits, type Edits, type Entries, noEdits, noEntries } from './edits.js'
import { applyKnown, isKnown, type Known } from './known.js'
import { freshId, type SaveId, type SessionId, Token } from './token.js'

/** A session's rows as one consistent read saw them. */
export interface Snapshot extends Known {
  /** Rises with every save; rows are stamped with it. */
  readonly revision: number
  /** When the session will have expired, in milliseconds since 1970, by the store's clock. */
  readonly expiration: number
  /** Whether moving the expiration is worth a write by now, by the store's clock. */
  readonly due: boolean
  /** The save that made this revision: a number alone might mean another one, after a database was restored. */
  readonly mark: SaveId
}

/** What is known of a session that was not read: nothing. */
export const nothingKnown: Snapshot = Object.freeze({
  revision: 0,
  expiration: 0,
  due: false,
  mark: '' as SaveId,
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
export const heldSession = <H>(handle: H, token: Token, snapshot: Snapshot, edits: Edits): SessionValue<H> =>
  make(
    { handle, token, expiration: O.some(snapshot.expiration), snapshot: O.some(snapshot) },
    edits,
    edits.isEmpty() ? snapshot.entries : applyKnown(edits, snapshot),
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
        O.isSome(session.snapshot) ? applyKnown(edits, session.snapshot.value) : applyEdits(edits, noEntries),
      )

/** One more edit, whose result on the visible values is `store`. */
export const withEdit = <H>(session: SessionValue<H>, edits: Edits, store: Entries): SessionValue<H> =>
  make(session, edits, store)

/** Whether the value of this key can be told: it was read or set, or the session is new. */
export const knows = <H>({ snapshot, edits }: SessionValue<H>, name: string): boolean =>
  O.isNone(snapshot) || isKnown(snapshot.value, edits, name)

/** Whether there is nothing that a store would have to keep: a session that was never saved, with no values. */
export const isBlank = <H>(session: SessionValue<H>): boolean =>
  O.isNone(session.snapshot) && session.store.isEmpty()
