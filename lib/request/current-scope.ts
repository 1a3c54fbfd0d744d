// Where we are: the current frame, the frame of a session, what becomes of it when its store has done something, and
// how it ends.
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { composeEdit, type Edits, sinceEdits } from '../core/edits.js'
import { SessionClosed, type SessionError, SessionGone } from '../core/errors.js'
import { shared } from '../core/process.js'
import { withEdits, withStore } from '../core/session.js'
import type { SessionId, Token } from '../core/token.js'
import type { Session, SessionStore } from '../store/contract.js'
import { storeSession } from './save.js'
import {
  chainHere,
  closedReason,
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
} from './scope.js'

// The current session inside of a transaction of its own database. There it has a frame of its own, made when it is
// first used: what is done in it belongs to the transaction. The transaction writes it right before its commit, so
// that the session's row is locked only then; and only a commit is handed over to the frame around it.

type Transaction = NonNullable<SessionStore['transactionScope']>

/** The frame's counterpart where we are: in the innermost transaction of its database that is open here. */
const scopeHere = (scope: Scope): Scope => {
  const { using, current } = scope.session.handle
  const tx = scope.state === 'open' ? current?.() : undefined
  return tx === undefined || using === undefined ? scope : (scopeIn(scope, using(tx)) ?? scope)
}

/** The session through the handle that can be used where we are. */
export const sessionThere = (session: Session): Session => {
  const { using, current } = session.handle
  const tx = current?.()
  return tx === undefined || using === undefined ? session : withStore(session, using(tx))
}

/** The frame's counterpart in the transaction of `store`; `undefined` when that is not within the frame's own. */
const scopeIn = (scope: Scope, store: SessionStore): Scope | undefined => {
  if (store.transactionScope?.transaction === scope.session.handle.transactionScope?.transaction) return scope
  if (store.transactionScope === undefined) return undefined
  const around = scopeIn(scope, store.transactionScope.outer)
  return (
    around &&
    (around.inner?.get(store.transactionScope.transaction) ??
      openInner(around, store, store.transactionScope))
  )
}

const openInner = (around: Scope, store: SessionStore, transactionScope: Transaction): TransactionScope => {
  let ended = (): void => undefined
  const scope: TransactionScope = {
    ...openScope(withStore(around.session, store)),
    state: around.state,
    // A session value of the request stays one inside.
    stored: around.stored,
    tokens: around.tokens,
    writes: undefined,
    end: new Promise((resolve) => {
      ended = resolve
    }),
  }
  around.inner ??= new Map()
  around.inner.set(transactionScope.transaction, scope)
  // A savepoint hands over what is to be written.
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

/** Writes what was done in the transaction, and what of the request's unsaved edits an update of the same key needs. */
const writing =
  (around: Scope, scope: TransactionScope): TaskEither<SessionError, unknown> =>
  async () => {
    const { session, opened } = scope
    if (scope.state !== 'open') return E.right(undefined)
    if (around.ended) return isChanged(scope) ? E.left(new SessionClosed(session.id)) : E.right(undefined)
    const inside = session.edits.filter((edit, key) => edit !== opened.edits.get(key))
    if (inside.isEmpty()) return E.right(undefined)
    await turnOf(around, scope, inside)
    const saved = await storeSession(withEdits(session, needed(around, scope, inside)))()
    if (E.isRight(saved)) {
      const left = sinceEdits(inside, scope.session.edits)
      replaceState(scope, left, scope.session.token, saved.right.snapshot)
    }
    return saved
  }

/** Two transactions of one request never write the same unsaved edit of it: the later one waits for the other's end. */
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

/** What is written: without the unsaved edits of the request that another transaction of it has written meanwhile. */
const needed = (around: Scope, { opened }: TransactionScope, inside: Edits): Edits => {
  const written = sinceEdits(around.session.edits, opened.edits)
  const own = sinceEdits(opened.edits, inside)
  return inside.map((edit, key) => (written.has(key) ? (own.get(key) ?? edit) : edit))
}

/** Whether the session was changed in the transaction. */
const isChanged = (scope: Scope): boolean =>
  scope.session !== scope.opened || scope.state !== 'open' || changedWithin(scope) !== undefined

const changedWithin = ({ inner }: Scope): TransactionScope | undefined =>
  inner === undefined ? undefined : [...inner.values()].find(isChanged)

/** Waits for the open transactions in which the session was changed; `undefined` when there are none. */
export const changesWithin = (scope: Scope): Promise<void> | undefined => {
  const changed = changedWithin(scope)
  return changed?.end.then(() => changesWithin(scope))
}

const handOver = (around: Scope, { state, session, opened }: TransactionScope): void => {
  if (around.state !== 'open') return
  if (state === 'destroyed') {
    around.state = state
    return
  }
  const edits = handedOver(opened.edits, around.session.edits, session.edits)
  const token = session.token === opened.token ? around.session.token : session.token
  replaceState(around, edits, token, session.snapshot)
}

/**
 * The edits of the frame around: of those that it had when the transaction began (`before`), the ones that are written
 * are done; what is still to be written of the transaction is done on top of what it has by now.
 */
const handedOver = (before: Edits, present: Edits, inside: Edits): Edits => {
  const done = before.filter((edit, key) => inside.get(key) !== edit)
  const left = present
    .filterNot((_, key) => done.has(key))
    .merge(
      sinceEdits(
        done,
        present.filter((_, key) => done.has(key)),
      ),
    )
  return inside
    .filter((edit, key) => edit !== before.get(key))
    .reduce((edits, edit, key) => edits.set(key, composeEdit(edits.get(key), edit)), left)
}

/** The current frame; inside of a transaction of its database, its counterpart there. */
export const currentScope = (): Scope | undefined => {
  const scope = chainHere()?.scope
  return scope && scopeHere(scope)
}

/** The frame's session as it is where we are, until the frame's scope has ended. */
export const sessionOf = (scope: Scope): E.Either<SessionClosed, Session> =>
  scope.ended ? E.left(new SessionClosed(scope.session.id)) : E.right(lookAt(scopeHere(scope)))

/** The open frame, here or around us, of the same session in the same store. */
export const scopeFor = ({ id, handle }: Session): Scope | undefined => inStore(id, handle, chainHere())

const inStore = (id: SessionId, store: SessionStore, chain: ScopeChain | undefined): Scope | undefined => {
  if (chain === undefined) return undefined
  const { session, state } = chain.scope
  const isIt = state === 'open' && session.id === id && isSameStore(session.handle, store)
  const scope = isIt ? scopeIn(chain.scope, store) : undefined
  return scope?.state === 'open' ? scope : inStore(id, store, chain.outer)
}

/**
 * The frame that this very session came from, when that is closed: code that still holds the session outlived
 * its request. One that was loaded anew, with a token of its own, is free.
 */
const closedScopeOf = (session: Session): Scope | undefined => {
  for (let chain = chainHere(); chain !== undefined; chain = chain.outer)
    if (isSameRow(chain.scope.session, session) && chain.scope.tokens.has(session.token))
      return chain.scope.state === 'open' ? undefined : chain.scope
  return undefined
}

/** Tokens of sessions that were given out to be read only. */
const readOnly = shared('read-only:1', () => new WeakSet<Token>())

/** From now on nothing that is made of this very session can be written; one that is loaded anew can. */
export const makeReadOnly = (session: Session): Session => {
  readOnly.add(session.token)
  return session
}

/** Why this session, in the hands of code that outlived its request, cannot be written any more. */
export const endReason = (session: Session): SessionClosed | SessionGone | undefined => {
  if (readOnly.has(session.token)) return new SessionClosed(session.id)
  const scope = closedScopeOf(session)
  return scope === undefined ? undefined : closedReason(scope)
}

/** The frame of the session goes on from what its store did. */
const publishStored = (before: Session, after: Session): void => {
  const scope = after === before ? undefined : scopeFor(before)
  if (scope !== undefined) sync(scope, before, after)
}

/** Refused to what outlived its request; else done, and told to the frame of the session. */
export const guarded =
  <L>(before: Session, task: TaskEither<L, Session>): TaskEither<L | SessionClosed | SessionGone, Session> =>
  async () => {
    const reason = endReason(before)
    if (reason !== undefined) return E.left(reason)
    const done = await task()
    if (E.isRight(done)) publishStored(before, done.right)
    return done
  }

/** The store destroyed the session: its frame ends, and saves nothing. */
export const syncDestroyed = (session: Session): void => {
  const scope = scopeFor(session)
  if (scope !== undefined) scope.state = 'destroyed'
}

/** The same, for a store that ended several sessions at once: any of them may be open around us. */
export const syncEnded = (ended: SessionStore, ids: readonly SessionId[]): void => {
  for (const id of ids)
    for (let chain = chainHere(); chain !== undefined; chain = chain.outer) {
      const scope = inStore(id, ended, chain)
      if (scope !== undefined) scope.state = 'destroyed'
    }
}

/**
 * Closes the frame and saves its session, both once; a destroyed one is not saved. Transactions that are open in it,
 * and in which the session was changed, come to their end before.
 */
export const closeScope =
  (scope: Scope): TaskEither<SessionError, Session> =>
  () => {
    scope.saved ??= changesWithin(scope)?.then(() => saveClosed(scope)) ?? saveClosed(scope)
    return scope.saved
  }

/** Closes the frame without saving: what was done in it is dropped. */
export const dropScope = (scope: Scope): void => {
  scope.ended = true
  if (scope.state === 'open') scope.state = 'closed'
}

const saveClosed = async (scope: Scope): Promise<E.Either<SessionError, Session>> => {
  const isOpen = scope.state === 'open'
  dropScope(scope)
  if (!isOpen) return E.right(scope.session)
  const before = scope.session
  // Perhaps nobody ever sees the page: only what was stored moves the expiration.
  if (scope.request?.isPrefetch === true && before.edits.isEmpty()) return E.right(before)
  const saved = await storeSession(before)()
  if (E.isRight(saved)) {
    replace(scope, saved.right)
    publishStored(before, saved.right)
  }
  // Ended by another request while this one only looked at it: there was nothing to lose.
  else if (saved.left instanceof SessionGone && scope.session.edits.isEmpty()) {
    scope.state = 'gone'
    return E.right(scope.session)
  }
  return saved
}
