// The current session's cell. A frame holds one immutable session, which code below it replaces by another,
// and it is closed once: from then on nothing changes. `AsyncLocalStorage` stands in for the dynamic extent
// of Scheme's parameters: a scope is bound while a task runs, and reaches all that the task awaits.
import { AsyncLocalStorage } from 'node:async_hooks'
import type * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { composeEdits, type Edits, sinceEdits } from '../core/edits.js'
import { SessionClosed, type SessionError, SessionGone } from '../core/errors.js'
import { shared } from '../core/process.js'
import { type Snapshot, storedSession, union, withEdits, withToken } from '../core/session.js'
import type { Token } from '../core/token.js'
import type { Session } from '../store/contract.js'

/** The request that a frame belongs to, as far as the functions of sessions look at it. */
export interface ScopeRequest {
  /** Whether the browser fetches a page ahead, which may never be visited. */
  readonly isPrefetch: boolean
  /** What the adapter knows of the origin that the request was sent to. */
  readonly origin: { readonly host?: string | undefined; readonly secure: boolean }
  /** Whether its handler has looked at a session, so that the answer is for this visitor alone. */
  looked: boolean
}

export interface Scope {
  session: Session
  /** `destroyed` here, or found to be `gone`: ended elsewhere. */
  state: 'open' | 'closed' | 'destroyed' | 'gone'
  /** Whether its scope has ended: from then on it gives its session to nobody. */
  ended: boolean
  /** The session that it came in with: what differs from its edits was done since. */
  readonly opened: Session
  /** Every session that it held. */
  readonly stored: WeakSet<Session>
  readonly tokens: WeakSet<Token>
  readonly request: ScopeRequest | undefined
  /** Its counterparts in the transactions that are open in it, by the transaction. */
  inner: Map<object, TransactionScope> | undefined
  saved: Promise<E.Either<SessionError, Session>> | undefined
}

/** A frame of the same session in a transaction of its database. */
export interface TransactionScope extends Scope {
  /** Fulfilled when the transaction has ended. */
  readonly end: Promise<void>
  /** The request's unsaved updates that it writes along. */
  writes: Edits | undefined
}

/** Frames nest: a scope knows the one around it. */
export interface ScopeChain {
  readonly scope: Scope
  readonly outer: ScopeChain | undefined
}

const scopes = shared('current-session:1', () => new AsyncLocalStorage<ScopeChain>())

/** Without a request of its own it belongs to that of the frame around it. */
export const openScope = (session: Session, request = currentRequest()): Scope => ({
  session,
  state: 'open',
  ended: false,
  opened: session,
  stored: new WeakSet([session]),
  tokens: new WeakSet([session.token]),
  request,
  inner: undefined,
  saved: undefined,
})

/** A scope of the frame, within the one that is here. */
export const chainOf = (scope: Scope): ScopeChain => ({ scope, outer: scopes.getStore() })

/** Runs `task`, and all that it begins, with `frame` as the current one. */
export const inNewScope = <A>(scope: Scope, task: () => A): A => scopes.run(chainOf(scope), task)

/** Runs `task` in the scope; where an open scope within it is bound already, in that one. */
export const inScope = <A>(chain: ScopeChain, task: () => A): A => {
  const here = scopes.getStore()
  return here?.scope.ended === false && isInside(chain.scope) ? task() : scopes.run(chain, task)
}

export const chainHere = (): ScopeChain | undefined => scopes.getStore()

export const currentRequest = (): ScopeRequest | undefined => chainHere()?.scope.request

/** Notes that the handler looks at the frame's session. */
export const lookAt = (scope: Scope): Session => {
  if (scope.request !== undefined) scope.request.looked = true
  return scope.session
}

/** Whether this frame is here or around us. */
export const isInside = (scope: Scope): boolean => {
  for (let chain = scopes.getStore(); chain !== undefined; chain = chain.outer)
    if (chain.scope === scope) return true
  return false
}

/** Whether both are one session of one store, inside of a transaction or not. */
export const isSameRow = (a: Session, b: Session): boolean => a.id === b.id && isSameStore(a.handle, b.handle)

/** All handles of a store in a database share one function `over`. */
export const isSameStore = (a: Session['handle'], b: Session['handle']): boolean =>
  a === b || (a.using !== undefined && a.using === b.using)

/** Why this frame's session cannot be changed, or `undefined` when it can. */
export const closedReason = ({ state, session }: Scope): SessionClosed | SessionGone | undefined => {
  if (state === 'open') return undefined
  return state === 'closed' ? new SessionClosed(session.id) : new SessionGone(session.id)
}

/**
 * A nested `withSession` joins: what its session has beyond the frame's, and beyond what the frame came with,
 * is done on top; and what it knows beyond the frame's, if that is of the same moment. A session that the frame held
 * itself, earlier or now, brings nothing.
 */
export const mergeInto = (scope: Scope, session: Session): void => {
  if (scope.stored.has(session)) return
  const brought = sinceEdits(scope.session.edits, sinceEdits(scope.opened.edits, session.edits))
  const knowing = scope.session.snapshot
  if (O.isSome(knowing) && O.isSome(session.snapshot) && isSameMoment(knowing.value, session.snapshot.value))
    addKeys(scope, union(session.snapshot.value, knowing.value))
  if (!brought.isEmpty()) replace(scope, withEdits(scope.session, composeEdits(scope.session.edits, brought)))
}

const addKeys = (scope: Scope, snapshot: Snapshot): void => {
  const { handle, token, edits } = scope.session
  if (snapshot.keys !== O.toUndefined(scope.session.snapshot)?.keys)
    replace(scope, storedSession(handle, token, snapshot, edits))
}

/** Replaces the frame's session. */
export const replace = (scope: Scope, session: Session): void => {
  scope.session = session
  scope.stored.add(session)
  scope.tokens.add(session.token)
}

/** What a frame's session becomes: other edits, another token, and what is known by now. */
export const replaceState = (scope: Scope, edits: Edits, token: Token, known: Session['snapshot']): void => {
  const { session } = scope
  const snapshot = newest(session.snapshot, known)
  replace(
    scope,
    O.isSome(snapshot)
      ? storedSession(session.handle, token, snapshot.value, edits)
      : withEdits(withToken(session, token), edits),
  )
}

/**
 * The store turned `before` into `after`: saved it, refreshed it, or gave it another secret. The frame of
 * that session goes on from there. `before` may be an older state than the frame's: so of what the frame
 * knows only that is replaced which is newer, and only those of its edits are done that the store has taken.
 */
export const sync = (scope: Scope, before: Session, after: Session): void => {
  const { session } = scope
  const token = after.token === before.token ? session.token : after.token
  const taken = sinceEdits(after.edits, before.edits)
  replaceState(scope, sinceEdits(taken, session.edits), token, after.snapshot)
}

// Never of two moments: what is known of an older one is not known of a newer one.
const newest = (sessions: O.Option<Snapshot>, after: O.Option<Snapshot>): O.Option<Snapshot> => {
  if (O.isNone(after) || O.isNone(sessions)) return O.isNone(after) ? sessions : after
  if (isSameMoment(sessions.value, after.value)) return O.some(union(sessions.value, after.value))
  return sessions.value.revision <= after.value.revision ? after : sessions
}

const isSameMoment = (one: Snapshot, other: Snapshot): boolean =>
  one.revision === other.revision && one.versionTag === other.versionTag
