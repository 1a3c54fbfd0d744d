// Caches the sessions that this process has loaded and saved. Each load still queries the database, so its result is
// never stale. The database returns only the changes since the cached snapshot.

import { LRUCache } from 'lru-cache'
import type { Edits, Entries } from '../core/edits.js'
import { jsonSize } from '../core/json.js'
import { numberOption } from '../core/options.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import {
  type Absence,
  type BatchOperations,
  type LoadRequest,
  type SaveRequest,
  type SessionStore,
  wrapStore,
} from './contract.js'

export interface MemoryLimit {
  /** The approximate maximum memory of the cache, in bytes. Default: 128 MiB. */
  readonly maxBytes?: number
}

/**
 * Wraps a store with a cache in this process. Each load reads only the changes since the cached snapshot, including the
 * changes of other processes. If the cache exceeds `maxBytes`, it drops the least recently used sessions.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { batched, cached, sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = batched(cached(sessionStore(database), { maxBytes: 16 * 1024 * 1024 }))
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const cached = (store: SessionStore, options: MemoryLimit = {}): SessionStore => {
  const cache = cacheOf(options)
  return wrapStore(store, {
    ...reading(store, cache),
    ...writing(store, cache),
    ...(store.batch === undefined ? {} : { batch: cachedBatch(store.batch, cache) }),
  })
}

const reading = (store: SessionStore, cache: Cache): Pick<SessionStore, 'load' | 'refresh'> => ({
  load:
    (id, secret, { keys, known } = {}) =>
    () =>
      store
        .load(id, secret, { known: cache.get(id) ?? known, keys })()
        .then((result) => {
          if (E.isRight(result)) cache.loaded(id, result.right)
          return result
        }),
  refresh: (id, known, keys, touches) =>
    pipe(
      store.refresh(id, known, keys, touches),
      TE.tapIO((found) => () => (O.isSome(found) ? cache.put(id, found.value) : cache.drop(id))),
    ),
})

const writing = (store: SessionStore, cache: Cache): Pick<SessionStore, 'create' | 'save' | 'destroy'> => ({
  create: (id, secret, save, entries) =>
    pipe(
      store.create(id, secret, save, entries),
      TE.tapIO(
        (saved) => () =>
          cache.put(id, makeSnapshot({ ...saved, touchDue: false, versionTag: save }, entries, undefined)),
      ),
    ),
  save: (id, change) => () =>
    store
      .save(id, change)()
      .then((result) => {
        if (E.isRight(result)) cache.saved(id, change, 1, result.right)
        return result
      }),
  destroy: (id) =>
    pipe(
      TE.fromIO(() => cache.drop(id)),
      TE.chain(() => store.destroy(id)),
    ),
})

const cachedBatch = (batch: BatchOperations, cache: Cache): BatchOperations => ({
  ...batch,
  load: (requests) => async () => {
    const withKnown: LoadRequest[] = []
    for (const { id, secret, keys, known } of requests)
      withKnown.push({ id, secret, keys, known: cache.get(id) ?? known })
    const results = await batch.load(withKnown)()
    if (E.isRight(results))
      results.right.forEach((result, index) => {
        cache.loaded((requests[index] as LoadRequest).id, result)
      })
    return results
  },
  save: (requests) => async () => {
    const results = await batch.save(requests)()
    if (E.isRight(results))
      results.right.forEach((saved, index) => {
        const request = requests[index] as SaveRequest
        if (E.isRight(saved)) cache.saved(request.id, request, request.changes.length, saved.right)
      })
    return results
  },
})

/** A cache of fully loaded sessions. `put` ignores a partially loaded one, which must not replace a full one. */
interface Cache {
  readonly get: (id: SessionId) => Snapshot | undefined
  readonly put: (id: SessionId, snapshot: Snapshot) => void
  readonly drop: (id: SessionId) => void
  readonly loaded: (id: SessionId, result: E.Either<Absence, Snapshot>) => void
  // Caches the result of a save that combines `saves` saves. If no other request has saved the session meanwhile, only
  // the sizes of the edited entries are computed.
  readonly saved: (
    id: SessionId,
    change: Pick<SaveRequest, 'since' | 'edits'>,
    saves: number,
    snapshot: Snapshot,
  ) => void
}

interface Cached {
  snapshot: Snapshot
  readonly size: number
}

const cacheOf = ({ maxBytes = 128 * 1024 * 1024 }: MemoryLimit): Cache => {
  const maxSize = numberOption('maxBytes', maxBytes, 1, Number.MAX_SAFE_INTEGER, 'integer')
  const cache = new LRUCache<SessionId, Cached>({ maxSize, sizeCalculation: ({ size }) => size })
  // Replaces the snapshot in place if its size is the same, since `LRUCache.set` costs more than the rest of a save here.
  const set = (id: SessionId, snapshot: Snapshot, size: number, present: Cached | undefined): void => {
    if (present?.size === size) present.snapshot = snapshot
    else cache.set(id, { snapshot, size: Math.max(1, size) })
  }
  const put = (id: SessionId, snapshot: Snapshot): void => {
    if (snapshot.keys !== undefined) return
    const present = cache.peek(id)
    if (present?.snapshot.entries === snapshot.entries) present.snapshot = snapshot
    else set(id, snapshot, sizeOf(snapshot.entries), present)
  }
  return {
    get: (id) => cache.get(id)?.snapshot,
    put,
    drop: (id) => void cache.delete(id),
    // The result `unknown` may mean a wrong secret, so the cached session is kept.
    loaded: (id, result) => {
      if (E.isRight(result)) put(id, result.right)
      else if (result.left === 'expired') cache.delete(id)
    },
    saved: (id, { since, edits }, saves, snapshot) => {
      const before = cache.peek(id)
      const isAlone = snapshot.revision === since.revision + saves
      if (snapshot.keys === undefined && isAlone && before?.snapshot.entries === since.entries)
        set(id, snapshot, before.size + growth(edits, since.entries, snapshot.entries), before)
      else put(id, snapshot)
    },
  }
}

// The approximate sizes in bytes of a session without entries, and of an entry without its key and value.
const PER_SESSION = 500
const PER_ENTRY = 150

const entrySize = (key: string, value: Parameters<typeof jsonSize>[0] | undefined): number =>
  value === undefined ? 0 : PER_ENTRY + key.length + jsonSize(value)

const sizeOf = (entries: Entries): number =>
  entries.reduce((size, value, key) => size + entrySize(key, value), PER_SESSION)

const growth = (edits: Edits, before: Entries, after: Entries): number => {
  let bytes = 0
  for (const key of edits.keys()) bytes += entrySize(key, after.get(key)) - entrySize(key, before.get(key))
  return bytes
}
