// A store that batches loads and saves. Requests that arrive while others run form the next batch, each with its own
// result. So one flush of the WAL makes many saves durable.
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
import { countMergeable, type Merged, mergeSaves, splitResult } from './merge-saves.js'

export type { BatchOptions } from '../db/batch-queue.js'

type Batching<K extends 'load' | 'save'> = (
  store: SessionStore,
  batch: BatchOperations,
  limits: Required<BatchOptions>,
) => SessionStore[K]

/** Loads of all keys and loads of some keys are two statements, and thus two queues. */
const batchedLoads: Batching<'load'> = (...params) => {
  const [loadAllKeys, loadSomeKeys] = [queueOfLoads(...params), queueOfLoads(...params)]
  return (id, secret, reading) =>
    (reading?.keys === undefined ? loadAllKeys : loadSomeKeys)(id, secret, reading)
}

const queueOfLoads: Batching<'load'> = (store, batch, limits) => {
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

type Outcome = Awaited<ReturnType<ReturnType<SessionStore['save']>>>

interface PendingSave extends PendingRequest {
  readonly resolve: (outcome: Outcome) => void
  readonly change: Change
}

/** Saves of one session that are merged into one. `base` is the result of an earlier save of this process. */
interface Group {
  readonly id: SessionId
  readonly pending: readonly PendingSave[]
  readonly base: Snapshot | undefined
}

interface SaveQueue {
  /** The number of unanswered saves. */
  readonly size: () => number
  readonly enqueue: (id: SessionId, one: PendingSave) => void
  readonly next: () => readonly Group[] | undefined
  /** Ends a group, once. `snapshot` is the session's new state, if known. */
  readonly complete: (group: Group, snapshot: Snapshot | undefined) => void
}

/** Half the number of saves that a header keeps, so that a retry of merged saves is recognized. */
const MAX_MERGED = 32

interface State {
  /** By session, in the order of their first save. */
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
    complete: (group, snapshot) => {
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
    const group = takeGroup(state, id, all, queueTimeoutMs)
    if (group === undefined) continue
    groups.push(group)
    size += sizeOf(group)
    if (groups.length >= batch || size > BATCH_SIZE) break
  }
  return groups.length === 0 ? undefined : groups
}

/** Removes saves of a session that can be merged. Returns `undefined` if all of them have timed out. */
const takeGroup = (
  state: State,
  id: SessionId,
  all: PendingSave[],
  queueTimeoutMs: number,
): Group | undefined => {
  const { pending, underWay, bases } = state
  const some = all.splice(0, countMergeable(all, MAX_MERGED))
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

// Saves of several sessions share a statement; saves of one session are merged in their order. While a session is being
// saved, its next saves wait and continue from the result. So many updates of one key take one statement.

const batchedSaves: Batching<'save'> = (store, batch, limits) => {
  const { maxBatchSize, concurrency, maxQueueSize, queueTimeoutMs } = limits
  const queue = saveQueue(maxBatchSize, queueTimeoutMs)
  const complete = (group: Group, snapshot: Snapshot | undefined): void => {
    queue.complete(group, snapshot)
    schedule()
  }
  // An observer of statements may throw.
  const send = (groups: readonly Group[]): Promise<void> =>
    saveAll({ store, batch, complete, queueTimeoutMs }, groups).catch((thrown: unknown) => {
      for (const group of groups) {
        complete(group, undefined)
        for (const { reject } of group.pending) reject(thrown)
      }
    })
  const schedule = scheduler({ next: queue.next, send }, concurrency)
  return (id, change) => () => {
    const failure =
      store.misuse?.() ?? (queue.size() >= maxQueueSize ? queueFull('save', maxQueueSize) : undefined)
    if (failure !== undefined) return Promise.resolve(E.left(failure))
    return new Promise((resolve, reject) => {
      queue.enqueue(id, { change, since: performance.now(), resolve, reject })
      schedule()
    })
  }
}

interface Saving {
  readonly store: SessionStore
  readonly batch: BatchOperations
  readonly queueTimeoutMs: number
  readonly complete: SaveQueue['complete']
}

const saveAll = async (saving: Saving, groups: readonly Group[]): Promise<void> => {
  const { batch, complete } = saving
  const all = groups.map((group) => ({ group, merged: mergeSaves(group.id, group.pending, group.base) }))
  const ready = all.filter(({ merged }) => merged.pending.length > 0)
  for (const { group, merged } of all) if (merged.pending.length === 0) complete(group, undefined)
  const [first] = ready
  if (first === undefined) return
  if (ready.length === 1 && first.merged.pending.length === 1) {
    await releaseSlotAfter(saveEach(saving, first.group, first.merged.pending))
    return
  }
  const results = await batch.save(ready.map(({ merged }) => merged.request))()
  for (const [index, { group, merged }] of ready.entries()) {
    if (E.isLeft(results) && isBatchWideFailure(results.left)) fail(saving, group, merged.pending, results)
    else {
      const saved = E.isRight(results) ? (results.right[index] ?? O.none) : O.none
      if (O.isSome(saved)) succeed(saving, group, merged, saved.value)
      // Not awaited, since it may wait for a lock.
      else void saveEach(saving, group, merged.pending)
    }
  }
}

const succeed = (
  { complete }: Saving,
  group: Group,
  merged: Merged<PendingSave>,
  saved: SavedSnapshot,
): void => {
  complete(group, saved)
  for (const [index, one] of splitResult(merged, saved).entries())
    merged.pending[index]?.resolve(E.right(one))
}

const fail = (
  { complete }: Saving,
  group: Group,
  pending: readonly PendingSave[],
  failure: Outcome,
): void => {
  complete(group, undefined)
  for (const { resolve } of pending) resolve(failure)
}

/** Saves one after the other, each alone, within its time in the queue. */
const saveEach = async (
  { store, complete, queueTimeoutMs }: Saving,
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
  complete(group, latest)
}

/**
 * Wraps a store so that loads and saves that arrive together share a statement, which is one transaction. A lone one is
 * sent at once. Beyond `maxQueueSize` waiting requests, the next fails at once with a retryable `DriverError`. A store
 * without `batch` is returned unchanged.
 *
 * @throws `RangeError` for an option that is out of range
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
