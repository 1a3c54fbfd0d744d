// A scope contains the current session value. Each edit of the current session replaces this value. `AsyncLocalStorage`
// passes the scope to all asynchronous code that starts in the scope.

import { AsyncLocalStorage } from 'node:async_hooks'
import { composeEdits, type Edits, sinceEdits } from '../core/edits.js'
import { ProofRequired, SessionClosed, type SessionError, SessionGone } from '../core/errors.js'
import { type E, O } from '../core/prelude.cjs'
import { shared } from '../core/process.js'
import { isSameRevision, type Snapshot, storedSession, union, withEdits, withToken } from '../core/session.js'
import type { SessionId, Token } from '../core/token.js'
import type { Device } from '../core/well-known-keys.js'
import type { Session } from '../store/contract.js'

/** The properties of a request that the functions on its session need. */
export interface ScopeRequest {
  /** Whether the request, without edits, leaves the expiration and the messages of its session as they are. */
  readonly isPassive: boolean
  /** Whether the browser has proved that this session is its own. `undefined` if the request has no bound session. */
  readonly proof: { readonly id: SessionId; readonly isProven: boolean } | undefined
  /** The session that the request may read but not change, because the browser has not proved that it is its own. */
  readonly readOnly: SessionId | undefined
  /** Returns the device that has sent the request. */
  readonly device: () => Device
  /** The origin that the request was sent to, as far as the adapter knows. */
  readonly origin: { readonly host?: string | undefined; readonly secure: boolean }
  /** Whether the handler has read a session. If so, shared caches must not store the response. */
  looked: boolean
}

export interface Scope {
  session: Session
  /** `destroyed`: code in this scope ended the session. `gone`: another request ended the session. */
  state: 'open' | 'closed' | 'destroyed' | 'gone'
  /** Whether the scope has ended. An ended scope returns no session any more, even if its `state` is `open`. */
  ended: boolean
  /** The session value at the start of the scope, or the new session after a reset. An edit that it lacks is new. */
  opened: Session
  /** Every session value that the scope has contained. */
  readonly stored: WeakSet<Session>
  readonly tokens: WeakSet<Token>
  readonly request: ScopeRequest | undefined
  /** The number of answers to flows of the session that are running. */
  answers: number
  /** The inner scope of each open transaction. */
  inner: Map<object, TransactionScope> | undefined
  saved: Promise<E.Either<SessionError, Session>> | undefined
  /** The last call of `loadCurrentKeys`. The next call waits for it. */
  loading: Promise<unknown> | undefined
}

/** A scope of the same session in a transaction of its database. */
export interface TransactionScope extends Scope {
  readonly end: Promise<void>
  /** The `Update` edits that the transaction writes although they were made before the transaction. */
  writes: Edits | undefined
}

export interface ScopeChain {
  readonly scope: Scope
  readonly outer: ScopeChain | undefined
}

const scopes = shared('current-session:1', () => new AsyncLocalStorage<ScopeChain>())

/** Makes a scope. By default the scope belongs to the request of the surrounding scope. */
export const openScope = (session: Session, request = currentRequest()): Scope => ({
  session,
  state: 'open',
  ended: false,
  opened: session,
  stored: new WeakSet([session]),
  tokens: new WeakSet([session.token]),
  request,
  answers: 0,
  inner: undefined,
  saved: undefined,
  loading: undefined,
})

export const chainOf = (scope: Scope): ScopeChain => ({ scope, outer: scopes.getStore() })

export const inNewScope = <A>(scope: Scope, task: () => A): A => scopes.run(chainOf(scope), task)

/** Runs `task` in the current scope if it has not ended and is inside the scope of `chain`, else in that scope. */
export const inScope = <A>(chain: ScopeChain, task: () => A): A => {
  const here = scopes.getStore()
  return here?.scope.ended === false && isInside(chain.scope) ? task() : scopes.run(chain, task)
}

export const chainHere = (): ScopeChain | undefined => scopes.getStore()

export const currentRequest = (): ScopeRequest | undefined => chainHere()?.scope.request

/** Returns the scope's session, and records that the handler has read it. */
export const lookAt = (scope: Scope): Session => {
  if (scope.request !== undefined) scope.request.looked = true
  return scope.session
}

/** Whether this scope is the current scope or surrounds the current scope. */
export const isInside = (scope: Scope): boolean => {
  for (let chain = scopes.getStore(); chain !== undefined; chain = chain.outer)
    if (chain.scope === scope) return true
  return false
}

/** Whether both values belong to one session of one store, even if one of them is in a transaction. */
export const isSameRow = (a: Session, b: Session): boolean => a.id === b.id && isSameStore(a.handle, b.handle)

/** Whether both handles are one store, even in two transactions. A store has the same `using` in each transaction. */
export const isSameStore = (a: Session['handle'], b: Session['handle']): boolean =>
  a === b || (a.using !== undefined && a.using === b.using)

const unproven = shared('unproven:1', () => new WeakSet<Token>())

/** Lets a session value, and all values derived from it, only be read, since the browser has not proved to own it. */
export const makeUnproven = (session: Session): void => {
  unproven.add(session.token)
}

/** Returns the session that a request around the running code may only read. */
export const readOnlyHere = (): SessionId | undefined => {
  for (let chain = chainHere(); chain !== undefined; chain = chain.outer)
    if (chain.scope.request?.readOnly !== undefined) return chain.scope.request.readOnly
  return undefined
}

/** Returns the error of a change of a session that the running request may only read. */
export const unprovenReason = ({ id, token }: Session): ProofRequired | undefined =>
  unproven.has(token) || readOnlyHere() === id ? new ProofRequired(id) : undefined

/** Whether reading a session leaves its expiration as it is. */
export const isPassive = (session: Session): boolean =>
  currentRequest()?.isPassive === true || unprovenReason(session) !== undefined

/** Returns the reason why the scope's session cannot be changed, if there is one. */
export const closedReason = ({
  state,
  session,
}: Scope): SessionClosed | SessionGone | ProofRequired | undefined => {
  if (state === 'open') return unprovenReason(session)
  return state === 'closed' ? new SessionClosed(session.id) : new SessionGone(session.id)
}

// Merges another value of the session into the scope, for example from a nested `withSession`. New edits of this value
// are applied on top of the scope's edits. Keys that only this value has loaded are added if both snapshots have the
// same revision. A session value that the scope has already contained changes nothing.
export const mergeInto = (scope: Scope, session: Session): void => {
  if (scope.stored.has(session)) return
  const added = sinceEdits(scope.session.edits, sinceEdits(scope.opened.edits, session.edits))
  const [mine, other] = [scope.session.snapshot, session.snapshot]
  if (O.isSome(mine) && O.isSome(other) && isSameRevision(mine.value, other.value))
    addKeys(scope, union(other.value, mine.value))
  if (!added.isEmpty()) replace(scope, withEdits(scope.session, composeEdits(scope.session.edits, added)))
}

const addKeys = (scope: Scope, snapshot: Snapshot): void => {
  const { handle, token, edits } = scope.session
  if (snapshot.keys !== O.toUndefined(scope.session.snapshot)?.keys)
    replace(scope, storedSession(handle, token, snapshot, edits))
}

export const replace = (scope: Scope, session: Session): void => {
  scope.session = session
  scope.stored.add(session)
  scope.tokens.add(session.token)
}

/** Replaces the scope's session by a new session. */
export const beginAnew = (scope: Scope, session: Session): void => {
  scope.opened = session
  scope.state = 'open'
  replace(scope, session)
}

/** Replaces the edits and the token of the scope's session. Also replaces the snapshot, unless `stored` is older. */
export const replaceState = (scope: Scope, edits: Edits, token: Token, stored: Session['snapshot']): void => {
  const { session } = scope
  const snapshot = newest(session.snapshot, stored)
  replace(
    scope,
    O.isSome(snapshot)
      ? storedSession(session.handle, token, snapshot.value, edits)
      : withEdits(withToken(session, token), edits),
  )
}

// Updates a scope after a save, refresh or rotation has turned `before` into `after`. The scope's session may be newer
// than `before`. So the scope's snapshot is replaced only by a newer snapshot, and only stored edits are removed.
export const sync = (scope: Scope, before: Session, after: Session): void => {
  const { session } = scope
  const token = after.token === before.token ? session.token : after.token
  const taken = sinceEdits(after.edits, before.edits)
  replaceState(scope, sinceEdits(taken, session.edits), token, after.snapshot)
}

// Returns the newer snapshot. The keys of two snapshots of the same revision are combined.
const newest = (sessions: O.Option<Snapshot>, after: O.Option<Snapshot>): O.Option<Snapshot> => {
  if (O.isNone(after) || O.isNone(sessions)) return O.isNone(after) ? sessions : after
  if (isSameRevision(sessions.value, after.value)) return O.some(union(sessions.value, after.value))
  return sessions.value.revision <= after.value.revision ? after : sessions
}

const readOnly = shared('read-only:1', () => new WeakSet<Token>())

/** Makes a session value and all values derived from it read-only. A session that is loaded again can be written. */
export const makeReadOnly = (session: Session): Session => {
  readOnly.add(session.token)
  return session
}

export const isReadOnly = ({ token }: Session): boolean => readOnly.has(token)
