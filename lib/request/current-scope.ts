// Finds the current scope and the scope of a session, updates scopes after changes in the store, and closes scopes.

import { composeEdits, type Edits, sinceEdits } from '../core/edits.js'
import { SessionClosed, type SessionError, SessionGone, started } from '../core/errors.js'
import { E, type TE } from '../core/prelude.cjs'
import { withEdits, withStore } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  chainHere,
  closedReason,
  isReadOnly,
  isSameRow,
  isSameStore,
  lookAt,
  openScope,
  replace,
  replaceState,
  type Scope,
  type ScopeChain,
  sync,
  type TransactionScope,
  unprovenReason,
} from './scope.js'
import { storeSession, storing } from './store-session.js'

// When a program first uses the current session in a transaction of the session's database, an inner scope is made.
// Changes in the inner scope belong to the transaction, which writes them right before its commit. So the session's row
// is locked only briefly. After the commit the outer scope gets the changes.

type Transaction = NonNullable<SessionStore['transactionScope']>

/** Returns the inner scope of `scope` for the innermost transaction of the database, or `scope` if there is none. */
const scopeHere = (scope: Scope): Scope => {
  const { using, current } = scope.session.handle
  const tx = scope.state === 'open' ? current?.() : undefined
  return tx === undefined || using === undefined ? scope : (scopeIn(scope, using(tx)) ?? scope)
}

/** Returns the session in the innermost open transaction of its database, or unchanged if there is none. */
export const sessionThere = (session: Session): Session => {
  const { using, current } = session.handle
  const tx = current?.()
  return tx === undefined || using === undefined ? session : withStore(session, using(tx))
}

// Returns the inner scope of `scope` for the transaction of `store`. If `scope` itself belongs to this transaction,
// returns `scope`. If the transaction is not inside the transaction of `scope`, returns `undefined`.
const scopeIn = (scope: Scope, store: SessionStore): Scope | undefined => {
  const { transactionScope } = store
  if (transactionScope?.transaction === scope.session.handle.transactionScope?.transaction) return scope
  if (transactionScope === undefined) return undefined
  const around = scopeIn(scope, transactionScope.outer)
  return (
    around && (around.inner?.get(transactionScope.transaction) ?? openInner(around, store, transactionScope))
  )
}

const openInner = (around: Scope, store: SessionStore, transactionScope: Transaction): TransactionScope => {
  let ended = (): void => undefined
  const scope: TransactionScope = {
    ...openScope(withStore(around.session, store)),
    state: around.state,
    // A session value from before the transaction stays valid inside the transaction.
    stored: around.stored,
    tokens: around.tokens,
    writes: undefined,
    end: new Promise((resolve) => {
      ended = resolve
    }),
  }
  around.inner ??= new Map()
  around.inner.set(transactionScope.transaction, scope)
  // Only the outermost transaction writes. A savepoint hands its changes over to the scope around it.
  if (transactionScope.outer.transactionScope === undefined)
    transactionScope.beforeCommit(writing(around, scope))
  transactionScope.onEnd((committed) => {
    around.inner?.delete(transactionScope.transaction)
    scope.ended = true
    if (committed) handOver(around, scope)
    ended()
  })
  return scope
}

/** Returns a task that writes the transaction's changes, and the request's unsaved edits on which they depend. */
const writing =
  (around: Scope, scope: TransactionScope): TE.TaskEither<SessionError, unknown> =>
  async () => {
    const { session, opened } = scope
    if (scope.state !== 'open') return E.right(undefined)
    if (around.ended) return isChanged(scope) ? E.left(new SessionClosed(session.id)) : E.right(undefined)
    const inside = session.edits.filter((edit, key) => edit !== opened.edits.get(key))
    if (inside.isEmpty()) return E.right(undefined)
    const reason = closedReason(scope)
    if (reason !== undefined) return E.left(reason)
    await turnOf(around, scope, inside)
    const saved = await storeSession(withEdits(session, needed(around, scope, inside)))()
    if (E.isRight(saved)) {
      const left = sinceEdits(inside, scope.session.edits)
      replaceState(scope, left, scope.session.token, saved.right.snapshot)
    }
    return saved
  }

// Two transactions of one request must not write the same unsaved edit. So the second transaction waits for the first.
const turnOf = async (around: Scope, scope: TransactionScope, inside: Edits): Promise<void> => {
  const mine = scope.opened.edits.filter((edit, key) => edit._tag === 'Update' && inside.has(key))
  const isRival = (other: TransactionScope): boolean =>
    other.writes?.some((edit, key) => mine.get(key) === edit) ?? false
  for (;;) {
    const rival = [...(around.inner?.values() ?? [])].find(isRival)
    if (rival === undefined) break
    await rival.end
  }
  scope.writes = mine
}

/** Returns the edits to write. An edit that another transaction of the request has written meanwhile is left out. */
const needed = (around: Scope, { opened }: TransactionScope, inside: Edits): Edits => {
  const written = sinceEdits(around.session.edits, opened.edits)
  const own = sinceEdits(opened.edits, inside)
  return inside.map((edit, key) => (written.has(key) ? (own.get(key) ?? edit) : edit))
}

const isChanged = (scope: Scope): boolean =>
  scope.session !== scope.opened || scope.state !== 'open' || changedWithin(scope) !== undefined

const changedWithin = ({ inner }: Scope): TransactionScope | undefined =>
  inner === undefined ? undefined : [...inner.values()].find(isChanged)

/** Waits for the open transactions that changed the session. Returns `undefined` if there are none. */
export const changesWithin = (scope: Scope): Promise<void> | undefined => {
  const changed = changedWithin(scope)
  return changed?.end.then(() => changesWithin(scope))
}

const handOver = (around: Scope, { state, session, opened }: TransactionScope): void => {
  if (around.state !== 'open' || !isSameRow(around.session, session)) return
  if (state === 'destroyed') {
    around.state = state
    return
  }
  const edits = handedOver(opened.edits, around.session.edits, session.edits)
  const token = session.token === opened.token ? around.session.token : session.token
  replaceState(around, edits, token, session.snapshot)
}

// Returns the edits of the outer scope after a commit. `before` are the edits of the outer scope before the
// transaction, `present` are the edits of the outer scope now, and `inside` are the transaction's unsaved edits.
const handedOver = (before: Edits, present: Edits, inside: Edits): Edits => {
  const done = before.filter((edit, key) => inside.get(key) !== edit)
  const added = inside.filter((edit, key) => before.get(key) !== edit)
  return composeEdits(sinceEdits(done, present), added)
}

/** Returns the current scope, or in a transaction of the session's database the scope that keyrow made for it. */
export const currentScope = (): Scope | undefined => {
  const scope = chainHere()?.scope
  return scope && scopeHere(scope)
}

/** Returns the scope's session, with the changes of the innermost transaction. Fails if the scope has ended. */
export const sessionOf = (scope: Scope): E.Either<SessionClosed, Session> =>
  scope.ended ? E.left(new SessionClosed(scope.session.id)) : E.right(lookAt(scopeHere(scope)))

/** Returns the innermost open scope of this session. For a session value of a transaction, returns the inner scope. */
export const scopeFor = ({ id, handle }: Session): Scope | undefined => inStore(id, handle, chainHere())

const inStore = (id: SessionId, store: SessionStore, chain: ScopeChain | undefined): Scope | undefined => {
  if (chain === undefined) return undefined
  const { session, state } = chain.scope
  const isIt = state === 'open' && session.id === id && isSameStore(session.handle, store)
  const scope = isIt ? scopeIn(chain.scope, store) : undefined
  return scope?.state === 'open' ? scope : inStore(id, store, chain.outer)
}

// Returns the closed scope of this session value, if there is one. In this case the code that uses the value has
// outlived the request. A session that was loaded again has a new `Token`, so it has no closed scope.
const closedScopeOf = (session: Session): Scope | undefined => {
  for (let chain = chainHere(); chain !== undefined; chain = chain.outer)
    if (isSameRow(chain.scope.session, session) && chain.scope.tokens.has(session.token))
      return chain.scope.state === 'open' ? undefined : chain.scope
  return undefined
}

/** Returns the reason why a session value cannot be written, if it is read-only or its request has ended. */
export const endReason = (session: Session): EndReason | undefined => {
  if (isReadOnly(session)) return new SessionClosed(session.id)
  const scope = closedScopeOf(session)
  return scope === undefined ? undefined : closedReason(scope)
}

type EndReason = NonNullable<ReturnType<typeof closedReason>>

/** Updates the session's scope after the store has changed the session. */
const publishStored = (before: Session, after: Session): void => {
  const scope = after === before ? undefined : scopeFor(before)
  if (scope !== undefined) sync(scope, before, after)
}

/** Runs the task and updates the session's scope. Fails for a session value that cannot be written. */
export const guarded =
  <L>(
    before: Session,
    task: TE.TaskEither<L, Session>,
    kind: 'read' | 'write' = 'write',
  ): TE.TaskEither<L | EndReason, Session> =>
  () => {
    const reason = endReason(before) ?? (kind === 'write' ? unprovenReason(before) : undefined)
    if (reason !== undefined) return Promise.resolve(E.left(reason))
    return task().then((done) => {
      if (E.isRight(done)) publishStored(before, done.right)
      return done
    })
  }

/** Marks the session's scope as destroyed, so that the scope saves nothing. */
export const syncDestroyed = (session: Session): void => {
  const scope = scopeFor(session)
  if (scope !== undefined) scope.state = 'destroyed'
}

/** Marks each scope around the running code as destroyed if its session is one of these sessions. */
export const syncEnded = (ended: SessionStore, ids: readonly SessionId[]): void => {
  for (const id of ids)
    for (let chain = chainHere(); chain !== undefined; chain = chain.outer) {
      const scope = inStore(id, ended, chain)
      if (scope !== undefined) scope.state = 'destroyed'
    }
}

// Closes the scope and saves its session. A second call does not save again. The save waits for open transactions that
// changed the session. A destroyed session is not saved.
export const closeScope =
  (scope: Scope): TE.TaskEither<SessionError, Session> =>
  () => {
    scope.saved ??= started(() => changesWithin(scope)?.then(() => saveClosed(scope)) ?? saveClosed(scope))
    return scope.saved
  }

/** Closes the scope without saving. */
export const dropScope = (scope: Scope): void => {
  scope.ended = true
  if (scope.state === 'open') scope.state = 'closed'
}

const saveClosed = (scope: Scope): Promise<E.Either<SessionError, Session>> => {
  const isOpen = scope.state === 'open'
  const before = scope.session
  const reason = isOpen && !before.edits.isEmpty() ? closedReason(scope) : undefined
  dropScope(scope)
  if (reason !== undefined) return Promise.resolve(E.left(reason))
  // A prefetched page may never be seen, for example.
  const isPassive = scope.request?.isPassive === true || unprovenReason(before) !== undefined
  const isUnseen = isPassive && before.edits.isEmpty()
  const store = isOpen && !isUnseen ? storing(before) : undefined
  if (store === undefined) return Promise.resolve(E.right(before))
  return store().then((saved) => {
    if (E.isRight(saved)) {
      replace(scope, saved.right)
      publishStored(before, saved.right)
    }
    // Another request has ended the session. This request has no edits, so nothing is lost.
    else if (saved.left instanceof SessionGone && scope.session.edits.isEmpty()) {
      scope.state = 'gone'
      return E.right(scope.session)
    }
    return saved
  })
}
