// Wraps a store so that a save is answered when a shared cache has it. The store gets the save a little later, many saves as
// one. Each load still asks the store, which alone says whether the session is alive. The cache has the saves that the
// store does not have yet, as the head of the session, and the load adds them.

import { LRUCache } from 'lru-cache'
import { applyEdits } from '../core/edits.js'
import { DriverError, numberOption, type SaveConflict, SessionGone, type StoreError } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { neutral } from '../core/process.js'
import { isSameRevision, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import { LIFETIME, PRINCIPAL } from '../core/well-known-keys.js'
import {
  type Absence,
  type BatchOperations,
  type Change,
  type LoadRequest,
  type SavedSnapshot,
  type SaveRequest,
  type SessionStore,
  type Unsaved,
  withTransactions,
} from '../store/contract.js'
import type { FlowStore } from '../store/flow-contract.js'
import type { Cache } from './contract.js'
import {
  emptyHead,
  type Head,
  hasSave,
  isClosed,
  isFull,
  isNewer,
  savesIn,
  tipOf,
  withoutStored,
  withSave,
} from './head.js'
import { HeadCache, type HeadRead } from './head-cache.js'
import { type Closed, LateQueue, type LateStore } from './late-saves.js'
import { sealingWith } from './sealed.js'

export interface WriteBehindOptions {
  /** The secrets that encrypt the values in the cache, like those of `writeThrough`. */
  readonly secrets: readonly Uint8Array[]
  /** The time in milliseconds after which a save is stored. Default: 1,000. */
  readonly flushMs?: number
  /** If a save could not be stored for this many milliseconds, new saves wait for the store. Default: 10,000. */
  readonly maxBehindMs?: number
  /** If this many saves of the process are not stored, new saves wait for the store. Default: 10,000. */
  readonly maxJournal?: number
}

export interface WriteBehindStore extends SessionStore {
  /** Stores all saves of this process now. */
  readonly flush: TE.TaskEither<StoreError, void>
  /** Stores all saves of this process. Call it when the process ends. Later saves wait for the store. */
  readonly drain: TE.TaskEither<StoreError, void>
}

type SaveError = StoreError | SessionGone | SaveConflict

/** What this process knows of a session: a state of the store, and the head on this state. */
interface View {
  readonly stored: Snapshot
  readonly head: Head
  /** The version of the head in the cache, or `None` if the cache has none. `undefined`: it has to be read again. */
  readonly version: O.Option<string> | undefined
}

const MAX_VIEWS = 10_000
const MAX_ATTEMPTS = 8

/**
 * @throws `RangeError` for an option that is out of range, `TypeError` for a store without late saves
 */
export const writeBehind = (
  store: SessionStore,
  cache: Cache,
  { secrets, flushMs = 1_000, maxBehindMs = 10_000, maxJournal = 10_000 }: WriteBehindOptions,
): WriteBehindStore => {
  const { late } = store
  if (late === undefined) throw new TypeError('writeBehind needs a store in PostgreSQL, without citus')
  const options = {
    flushMs: numberOption('flushMs', flushMs, 0, 3_600_000),
    maxBehindMs: numberOption('maxBehindMs', maxBehindMs, 0, 3_600_000),
    maxJournal: numberOption('maxJournal', maxJournal, 1, 1e7, 'integer'),
  }
  if (options.flushMs + options.maxBehindMs > store.lifetime.idleMs / 10)
    throw new RangeError('flushMs and maxBehindMs together must be at most a tenth of idleMs')
  const heads = new HeadCache(cache, sealingWith(secrets))
  const queue = new LateQueue({ ...store, late }, heads, options)
  return { ...behindStore({ ...store, late }, heads, queue), flush: queue.flushNow, drain: queue.drain }
}

const behindStore = (store: LateStore, heads: HeadCache, queue: LateQueue): SessionStore => {
  const behind = new Behind(store, heads, queue)
  const { using, batch, flows } = store
  const own: SessionStore = {
    ...store,
    load: (id, secret, reading) => () => behind.load({ id, secret, ...reading }),
    refresh: (id, known, keys) => () => behind.refresh(id, known, keys),
    save: (id, change) => () => behind.save(id, change),
    destroy: (id) =>
      pipe(
        store.destroy(id),
        TE.chainFirstTaskK(() => () => behind.ended([id])),
      ),
    endAll: (principal, which) =>
      pipe(
        store.endAll(principal, which),
        TE.chainFirstTaskK((ids) => () => behind.ended(ids)),
      ),
    ...(batch === undefined ? {} : { batch: batchOf(batch, behind) }),
    ...(flows === undefined ? {} : { flows: flowsAfter(flows, behind) }),
  }
  return using === undefined ? own : withTransactions(own, (tx) => inTransaction(using(tx), behind))
}

/** A transaction sees only what the store has. So the head of a session stays closed from its first use to the end. */
const inTransaction = (store: SessionStore, behind: Behind): SessionStore => {
  const closed = new Map<SessionId, Promise<E.Either<StoreError, Closed>>>()
  const once = (id: SessionId): Promise<E.Either<StoreError, Closed>> => {
    // The head is stored outside of the transaction.
    const present = closed.get(id) ?? neutral(() => behind.close(id))
    if (!closed.has(id))
      store.transactionScope?.onEnd(() => {
        void present.then((ended) => (E.isRight(ended) ? ended.right.open() : undefined))
      })
    closed.set(id, present)
    return present
  }
  const after =
    <L, A>(id: SessionId, task: TE.TaskEither<L, A>): TE.TaskEither<L | StoreError, A> =>
    async () => {
      const ready = await once(id)
      return E.isLeft(ready) ? ready : task()
    }
  return {
    ...store,
    load: (id, secret, reading) => after(id, store.load(id, secret, reading)),
    refresh: (id, known, keys) => after(id, store.refresh(id, known, keys)),
    save: (id, change) => after(id, store.save(id, change)),
  }
}

/** Edits of a session that are stored with a flow do not wait in a head. */
const flowsAfter = (flows: FlowStore, behind: Behind): FlowStore => ({
  ...flows,
  write: (write) =>
    write.change === undefined ? flows.write(write) : behind.after(write.session, flows.write(write)),
})

const batchOf = (batch: BatchOperations, behind: Behind): BatchOperations => ({
  ...batch,
  load: (requests) => () => behind.loadAll(requests, batch.load(requests)),
  save: (requests) => () => behind.saveAll(requests),
})

type Loaded = E.Either<StoreError, E.Either<Absence, Snapshot>>

class Behind {
  readonly #store: LateStore
  readonly #heads: HeadCache
  readonly #queue: LateQueue
  readonly #views = new LRUCache<SessionId, View>({ max: MAX_VIEWS })

  constructor(store: LateStore, heads: HeadCache, queue: LateQueue) {
    this.#store = store
    this.#heads = heads
    this.#queue = queue
  }

  async load(request: LoadRequest): Promise<Loaded> {
    const { id, secret } = request
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const [loaded, [read]] = await Promise.all([
        this.#store.load(id, secret, request)(),
        this.#heads.read([id]) as Promise<readonly [HeadRead]>,
      ])
      const found = await this.#completed(id, loaded, read)
      if (found !== 'again') return found
    }
    return E.left(busy('load'))
  }

  async loadAll(
    requests: readonly LoadRequest[],
    load: ReturnType<BatchOperations['load']>,
  ): Promise<E.Either<StoreError, readonly E.Either<Absence, Snapshot>[]>> {
    const [loaded, reads] = await Promise.all([load(), this.#heads.read(requests.map(({ id }) => id))])
    if (E.isLeft(loaded)) return loaded
    const all = await Promise.all(
      requests.map(async (request, index): Promise<Loaded> => {
        const one = E.right(loaded.right[index] as E.Either<Absence, Snapshot>)
        const found = await this.#completed(request.id, one, reads[index] as HeadRead)
        return found === 'again' ? this.load(request) : found
      }),
    )
    return E.sequenceArray(all)
  }

  /** Adds the head to a loaded session. `again` means that the session has to be loaded again. */
  async #completed(id: SessionId, loaded: Loaded, read: HeadRead): Promise<Loaded | 'again'> {
    if (E.isLeft(loaded) || E.isLeft(loaded.right)) {
      this.#views.delete(id)
      return loaded
    }
    const stored = loaded.right.right
    const view = this.#viewOf(id, stored, read)
    if (view === 'older') return 'again'
    if (view === 'misfit') {
      if (read.kind !== 'head') return 'again'
      const settled = await this.#queue.settle(id, read.head, read.version)
      return E.isLeft(settled) ? settled : 'again'
    }
    if (stored.keys === undefined) this.#views.set(id, view)
    if (read.kind === 'head' && this.#queue.isLeftBehind(read.head)) this.#queue.adopt(id)
    return E.right(E.right(tipOf(view.head, stored, 0)))
  }

  /** Returns what follows from a state of the store and the value of the cache. */
  #viewOf(id: SessionId, stored: Snapshot, read: HeadRead): View | 'older' | 'misfit' {
    if (read.kind === 'head') {
      const { head } = read
      const [count, version] = [savesIn(head, stored), O.some(read.version)]
      if (count !== undefined) return { stored, head: withoutStored(head, count), version }
      if (head.saves.length === 0 && !isNewer(head, stored))
        return { stored, head: { ...emptyHead(stored), closers: head.closers }, version }
      return isNewer(head, stored) ? 'older' : 'misfit'
    }
    if (read.kind === 'ended') return { stored, head: emptyHead(stored), version: O.some(read.version) }
    // The cache has lost the head or hides it. If this process knows the head, the head is used.
    const own = this.#queue.ownHead(id)
    const count = own && savesIn(own, stored)
    const head = own === undefined || count === undefined ? emptyHead(stored) : withoutStored(own, count)
    return { stored, head, version: read.kind === 'none' ? O.none : undefined }
  }

  async refresh(
    id: SessionId,
    known: Snapshot,
    keys: Parameters<SessionStore['refresh']>[2],
  ): Promise<E.Either<StoreError, O.Option<Snapshot>>> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const [found, [read]] = await Promise.all([
        this.#store.refresh(id, known, keys)(),
        this.#heads.read([id]) as Promise<readonly [HeadRead]>,
      ])
      if (E.isLeft(found) || O.isNone(found.right)) return found
      const completed = await this.#completed(id, E.right(E.right(found.right.value)), read)
      if (completed === 'again') continue
      if (E.isLeft(completed)) return completed
      return E.right(O.fromEither(completed.right))
    }
    return E.left(busy('refresh'))
  }

  async save(id: SessionId, change: Change): Promise<E.Either<SaveError, SavedSnapshot>> {
    if (!isLate(change) || this.#queue.isOverloaded()) return this.#through(id, change)
    let isDoubtful = change.mayBeDone ?? false
    let view = isDoubtful ? undefined : this.#views.get(id)
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      if (view?.version === undefined) {
        const read = await this.#view(id, change.since)
        if (E.isLeft(read)) return read
        view = read.right
        if (view.version === undefined) return this.#through(id, change, isDoubtful)
        if (hasSave(view.head, change.save)) return this.#answered(id, [change], view)
        if (isDoubtful) return this.#through(id, change, true)
      }
      const isPossible = !isFull(view.head, 1) && !isClosed(view.head, Date.now())
      const next = !isPossible ? undefined : this.#withChanges(view, [change])
      if (next === undefined) return this.#through(id, change)
      const [swapped] = await this.#heads.swap([{ id, head: next.head, version: view.version }])
      if (swapped === true) return this.#answered(id, [change], { ...next, version: undefined })
      isDoubtful ||= swapped === undefined
      view = undefined
    }
    return this.#through(id, change, isDoubtful)
  }

  /** Saves several sessions with one command of the cache. The queue saves each of the others alone. */
  async saveAll(
    requests: readonly SaveRequest[],
  ): Promise<E.Either<StoreError, readonly E.Either<Unsaved, SavedSnapshot>[]>> {
    const prepared = requests.map(({ id, changes }) => {
      const view = this.#views.get(id)
      const isPossible =
        view?.version !== undefined &&
        !this.#queue.isOverloaded() &&
        changes.every((change) => isLate(change) && change.mayBeDone !== true) &&
        !isFull(view.head, changes.length) &&
        !isClosed(view.head, Date.now())
      return isPossible
        ? { id, changes, version: view.version, next: this.#withChanges(view, changes) }
        : undefined
    })
    const some = prepared.flatMap((one) =>
      one === undefined ? [] : [{ id: one.id, head: one.next.head, version: one.version }],
    )
    const swapped = (some.length === 0 ? [] : await this.#heads.swap(some)).values()
    const results: E.Either<Unsaved, SavedSnapshot>[] = []
    for (const one of prepared) {
      const done = one === undefined ? false : swapped.next().value
      if (one !== undefined) this.#views.delete(one.id)
      if (one !== undefined && done === true)
        results.push(this.#answered(one.id, one.changes, { ...one.next, version: undefined }))
      else results.push(E.left(done === undefined ? 'mayBeStored' : 'notStored'))
    }
    return E.right(results)
  }

  #withChanges({ stored, head }: View, changes: readonly Change[]): Omit<View, 'version'> {
    let tip = tipOf(head, stored, 0)
    let next = head
    for (const change of changes) {
      const entries = isSameRevision(tip, change.since)
        ? change.entries
        : applyEdits(change.edits, tip.entries)
      next = withSave(next, change, entries, Date.now())
      tip = tipOf(next, stored, 0)
    }
    return { stored, head: next }
  }

  #answered(id: SessionId, changes: readonly Change[], view: View): E.Right<SavedSnapshot> {
    this.#queue.add(id, changes, view.head)
    this.#views.set(id, view)
    return E.right(tipOf(view.head, view.stored, 0)) as E.Right<SavedSnapshot>
  }

  /** Reads what is needed for a save. */
  async #view(id: SessionId, since: Snapshot): Promise<E.Either<SaveError, View>> {
    const known = this.#views.get(id)?.stored
    const [read] = (await this.#heads.read([id])) as readonly [HeadRead]
    if (read.kind === 'ended') return E.left(new SessionGone(id))
    // The cache names the state of the store, if no save has gone beside the head.
    if (known !== undefined && read.kind === 'head' && savesIn(read.head, known) !== undefined) {
      const view = this.#viewOf(id, known, read)
      if (typeof view === 'object') return E.right(view)
    }
    const found = await this.refresh(id, since, undefined)
    if (E.isLeft(found)) return found
    const view = this.#views.get(id)
    return O.isNone(found.right) || view === undefined ? E.left(new SessionGone(id)) : E.right(view)
  }

  /** Saves a change in the store, after the head. If the cache does not answer, the own saves come first. */
  async #through(
    id: SessionId,
    change: Change,
    isDoubtful = false,
  ): Promise<E.Either<SaveError, SavedSnapshot>> {
    const task = isDoubtful
      ? () => this.#queue.saveOnce(id, change)
      : (this.#store.save(id, change) as TE.TaskEither<SaveError, SavedSnapshot>)
    return this.after(id, task)()
  }

  close(id: SessionId): Promise<E.Either<StoreError, Closed>> {
    this.#views.delete(id)
    return this.#queue.close(id)
  }

  /** Runs a task that saves the session in the store, after the head of the session is stored. */
  after<L, A>(id: SessionId, task: TE.TaskEither<L, A>): TE.TaskEither<L | StoreError | SessionGone, A> {
    return async () => {
      const closed = await this.close(id)
      if (E.isLeft(closed)) return closed
      if (closed.right.stored === 'gone') return E.left(new SessionGone(id))
      try {
        return await task()
      } finally {
        await closed.right.open()
      }
    }
  }

  async ended(ids: readonly SessionId[]): Promise<void> {
    for (const id of ids) this.#views.delete(id)
    await this.#queue.ended(ids)
  }
}

/** A save of a principal or a lifetime is never late. A partially loaded session has no values for the head. */
const isLate = ({ edits, since }: Change): boolean =>
  since.keys === undefined && !edits.has(PRINCIPAL) && !edits.has(LIFETIME)

const busy = (operation: string): DriverError =>
  new DriverError(`${operation}: the session changes too fast`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
  })
