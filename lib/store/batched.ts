// A store that batches loads and saves. Requests that arrive while others run form the next batch, each with its own
// result. So one flush of the WAL makes many saves durable.

import { applyEdits, composeEdits, type Edits, type Entries, noEdits } from '../core/edits.js'
import { jsonSize } from '../core/json.js'
import { E, is, O } from '../core/prelude.cjs'
import { hasUnloadedUpdates, keysAfter, pick, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import {
  type BatchOptions,
  batchQueue,
  dropTimedOut,
  isBatchWideFailure,
  limitsOf,
  MAX_BATCH_CHARS,
  type PendingRequest,
  queueFull,
  releaseSlotAfter,
  scheduler,
} from '../db/batch-queue.js'
import {
  type BatchOperations,
  type Change,
  RECENT_SAVES,
  type SavedSnapshot,
  type SaveRequest,
  type SessionStore,
  wrapStore,
} from './contract.js'

export type { BatchOptions } from '../db/batch-queue.js'

// Merges several saves of one session into one. Each edit applies to the result of the one before it.

interface Merged<W> {
  readonly request: SaveRequest
  /** The merged saves. Those whose updates threw are rejected. */
  readonly pending: readonly W[]
  readonly results: readonly Entries[]
}

interface Mergeable {
  readonly change: Change
  readonly reject: (thrown: unknown) => void
}

/** `base` is a newer state of the store than that of the changes, if known. */
const mergeSaves = <W extends Mergeable>(
  id: SessionId,
  pending: readonly W[],
  base: Snapshot | undefined,
): Merged<W> => {
  const [only] = pending
  // The usual case is one save of a session.
  if (only !== undefined && pending.length === 1 && base === undefined) {
    const { edits, since, entries } = only.change
    return { request: { id, changes: [only.change], edits, since, entries }, pending, results: [entries] }
  }
  const since = newest(pending, base && isCovered(base, pending[0]?.change) ? base : undefined)
  let [entries, edits]: [Entries, Edits | undefined] = [since.entries, undefined]
  const included: W[] = []
  const results: Entries[] = []
  for (const one of pending)
    try {
      const { change } = one
      const next =
        edits === undefined && change.since === since ? change.entries : applyEdits(change.edits, entries)
      edits = edits === undefined ? change.edits : composeEdits(edits, change.edits)
      entries = next
      included.push(one)
      results.push(next)
    } catch (thrown) {
      one.reject(thrown)
    }
  const changes = included.map(({ change }) => change)
  return { request: { id, changes, edits: edits ?? noEdits, since, entries }, pending: included, results }
}

/**
 * Returns how many saves, from the first on and at most `atMost`, can be merged: those that cover the same keys. A save
 * with an update of a key that is not loaded goes alone.
 */
const countMergeable = (pending: readonly Mergeable[], atMost: number): number => {
  if (pending.length === 1) return 1
  const [first, ...others] = pending.slice(0, atMost).map(({ change }) => change)
  if (first === undefined || isPartialUpdate(first)) return 1
  const other = others.findIndex(
    (change) => !is(change.since.keys, first.since.keys) || isPartialUpdate(change),
  )
  return other < 0 ? others.length + 1 : other + 1
}

const isPartialUpdate = ({ since, edits }: Change): boolean => hasUnloadedUpdates(since, edits)

const isCovered = ({ keys }: Snapshot, change: Change | undefined): boolean =>
  change !== undefined &&
  !isPartialUpdate(change) &&
  (keys === undefined || (change.since.keys?.isSubset(keys) ?? false))

const newest = (pending: readonly Mergeable[], base: Snapshot | undefined): Snapshot =>
  pending.reduce<Snapshot | undefined>(
    (latest, { change }) =>
      latest !== undefined && latest.revision >= change.since.revision ? latest : change.since,
    base,
  ) as Snapshot

/**
 * Splits the result of a merged save into one for each save, as if each had been saved alone. With other saves in
 * between, all get the present state.
 */
const splitResult = <W extends Mergeable>(
  { request, pending, results }: Merged<W>,
  saved: SavedSnapshot,
): readonly SavedSnapshot[] =>
  pending.map(({ change }, index) => {
    const own =
      saved.entries === request.entries
        ? {
            ...saved,
            revision: saved.revision - (pending.length - 1 - index),
            versionTag: change.save,
            entries: results[index] as Entries,
          }
        : saved
    return pick(own, keysAfter(change.since, change.edits))
  })

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
  /** The number of sessions with saves that are not under way. */
  readonly waiting: () => number
  readonly enqueue: (id: SessionId, one: PendingSave) => void
  readonly next: () => readonly Group[] | undefined
  /** Ends a group, once. `snapshot` is the session's new state, if known. */
  readonly complete: (group: Group, snapshot: Snapshot | undefined) => void
}

/** At most half of the saves that a store recognizes, so that a retry of merged saves is recognized. */
const MAX_MERGED = RECENT_SAVES / 2

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
    waiting: () => pending.size,
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
    if (groups.length >= batch || size > MAX_BATCH_CHARS) break
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
// saved, its next saves wait and continue from the result. Many updates of one key thus take one statement.

const batchedSaves: Batching<'save'> = (store, batch, limits) => {
  const { maxBatchSize, maxQueueSize, queueTimeoutMs } = limits
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
  const schedule = scheduler({ size: queue.waiting, next: queue.next, send }, limits)
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
