// Loads and saves sessions of which a shared cache has the last saves. A load adds the head of the session to what the store
// has. A save replaces the head. If the head cannot take the save, the save goes to the store, after the head.

import { LRUCache } from 'lru-cache'
import { applyEdits } from '../core/edits.js'
import { DriverError, SessionGone, type StoreError, withEffect } from '../core/errors.js'
import { E, O, type TE } from '../core/prelude.cjs'
import { isSameRevision, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import { LIFETIME, PRINCIPAL } from '../core/well-known-keys.js'
import type {
  Absence,
  BatchOperations,
  Change,
  LoadRequest,
  SavedSnapshot,
  SaveRequest,
  SessionStore,
  Unsaved,
} from '../store/contract.js'
import type { Swapped } from './contract.js'
import {
  emptyHead,
  type Head,
  hasSave,
  isClosed,
  isFull,
  isNewer,
  lastRevision,
  savesIn,
  tipOf,
  withoutStored,
  withSave,
} from './head.js'
import type { HeadCache, HeadRead } from './head-cache.js'
import { busy, type LateStore, type SaveError } from './head-store.js'
import type { Closed, LateQueue } from './late-saves.js'

/** What this process knows of a session: a state of the store, and the head on this state. */
interface View {
  readonly stored: Snapshot
  readonly head: Head
  /** The version of the head in the cache, or `None` if the cache has none. `undefined`: it has to be read again. */
  readonly version: O.Option<string> | undefined
}

const MAX_VIEWS = 10_000

/** A view is used for this time. It is shorter than the time for which the cache keeps a head without saves. */
const VIEW_MS = 30_000

/**
 * A head is newer than the store, or does not fit, for a moment only, unless the store has lost saves. After this many
 * attempts a load waits for the lock of the session.
 */
const MAX_OLDER = 3
const MAX_ATTEMPTS = 8

type Loaded = E.Either<StoreError, E.Either<Absence, Snapshot>>

export class Behind {
  readonly #store: LateStore
  readonly #heads: HeadCache
  readonly #queue: LateQueue
  readonly #views = new LRUCache<SessionId, View>({ max: MAX_VIEWS, ttl: VIEW_MS })

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
      const found = await this.#completed(id, loaded, read, attempt)
      if (found !== 'again') return found
    }
    return E.left(busy(id))
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
  async #completed(id: SessionId, loaded: Loaded, read: HeadRead, attempt = 1): Promise<Loaded | 'again'> {
    if (E.isLeft(loaded) || E.isLeft(loaded.right)) {
      this.#views.delete(id)
      return loaded
    }
    const stored = loaded.right.right
    const view = this.#viewOf(id, stored, read)
    if (view === 'older' && attempt < MAX_OLDER) return 'again'
    if (view !== 'older' && view !== 'misfit') {
      if (!this.#queue.isMissingIn(id, view.head)) return this.#viewed(id, view, read)
      const found = await this.#storeMissing(id, view.head)
      return E.isLeft(found) ? found : 'again'
    }
    if (read.kind !== 'head' && this.#queue.ownHead(id) === undefined)
      return this.#viewed(id, bareView(stored, read), read)
    // The store has the saves of the head, but the cache does not let the head be replaced.
    if (
      read.kind === 'head' &&
      attempt > MAX_OLDER &&
      (await this.#queue.store.covers(id, read.head, stored))
    )
      return this.#viewed(id, bareView(stored, UNREADABLE), UNREADABLE)
    const settled =
      read.kind === 'head' && attempt <= MAX_OLDER
        ? await this.#queue.store.settle(id, read.head, read.version)
        : await this.#queue.flush(id, attempt > MAX_OLDER)
    return E.isLeft(settled) ? settled : 'again'
  }

  #viewed(id: SessionId, view: View, read: HeadRead): Loaded {
    if (view.stored.keys === undefined) this.#views.set(id, view)
    else this.#views.delete(id)
    if (read.kind === 'head' && this.#queue.isLeftBehind(read.head)) this.#queue.adopt(id)
    return E.right(E.right(tipOf(view.head, view.stored)))
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
    // The load began before the end of the session.
    if (read.kind === 'ended') return 'older'
    // The cache has lost the head or hides it. If this process knows the head, the head is used.
    const own = this.#queue.ownHead(id)
    if (own === undefined) return this.#isOlder(id, stored) ? 'older' : bareView(stored, read)
    const count = savesIn(own, stored)
    if (count !== undefined) return { ...bareView(stored, read), head: withoutStored(own, count) }
    return isNewer(own, stored) ? 'older' : 'misfit'
  }

  /** Whether a load began before saves that this process knows. They were in a head, and were stored meanwhile. */
  #isOlder(id: SessionId, { revision }: Snapshot): boolean {
    const view = this.#views.get(id)
    return view !== undefined && revision < lastRevision(view.head)
  }

  async refresh(
    id: SessionId,
    known: Snapshot,
    keys: Parameters<SessionStore['refresh']>[2],
    touches = true,
  ): Promise<E.Either<StoreError, O.Option<Snapshot>>> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const [found, [read]] = await Promise.all([
        this.#store.refresh(id, known, keys, touches)(),
        this.#heads.read([id]) as Promise<readonly [HeadRead]>,
      ])
      if (E.isLeft(found) || O.isNone(found.right)) return found
      const completed = await this.#completed(id, E.right(E.right(found.right.value)), read, attempt)
      if (completed === 'again') continue
      if (E.isLeft(completed)) return completed
      return E.right(O.fromEither(completed.right))
    }
    return E.left(busy(id))
  }

  async save(id: SessionId, change: Change): Promise<E.Either<SaveError, SavedSnapshot>> {
    if (!isLate(change)) return this.#through(id, change)
    let isDoubtful = this.#queue.mayBeStored(change)
    if (this.#queue.isOverloaded()) return this.#through(id, change, isDoubtful)
    let view = isDoubtful ? undefined : this.#views.get(id)
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      if (view?.version === undefined) {
        const read = await this.#view(id, change.since)
        if (E.isLeft(read)) return isDoubtful ? E.left(withUnknownEffect(read.left)) : read
        view = read.right
        if (view.version === undefined) return this.#through(id, change, isDoubtful)
      }
      if (hasSave(view.head, change.save)) return this.#answered(id, [change], view)
      if (isDoubtful) return this.#through(id, change, true)
      if (this.#queue.isMissingIn(id, view.head)) {
        const stored = await this.#storeMissing(id, view.head)
        if (E.isLeft(stored)) return stored
        view = undefined
        continue
      }
      const isPossible = !isFull(view.head, 1) && !isClosed(view.head, Date.now())
      const next = !isPossible ? undefined : this.#withChanges(view, [change])
      if (next === undefined) return this.#through(id, change)
      const [swapped] = await this.#heads.swap([{ id, head: next.head, version: view.version }])
      if (swapped?.isStored === true) return this.#answered(id, [change], viewAfter(next, swapped))
      isDoubtful ||= swapped === undefined
      view = undefined
    }
    return this.#through(id, change, isDoubtful)
  }

  /** Stores the saves of this process that a head lacks. The session has to be read again. */
  #storeMissing(id: SessionId, head: Head): ReturnType<LateQueue['storeMissing']> {
    this.#views.delete(id)
    return this.#queue.storeMissing(id, head)
  }

  /** Saves several sessions with one command of the cache. The queue saves each of the others alone. */
  async saveAll(
    requests: readonly SaveRequest[],
  ): Promise<E.Either<StoreError, readonly E.Either<Unsaved, SavedSnapshot>[]>> {
    const views = await this.#viewsOf(requests.map(({ id }) => id))
    const prepared = requests.map((request, index) => this.#prepared(request, views[index]))
    const some = prepared.flatMap((one) => (one === undefined ? [] : [one]))
    const results = some.length === 0 ? [] : await this.#heads.swap(some)
    const done = new Map(some.map(({ id }, index) => [id, results[index]]))
    return E.right(
      requests.map(({ id, changes }, index): E.Either<Unsaved, SavedSnapshot> => {
        const [one, swapped] = [prepared[index], done.get(id)]
        if (one === undefined) return E.left('notStored')
        if (swapped?.isStored === true) return this.#answered(id, changes, viewAfter(one.view, swapped))
        this.#readAgain(id)
        return E.left(swapped === undefined ? 'mayBeStored' : 'notStored')
      }),
    )
  }

  /** Lets the next save read the head again. */
  #readAgain(id: SessionId): void {
    const view = this.#views.get(id)
    if (view !== undefined) this.#views.set(id, { ...view, version: undefined })
  }

  /** Returns a view for each session that this process knows. Heads without a version are read with one command. */
  async #viewsOf(ids: readonly SessionId[]): Promise<readonly (View | undefined)[]> {
    const views = ids.map((id) => this.#views.get(id))
    const unread = ids.filter((_, index) => views[index] !== undefined && views[index].version === undefined)
    if (unread.length === 0) return views
    const reads = new Map((await this.#heads.read(unread)).map((read, index) => [unread[index], read]))
    return views.map((view, index) => {
      const [id, read] = [ids[index] as SessionId, reads.get(ids[index])]
      if (view === undefined || read === undefined) return view
      return this.#viewOn(id, view, read)
    })
  }

  /**
   * Returns the view on a known state, if the head in the cache says that the store still has this state. Since then the
   * saves of the known head may have been stored.
   */
  #viewOn(id: SessionId, { stored, head }: View, read: HeadRead): View | undefined {
    // While a head is closed, a save goes beside it.
    if (read.kind !== 'head' || read.head.closers.length > 0) return undefined
    const known = [stored, tipOf(head, stored)].find((state) => savesIn(read.head, state) !== undefined)
    const view = known && this.#viewOf(id, known, read)
    return typeof view === 'object' ? view : undefined
  }

  /** Returns the new head of a session, or `undefined` if its save has to be sent alone. */
  #prepared({ id, changes }: SaveRequest, view: View | undefined) {
    const isPossible =
      view?.version !== undefined &&
      !this.#queue.isOverloaded() &&
      !this.#queue.isMissingIn(id, view.head) &&
      changes.every(
        (change) => isLate(change) && !this.#queue.mayBeStored(change) && !hasSave(view.head, change.save),
      ) &&
      !isFull(view.head, changes.length) &&
      !isClosed(view.head, Date.now())
    if (!isPossible) return undefined
    // A function may throw on newer values. Its save is sent alone, and gets the error.
    const next = E.tryCatch(
      () => this.#withChanges(view, changes),
      () => undefined,
    )
    if (E.isLeft(next)) return undefined
    return { id, head: next.right.head, version: view.version, view: next.right }
  }

  #withChanges({ stored, head }: View, changes: readonly Change[]): Omit<View, 'version'> {
    let tip = tipOf(head, stored)
    let next = head
    for (const change of changes) {
      const entries = isSameRevision(tip, change.since)
        ? change.entries
        : applyEdits(change.edits, tip.entries)
      next = withSave(next, change, entries, Date.now())
      tip = tipOf(next, stored)
    }
    return { stored, head: next }
  }

  #answered(id: SessionId, changes: readonly Change[], view: View): E.Right<SavedSnapshot> {
    this.#queue.add(id, changes, view.head)
    this.#views.set(id, view)
    return E.right(tipOf(view.head, view.stored)) as E.Right<SavedSnapshot>
  }

  /** Reads what is needed for a save. */
  async #view(id: SessionId, since: Snapshot): Promise<E.Either<SaveError, View>> {
    const known = this.#views.get(id)
    const [read] = (await this.#heads.read([id])) as readonly [HeadRead]
    const present = known && this.#viewOn(id, known, read)
    if (present !== undefined) return E.right(present)
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const found = await this.refresh(id, since, undefined)
      if (E.isLeft(found)) return found
      if (O.isNone(found.right)) return E.left(new SessionGone(id))
      // Another request may have removed the view meanwhile.
      const view = this.#views.get(id)
      if (view !== undefined) return E.right(view)
    }
    return E.left(busy(id))
  }

  /** Saves a change in the store, after the head. If the cache does not answer, the own saves come first. */
  async #through(
    id: SessionId,
    change: Change,
    isDoubtful = false,
  ): Promise<E.Either<SaveError, SavedSnapshot>> {
    const task = isDoubtful
      ? () => this.#queue.store.saveOnce(id, change)
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

const UNREADABLE: HeadRead = { kind: 'unknown' }

/** Returns the view without a head. If the store has restored a session that had ended, its next save replaces the mark. */
const bareView = (stored: Snapshot, read: HeadRead): View => ({
  stored,
  head: emptyHead(stored),
  version: 'version' in read ? O.some(read.version) : read.kind === 'none' ? O.none : undefined,
})

/** Returns the view after a save that is in the cache. */
const viewAfter = ({ stored, head }: Omit<View, 'version'>, { version }: Swapped): View => ({
  stored,
  head,
  version: version === undefined ? undefined : O.some(version),
})

/** A save of a principal or a lifetime is never late. A partially loaded session has no values for the head. */
const isLate = ({ edits, since }: Change): boolean =>
  since.keys === undefined && !edits.has(PRINCIPAL) && !edits.has(LIFETIME)

/** The effect of an error is unknown if an earlier attempt may have saved. */
const withUnknownEffect = (error: SaveError): SaveError =>
  error instanceof DriverError ? withEffect(error, 'unknown') : error
