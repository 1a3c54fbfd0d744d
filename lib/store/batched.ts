// Wraps a store so that loads, saves and answers of flows are batched. Requests that arrive while a batch runs form the
// next batch. Each request gets its own result. One flush of the write-ahead log makes all saves of a batch durable.

import { applyEdits, composeEdits, type Edits, type Entries, hasUpdates, noEdits } from '../core/edits.js'
import type { SaveConflict, SessionGone, StoreError } from '../core/errors.js'
import { jsonSize } from '../core/json.js'
import { E, is } from '../core/prelude.cjs'
import { hasUnloadedUpdates, keysAfter, makeSnapshot, pick, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import {
  type BatchQueueOptions,
  batchQueue,
  type Merged,
  type Pending,
  UNKNOWN,
  unmerged,
} from '../db/batch-queue.js'
import { type BatchOptions, limitsOf, Scheduler } from '../db/batch-scheduler.js'
import {
  type BatchOperations,
  type Change,
  type LoadRequest,
  RECENT_SAVES,
  type SavedSnapshot,
  type SaveRequest,
  type SessionStore,
  type Unsaved,
  wrapStore,
} from './contract.js'
import type { FlowStore, RowWrite } from './flow-contract.js'

export type { BatchOptions } from '../db/batch-scheduler.js'

interface Save {
  readonly id: SessionId
  readonly change: Change
}

type SaveError = StoreError | SessionGone | SaveConflict
type PendingSave = Pending<Save, SavedSnapshot, SaveError>

const changeOf = ({ item: { change }, mayBeDone }: PendingSave): Change =>
  mayBeDone ? { ...change, mayBeDone } : change

// Merges several saves of one session into one save. Each edit applies to the result of the edit before it. If an
// update throws, the promise of its save rejects. `base` is the result of the session's previous save, if known.
const mergeSaves = (
  pending: readonly PendingSave[],
  base: Snapshot | undefined,
): Merged<Save, SaveRequest, SavedSnapshot, SaveError> => {
  const [{ item }] = pending as readonly [PendingSave]
  // The usual case is one save of a session.
  if (pending.length === 1 && base === undefined) {
    const { edits, since, entries } = item.change
    const changes = pending.map(changeOf)
    const request = { id: item.id, changes, edits, since, entries }
    return { request, pending, split: undefined }
  }
  const since = newest(pending, base && isCovered(base, item.change) ? base : undefined)
  let [entries, edits]: [Entries, Edits | undefined] = [since.entries, undefined]
  const included: PendingSave[] = []
  const results: Entries[] = []
  for (const one of pending)
    try {
      const { change } = one.item
      const next =
        edits === undefined && change.since === since ? change.entries : applyEdits(change.edits, entries)
      edits = edits === undefined ? change.edits : composeEdits(edits, change.edits)
      entries = next
      included.push(one)
      results.push(next)
    } catch (thrown) {
      one.reject(thrown)
    }
  const changes = included.map(changeOf)
  return merged({ id: item.id, changes, edits: edits ?? noEdits, since, entries }, included, results)
}

/** Saves whose snapshots have the same keys can be merged. A save with an update of an unloaded key is sent alone. */
const canMerge = ({ change: first }: Save, { change: other }: Save): boolean =>
  is(first.since.keys, other.since.keys) && !isPartialUpdate(first) && !isPartialUpdate(other)

const isPartialUpdate = ({ since, edits }: Change): boolean => hasUnloadedUpdates(since, edits)

const isCovered = ({ keys }: Snapshot, change: Change | undefined): boolean =>
  change !== undefined &&
  !isPartialUpdate(change) &&
  (keys === undefined || (change.since.keys?.isSubset(keys) ?? false))

const newest = (pending: readonly PendingSave[], base: Snapshot | undefined): Snapshot =>
  pending.reduce<Snapshot | undefined>(
    (latest, { item: { change } }) =>
      latest !== undefined && latest.revision >= change.since.revision ? latest : change.since,
    base,
  ) as Snapshot

// Makes the merged save. Its result is split into one result for each save, as if the saves had run one after another.
// But if the result contains changes of another process, each save gets the state after the merged save.
const merged = (
  request: SaveRequest,
  pending: readonly PendingSave[],
  results: readonly Entries[],
): Merged<Save, SaveRequest, SavedSnapshot, SaveError> => ({
  request,
  pending,
  split: (saved) =>
    request.changes.map(({ save, since, edits }, index) => {
      const own =
        saved.entries === request.entries
          ? makeSnapshot(
              { ...saved, revision: saved.revision - (pending.length - 1 - index), versionTag: save },
              results[index] as Entries,
              saved.keys,
            )
          : saved
      return pick(own, keysAfter(since, edits))
    }),
})

type Batching<K extends 'load' | 'save'> = (
  store: SessionStore,
  batch: BatchOperations,
  limits: Required<BatchOptions>,
  scheduler: Scheduler,
) => SessionStore[K]

/** Loads of all keys and loads of some keys need two different statements, and thus two queues. */
const batchedLoads: Batching<'load'> = (...params) => {
  const [loadAllKeys, loadSomeKeys] = [queueOfLoads(...params), queueOfLoads(...params)]
  return (id, secret, reading) =>
    (reading?.keys === undefined ? loadAllKeys : loadSomeKeys)(id, secret, reading)
}

const queueOfLoads: Batching<'load'> = (store, batch, limits, scheduler) => {
  const load = batchQueue({
    what: 'load',
    limits,
    scheduler,
    misuse: store.misuse,
    all: (requests: readonly LoadRequest[]) => batch.load(requests)(),
    one: (request: LoadRequest) => store.load(request.id, request.secret, request)(),
    merge: unmerged,
  })
  return (id, secret, reading = {}) =>
    () =>
      load({ id, secret, keys: reading.keys, known: reading.known })
}

// The maximum number of saves in a merged save. A header keeps the idempotency keys of twice as many saves. So a store
// recognises a repeated merged save even if another process has sent a merged save in between.
const MAX_MERGED = RECENT_SAVES / 2

// Saves of several sessions share a statement, and saves of one session are merged in their order. While a session is
// being saved, its next saves wait. The result of the running save is the base of the next saves. Thus, many updates of
// one key take one statement.

const savedOf = (result: E.Either<Unsaved, SavedSnapshot>): SavedSnapshot | undefined | typeof UNKNOWN => {
  if (E.isRight(result)) return result.right
  return result.left === 'mayBeStored' ? UNKNOWN : undefined
}

const batchedSaves: Batching<'save'> = (store, batch, limits, scheduler) => {
  const save = batchQueue({
    what: 'save',
    limits,
    scheduler,
    misuse: store.misuse,
    all: async (
      requests: readonly SaveRequest[],
    ): Promise<E.Either<SaveError, readonly (SavedSnapshot | undefined | typeof UNKNOWN)[]>> => {
      const results = await batch.save(requests)()
      return E.isLeft(results) ? results : E.right(results.right.map(savedOf))
    },
    one: ({ id, change }: Save, mayBeDone) => store.save(id, mayBeDone ? { ...change, mayBeDone } : change)(),
    // A batch skips a locked session. The lock may be short, so a second batch is tried.
    isWorthAnotherBatch: ({ change }) => !hasUpdates(change.edits),
    keyOf: ({ id }) => id,
    maxMerged: MAX_MERGED,
    canMerge,
    merge: mergeSaves,
    sizeOf: ({ change: { edits, entries } }) =>
      edits.reduce((size, _, key) => size + key.length + jsonSize(entries.get(key) ?? null), 0),
  })
  return (id, change) => () => save({ id, change })
}

type AddRows = NonNullable<BatchOperations['addRows']>

// Rows of different flows share a statement. The rows of one flow are sent one after the other.
const queueOfRows = (
  { write }: FlowStore,
  addRows: AddRows,
  options: Pick<BatchQueueOptions<RowWrite, RowWrite, true, SaveError>, 'limits' | 'scheduler' | 'misuse'>,
) =>
  batchQueue<RowWrite, RowWrite, true, SaveError>({
    ...options,
    what: 'answer',
    all: async (rows) =>
      E.map((stored: readonly boolean[]) => stored.map((isStored) => isStored || undefined))(
        await addRows(rows)(),
      ),
    one: (row) =>
      write({ session: row.key.session, row, ends: [], change: undefined })().then(
        E.map(() => true as const),
      ),
    keyOf: ({ key: { session, flow } }) => `${session} ${flow}`,
    merge: unmerged,
    sizeOf: ({ row: { records } }) => jsonSize(records),
  })

/** A row that is stored with edits of the session or with the end of a flow is sent alone. */
const batchedFlows = (flows: FlowStore, add: ReturnType<typeof queueOfRows>): FlowStore => ({
  ...flows,
  write: (request) => {
    const { row, ends, change } = request
    if (row === undefined || ends.length > 0 || change !== undefined) return flows.write(request)
    return () => add(row).then(E.map(() => undefined))
  },
})

/**
 * Wraps a store so that concurrent loads share one statement. Concurrent saves share another one, and so do concurrent
 * answers of flows. Each statement is one transaction. A request that arrives alone is sent at once. If `maxQueueSize`
 * requests wait, the next one fails at once with a retryable `DriverError`. A store without `batch` is returned
 * unchanged.
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
  const { batch, flows } = store
  if (batch === undefined) return store
  const scheduler = new Scheduler()
  const queue = { limits, scheduler, misuse: store.misuse }
  return wrapStore(store, {
    load: batchedLoads(store, batch, limits, scheduler),
    save: batchedSaves(store, batch, limits, scheduler),
    ...(flows === undefined || batch.addRows === undefined
      ? {}
      : { flows: batchedFlows(flows, queueOfRows(flows, batch.addRows, queue)) }),
  })
}
