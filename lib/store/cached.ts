// A store that remembers what this process has read and saved, in bounded memory. It never answers from memory: each
// load asks the database, which says what has changed since; what has not is not sent again. So a request sees what
// the database holds at its load, and a session of ten thousand values costs what changed.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { LRUCache } from 'lru-cache'
import type { Edits, Entries } from '../core/edits.js'
import { jsonSize } from '../core/json.js'
import { numberOption } from '../core/options.js'
import type { Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import type { Absence, BatchOperations, LoadRequest, SaveRequest, SessionStore } from './contract.js'
import { wrapStore } from './in-transaction.js'

export interface MemoryLimit {
  /** About how many bytes of memory may be used, at most. Default: 128 MiB. */
  readonly maxBytes?: number
}

/**
 * The same store; of what this process knows, a load reads only what has changed since. A session that was changed,
 * ended or opened with another secret elsewhere is so here at its next load. What was not used for longest is forgotten
 * when more than `maxBytes` would be used. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { batched, cached, sessionStore } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = batched(cached(sessionStore(database), { maxBytes: 16 * 1024 * 1024 }))
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const cached = (store: SessionStore, options: MemoryLimit = {}): SessionStore => {
  const memory = memoryOf(options)
  return wrapStore(store, {
    ...reading(store, memory),
    ...writing(store, memory),
    ...(store.batch === undefined ? {} : { batch: cachedBatch(store.batch, memory) }),
  })
}

const reading = (store: SessionStore, memory: Memory): Pick<SessionStore, 'load' | 'refresh'> => ({
  load:
    (id, secret, { keys } = {}) =>
    async () => {
      const found = await store.load(id, secret, { known: memory.get(id), keys })()
      if (E.isRight(found)) memory.found(id, found.right)
      return found
    },
  refresh: (id, known, keys) =>
    pipe(
      store.refresh(id, known, keys),
      TE.tapIO((found) => () => (O.isSome(found) ? memory.remember(id, found.value) : memory.drop(id))),
    ),
})

const writing = (store: SessionStore, memory: Memory): Pick<SessionStore, 'create' | 'save' | 'destroy'> => ({
  create: (id, secret, save, entries) =>
    pipe(
      store.create(id, secret, save, entries),
      TE.tapIO(
        (saved) => () => memory.remember(id, { ...saved, touchDue: false, versionTag: save, entries }),
      ),
    ),
  save: (id, change) =>
    pipe(
      store.save(id, change),
      TE.tapIO((saved) => () => memory.saved(id, change, 1, saved)),
    ),
  destroy: (id) =>
    pipe(
      TE.fromIO(() => memory.drop(id)),
      TE.chain(() => store.destroy(id)),
    ),
})

const cachedBatch = (batch: BatchOperations, memory: Memory): BatchOperations => ({
  load: (requests) => async () => {
    const known = requests.map(
      ({ id, secret, keys }): LoadRequest => ({ id, secret, keys, known: memory.get(id) }),
    )
    const results = await batch.load(known)()
    if (E.isRight(results))
      for (const [index, found] of results.right.entries())
        memory.found(requests[index]?.id as SessionId, found)
    return results
  },
  save: (requests) =>
    pipe(
      batch.save(requests),
      TE.tapIO((results) => () => {
        for (const [index, saved] of results.entries())
          if (O.isSome(saved)) {
            const request = requests[index] as SaveRequest
            memory.saved(request.id, request, request.changes.length, saved.value)
          }
      }),
    ),
})

type Made = Pick<SaveRequest, 'since' | 'edits'>

/** Of whole sessions: what is known of some keys takes no place of what is known of all, and is cheaply read again. */
interface Memory {
  readonly get: (id: SessionId) => Snapshot | undefined
  readonly remember: (id: SessionId, snapshot: Snapshot) => void
  readonly drop: (id: SessionId) => void
  readonly found: (id: SessionId, found: E.Either<Absence, Snapshot>) => void
  /** What so many saves left. If nobody else came in between, its size differs by the edits. */
  readonly saved: (id: SessionId, made: Made, times: number, snapshot: Snapshot) => void
}

interface Kept {
  readonly snapshot: Snapshot
  readonly size: number
}

const memoryOf = ({ maxBytes = 128 * 1024 * 1024 }: MemoryLimit): Memory => {
  const maxSize = numberOption('maxBytes', maxBytes, 1, Number.MAX_SAFE_INTEGER, 'integer')
  const cache = new LRUCache<SessionId, Kept>({ maxSize, sizeCalculation: ({ size }) => size })
  const keep = (id: SessionId, snapshot: Snapshot, size: number): void => {
    cache.set(id, { snapshot, size: Math.max(1, size) })
  }
  const remember = (id: SessionId, snapshot: Snapshot): void => {
    if (snapshot.keys !== undefined) return
    const present = cache.peek(id)
    if (present?.snapshot.entries !== snapshot.entries) keep(id, snapshot, sizeOf(snapshot.entries))
    else if (!isOfOneSave(present.snapshot, snapshot)) keep(id, snapshot, present.size)
  }
  const drop = (id: SessionId): void => void cache.delete(id)
  return {
    get: (id) => cache.get(id)?.snapshot,
    remember,
    drop,
    // With a wrong secret it is unknown to whoever asked, and may well be there.
    found: (id, found) => {
      if (E.isRight(found)) remember(id, found.right)
      else if (found.left === 'expired') drop(id)
    },
    saved: (id, { since, edits }, times, snapshot) => {
      const before = cache.peek(id)
      const isAlone = snapshot.revision === since.revision + times
      if (snapshot.keys === undefined && isAlone && before?.snapshot.entries === since.entries)
        keep(id, snapshot, before.size + grownBy(edits, since.entries, snapshot.entries))
      else remember(id, snapshot)
    },
  }
}

/** What a session costs without its values, and a value without its text, about. */
const PER_SESSION = 500
const PER_ENTRY = 150

const entrySize = (key: string, value: Parameters<typeof jsonSize>[0] | undefined): number =>
  value === undefined ? 0 : PER_ENTRY + key.length + jsonSize(value)

const sizeOf = (entries: Entries): number =>
  entries.reduce((size, value, key) => size + entrySize(key, value), PER_SESSION)

const grownBy = (edits: Edits, before: Entries, after: Entries): number => {
  let by = 0
  for (const key of edits.keys()) by += entrySize(key, after.get(key)) - entrySize(key, before.get(key))
  return by
}

const isOfOneSave = (one: Snapshot, other: Snapshot): boolean =>
  one.revision === other.revision && one.versionTag === other.versionTag
