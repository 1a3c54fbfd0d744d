// A store whose loads and saves share statements: those that arrive while others are under way go together, each with
// its own result. So a durable write costs one flush of the log for many requests.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { jsonSize } from '../core/json.js'
import type { Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import {
  BATCH_SIZE,
  type BatchOptions,
  batchQueue,
  dropTimedOut,
  isBatchWideFailure,
  limitsOf,
  type PendingRequest,
  queueFull,
  releaseSlotAfter,
  scheduler,
} from '../db/batch-queue.js'
import type { BatchOperations, Change, SavedSnapshot, SessionStore } from './contract.js'
import { wrapStore } from './in-transaction.js'
import { alike, type Folded, folded, unfolded } from './merge-saves.js'

export type { BatchOptions } from '../db/batch-queue.js'

// Loads that are done together.

/** Those of some keys go together, and those of all: they are two statements. */
const batchedLoads = (
  ...params: readonly [SessionStore, BatchOperations, Required<BatchOptions>]
): SessionStore['load'] => {
  const [loadAllKeys, loadSomeKeys] = [queueOfLoads(...params), queueOfLoads(...params)]
  return (id, secret, reading) =>
    (reading?.keys === undefined ? loadAllKeys : loadSomeKeys)(id, secret, reading)
}

const queueOfLoads = (
  store: SessionStore,
  batch: BatchOperations,
  limits: Required<BatchOptions>,
): SessionStore['load'] => {
  const load = batchQueue({
    what: 'load',
    limits,
    misuse: store.misuse,
    all: (requests: Parameters<BatchOperations['load']>[0]) => batch.load(requests)(),
    one: (request) => store.load(request.id, request.secret, request)(),
  })
  return (id, secret, reading = {}) =>
    () =>
      load({ id, secret, ...reading })
}

// The line of saves that wait: those of one session together, and never two batches of one session at once.

type Outcome = Awaited<ReturnType<ReturnType<SessionStore['save']>>>

interface PendingSave extends PendingRequest {
  readonly resolve: (outcome: Outcome) => void
  readonly change: Change
}

/** The saves of one session that are done as one; `base` is what an earlier save of this process left. */
interface Group {
  readonly id: SessionId
  readonly pending: readonly PendingSave[]
  readonly base: Snapshot | undefined
}

interface SaveQueue {
  /** How many were not answered yet. */
  readonly size: () => number
  readonly enqueue: (id: SessionId, one: PendingSave) => void
  readonly next: () => readonly Group[] | undefined
  /** The group was answered; its session is as this, if that is known. The second time does nothing. */
  readonly left: (group: Group, snapshot: Snapshot | undefined) => void
}

/** Of one session, half as many as a header remembers saves: so that a retry can be told from its first try. */
const AT_MOST = 32

interface State {
  /** By session, in the order in which the first of each came. */
  readonly pending: Map<SessionId, PendingSave[]>
  readonly underWay: Map<SessionId, Group>
  readonly bases: Map<SessionId, Snapshot>
  size: number
}

const saveQueue = (batch: number, queueTimeoutMs: number): SaveQueue => {
  const state: State = { pending: new Map(), underWay: new Map(), bases: new Map(), size: 0 }
  const { pending, underWay, bases } = state
  return {
    size: () => state.size,
    enqueue: (id, one) => {
      const same = pending.get(id)
      if (same === undefined) pending.set(id, [one])
      else same.push(one)
      state.size += 1
    },
    next: () => nextGroups(state, batch, queueTimeoutMs),
    left: (group, snapshot) => {
      if (underWay.get(group.id) !== group) return
      underWay.delete(group.id)
      state.size -= group.pending.length
      if (snapshot !== undefined && pending.has(group.id)) bases.set(group.id, snapshot)
    },
  }
}

const nextGroups = (state: State, batch: number, queueTimeoutMs: number): readonly Group[] | undefined => {
  const groups: Group[] = []
  let size = 0
  for (const [id, all] of state.pending) {
    if (state.underWay.has(id)) continue
    const group = taken(state, id, all, queueTimeoutMs)
    if (group === undefined) continue
    groups.push(group)
    size += sizeOf(group)
    if (groups.length >= batch || size > BATCH_SIZE) break
  }
  return groups.length === 0 ? undefined : groups
}

/** Out of the line, those of a session that go together; none, if they have all waited too long. */
const taken = (
  state: State,
  id: SessionId,
  all: PendingSave[],
  queueTimeoutMs: number,
): Group | undefined => {
  const { pending, underWay, bases } = state
  const some = all.splice(0, alike(all, AT_MOST))
  if (all.length === 0) pending.delete(id)
  const group = { id, pending: dropTimedOut(some, 'save', queueTimeoutMs), base: bases.get(id) }
  bases.delete(id)
  state.size -= some.length - group.pending.length
  if (group.pending.length === 0) return undefined
  underWay.set(id, group)
  return group
}

const sizeOf = ({ pending }: Group): number => {
  let size = 0
  for (const { change } of pending)
    for (const key of change.edits.keys()) size += key.length + jsonSize(change.entries.get(key) ?? null)
  return size
}

// Saves that are done together: of several sessions in one statement, and those of one session folded into one save,
// in the order in which they came. While a session's save is under way its next ones wait, and then go on from what that
// one left: so updates of one key by many requests of a process take one statement for many, not one for each.

const batchedSaves = (
  store: SessionStore,
  batch: BatchOperations,
  { maxBatchSize, concurrency, maxQueueSize, queueTimeoutMs }: Required<BatchOptions>,
): SessionStore['save'] => {
  const queue = saveQueue(maxBatchSize, queueTimeoutMs)
  const left = (group: Group, snapshot: Snapshot | undefined): void => {
    queue.left(group, snapshot)
    joined()
  }
  // A statement's observer may throw: that is everybody's, and their places are free again.
  const send = (groups: readonly Group[]): Promise<void> =>
    saveAll({ store, batch, left, queueTimeoutMs }, groups).catch((thrown: unknown) => {
      for (const group of groups) {
        left(group, undefined)
        for (const { reject } of group.pending) reject(thrown)
      }
    })
  const joined = scheduler({ next: queue.next, send }, concurrency)
  return (id, change) => () => {
    const failure =
      store.misuse?.() ?? (queue.size() >= maxQueueSize ? queueFull('save', maxQueueSize) : undefined)
    if (failure !== undefined) return Promise.resolve(E.left(failure))
    return new Promise((resolve, reject) => {
      queue.enqueue(id, { change, since: performance.now(), resolve, reject })
      joined()
    })
  }
}

interface Saving {
  readonly store: SessionStore
  readonly batch: BatchOperations
  readonly queueTimeoutMs: number
  /** Tells that a group was answered. */
  readonly left: (group: Group, snapshot: Snapshot | undefined) => void
}

const saveAll = async (saving: Saving, groups: readonly Group[]): Promise<void> => {
  const { batch, left } = saving
  const folds = groups.map((group) => ({ group, fold: folded(group.id, group.pending, group.base) }))
  const ready = folds.filter(({ fold }) => fold.pending.length > 0)
  for (const { group, fold } of folds) if (fold.pending.length === 0) left(group, undefined)
  const [first] = ready
  if (first === undefined) return
  if (ready.length === 1 && first.fold.pending.length === 1) {
    await releaseSlotAfter(saveEach(saving, first.group, first.fold.pending))
    return
  }
  const results = await batch.save(ready.map(({ fold }) => fold.request))()
  for (const [index, { group, fold }] of ready.entries()) {
    if (E.isLeft(results) && isBatchWideFailure(results.left)) fail(saving, group, fold.pending, results)
    else {
      const saved = E.isRight(results) ? (results.right[index] ?? O.none) : O.none
      if (O.isSome(saved)) succeed(saving, group, fold, saved.value)
      // Not awaited: it may wait for a lock, and those behind need not.
      else void saveEach(saving, group, fold.pending)
    }
  }
}

const succeed = ({ left }: Saving, group: Group, fold: Folded<PendingSave>, saved: SavedSnapshot): void => {
  left(group, saved)
  for (const [index, one] of unfolded(fold, saved).entries()) fold.pending[index]?.resolve(E.right(one))
}

const fail = ({ left }: Saving, group: Group, pending: readonly PendingSave[], failure: Outcome): void => {
  left(group, undefined)
  for (const { resolve } of pending) resolve(failure)
}

/** One after the other, each by itself, for as long as their turn may take. */
const saveEach = async (
  { store, left, queueTimeoutMs }: Saving,
  group: Group,
  pending: readonly PendingSave[],
): Promise<void> => {
  let latest: Snapshot | undefined
  for (const one of pending)
    try {
      if (dropTimedOut([one], 'save', queueTimeoutMs).length === 0) continue
      const outcome = await store.save(group.id, one.change)()
      if (E.isRight(outcome)) latest = outcome.right
      one.resolve(outcome)
    } catch (thrown) {
      one.reject(thrown)
    }
  left(group, latest)
}

/**
 * The same store, with loads and saves that arrive together sharing statements, each of which is one transaction. A lone
 * one is done as before, and waits for nothing. When more wait than `queue` allows, the next fails at once with a retryable
 * `DriverError`. A store without `many` comes back as it is. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { batched, cached, sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = batched(cached(sessionStore(database)))
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const batched = (store: SessionStore, options: BatchOptions = {}): SessionStore => {
  const limits = limitsOf(options)
  const { batch } = store
  if (batch === undefined) return store
  return wrapStore(store, {
    load: batchedLoads(store, batch, limits),
    save: batchedSaves(store, batch, limits),
  })
}
