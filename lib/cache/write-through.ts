// Wraps a store so that large sessions have a copy in a shared cache. A process that knows nothing of a session reads the
// copy, and then reads from the store only what has changed since the copy. The copy is never the answer: the store says
// whether the session is alive, and compares the copy's revision and version tag with its own. So a copy that is old, of
// another history or forged costs one more read, and does no harm.

import { numberOption } from '../core/errors.js'
import { jsonSize } from '../core/json.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { neutral, setImmediate } from '../core/process.js'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import {
  type Absence,
  type BatchOperations,
  type LoadRequest,
  type Reading,
  type SaveRequest,
  type SessionStore,
  wrapStore,
} from '../store/contract.js'
import { publish } from '../store/events.js'
import type { Cache, CacheError } from './contract.js'
import { type Copies, copiesWith } from './copy.js'

export interface WriteThroughOptions {
  /**
   * The secrets that encrypt the copies, each with 32 random bytes. The first one encrypts, and all of them decrypt. So a
   * new secret is first added at the end in all processes, and then moved to the front.
   */
  readonly secrets: readonly Uint8Array[]
  /** The approximate size of the smallest session that gets a copy, in bytes of JSON. Default: 32,768. */
  readonly minBytes?: number
}

/**
 * A copy is written again when the session has had this many saves since. The store recognises the copy until the session
 * has had 63 saves.
 */
const SAVES_PER_COPY = 16

/** The maximum number of copies that wait to be written. Further copies are not written. */
const MAX_WAITING = 100

/**
 * Wraps a store so that large sessions have a copy in a shared cache. Each load of a session of which this process knows
 * nothing first asks the cache. A cache that fails, loses or changes copies makes loads slower, and has no other effect.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { randomBytes } from 'node:crypto'
 * import { createClient } from 'redis'
 * import { memoryStore } from 'keyrow/memory'
 * import { redisCache } from 'keyrow/redis'
 * import { batched, cached, writeThrough } from 'keyrow/store'
 *
 * const cache = redisCache(() => createClient({ url: process.env['REDIS_URL'] ?? '' }))
 * const store = batched(cached(writeThrough(memoryStore(), cache, { secrets: [randomBytes(32)] })))
 * console.log((await store.prepare())._tag) // Right
 * await cache.close()
 * ```
 */
export const writeThrough = (
  store: SessionStore,
  cache: Cache,
  { secrets, minBytes = 32 * 1024 }: WriteThroughOptions,
): SessionStore => {
  const least = numberOption('minBytes', minBytes, 0, Number.MAX_SAFE_INTEGER)
  const shared = new SharedCopies(cache, copiesWith(secrets), store.lifetime.idleMs, least)
  return wrapStore(store, {
    ...writing(store, shared),
    load: loading(store, shared),
    ...(store.batch === undefined ? {} : { batch: batchWith(store.batch, shared) }),
  })
}

/** Whether the process knows nothing of the session, and wants all of it. */
const isCold = ({ known, keys }: Reading): boolean => known === undefined && keys === undefined

const loading =
  (store: SessionStore, shared: SharedCopies): SessionStore['load'] =>
  (id, secret, reading = {}) =>
    isCold(reading)
      ? async () => {
          const [known] = await shared.read([id])
          const loaded = await store.load(id, secret, { known })()
          if (E.isRight(loaded)) shared.loaded(id, known, loaded.right)
          return loaded
        }
      : store.load(id, secret, reading)

const writing = (
  store: SessionStore,
  shared: SharedCopies,
): Pick<SessionStore, 'create' | 'save' | 'destroy' | 'endAll'> => ({
  create: (id, secret, save, entries) =>
    pipe(
      store.create(id, secret, save, entries),
      TE.tapIO(
        (saved) => () =>
          shared.write(id, makeSnapshot({ ...saved, touchDue: false, versionTag: save }, entries, undefined)),
      ),
    ),
  save: (id, change) => async () => {
    const saved = await store.save(id, change)()
    if (E.isRight(saved)) shared.saved(id, change.since, saved.right)
    return saved
  },
  destroy: (id) =>
    pipe(
      store.destroy(id),
      TE.tapIO(() => () => shared.drop([id])),
    ),
  endAll: (principal, which) =>
    pipe(
      store.endAll(principal, which),
      TE.tapIO((ids) => () => shared.drop(ids)),
    ),
})

const batchWith = (batch: BatchOperations, shared: SharedCopies): BatchOperations => ({
  ...batch,
  load: (requests) => async () => {
    const copies = await copiesFor(requests, shared)
    const results = await batch.load(
      copies === undefined
        ? requests
        : requests.map((request, index) => (copies[index] ? { ...request, known: copies[index] } : request)),
    )()
    if (E.isRight(results))
      results.right.forEach((result, index) => {
        const request = requests[index] as LoadRequest
        if (isCold(request)) shared.loaded(request.id, copies?.[index], result)
      })
    return results
  },
  save: (requests) => async () => {
    const results = await batch.save(requests)()
    if (E.isRight(results))
      results.right.forEach((saved, index) => {
        const { id, since } = requests[index] as SaveRequest
        if (E.isRight(saved)) shared.saved(id, since, saved.right)
      })
    return results
  },
})

/** Returns a copy or `undefined` for each request. */
const copiesFor = async (
  requests: readonly LoadRequest[],
  shared: SharedCopies,
): Promise<readonly (Snapshot | undefined)[] | undefined> => {
  const cold = requests.filter(isCold)
  if (cold.length === 0) return undefined
  const found = (await shared.read(cold.map(({ id }) => id))).values()
  return requests.map((request) => (isCold(request) ? found.next().value : undefined))
}

const isOutdated = (copy: Snapshot, { revision, versionTag }: Snapshot): boolean => {
  const saves = revision - copy.revision
  return saves < 0 || saves >= SAVES_PER_COPY || (saves === 0 && copy.versionTag !== versionTag)
}

/** The copies of sessions in a cache. No method fails, and each read takes a limited time. */
class SharedCopies {
  readonly #cache: Cache
  readonly #copies: Copies
  readonly #ttlMs: number
  readonly #minBytes: number
  readonly #waiting = new Map<SessionId, Snapshot>()
  #isWriting = false

  constructor(cache: Cache, copies: Copies, ttlMs: number, minBytes: number) {
    this.#cache = cache
    this.#copies = copies
    this.#ttlMs = ttlMs
    this.#minBytes = minBytes
  }

  /** Returns the copy of each session, or `undefined`. */
  async read(ids: readonly SessionId[]): Promise<readonly (Snapshot | undefined)[]> {
    const values = await this.#cache.get(ids)()
    if (E.isLeft(values)) {
      failed('get', values.left)
      return ids.map(() => undefined)
    }
    return ids.map((id, index) => this.#decoded(id, values.right[index] ?? O.none))
  }

  #decoded(id: SessionId, value: O.Option<Uint8Array>): Snapshot | undefined {
    const copy = O.isSome(value) ? this.#copies.decode(id, value.value) : O.none
    if (O.isSome(copy)) {
      publish('copyRead', { id, result: 'found' })
      return copy.value
    }
    publish('copyRead', { id, result: O.isSome(value) ? 'rejected' : 'missing' })
    return undefined
  }

  /** Writes a copy after a load, unless the copy that was read is new enough. */
  loaded(id: SessionId, copy: Snapshot | undefined, result: E.Either<Absence, Snapshot>): void {
    if (E.isRight(result) && (copy === undefined || isOutdated(copy, result.right)))
      this.write(id, result.right)
  }

  /** Writes a copy after every sixteenth save. */
  saved(id: SessionId, since: Snapshot, snapshot: Snapshot): void {
    const count = ({ revision }: Snapshot): number => Math.floor(revision / SAVES_PER_COPY)
    if (count(snapshot) > count(since)) this.write(id, snapshot)
  }

  /** Writes the copy of a session if the session is large. The caller does not wait. */
  write(id: SessionId, snapshot: Snapshot): void {
    if (snapshot.keys !== undefined || !this.#isLarge(snapshot)) return
    if (this.#waiting.size >= MAX_WAITING && !this.#waiting.has(id)) return
    this.#waiting.set(id, snapshot)
    if (this.#isWriting) return
    this.#isWriting = true
    // The copies are encoded after the request, and belong to no request's async context.
    neutral(setImmediate, () => void this.#writeAll())
  }

  drop(ids: readonly SessionId[]): void {
    for (const id of ids) this.#waiting.delete(id)
    if (ids.length > 0)
      void this.#cache
        .drop(ids)()
        .then(E.mapLeft((error) => failed('drop', error)))
  }

  #isLarge({ entries }: Snapshot): boolean {
    return entries.reduce((size, value, key) => size + key.length + jsonSize(value), 0) >= this.#minBytes
  }

  async #writeAll(): Promise<void> {
    for (const [id, snapshot] of this.#waiting) {
      this.#waiting.delete(id)
      const value = this.#copies.encode(id, snapshot)
      if (value.length > this.#cache.maxValueBytes) continue
      const written = await this.#cache.set([{ key: id, value, ttlMs: this.#ttlMs }])()
      if (E.isLeft(written)) failed('set', written.left)
    }
    this.#isWriting = false
  }
}

const failed = (operation: 'get' | 'set' | 'drop', { kind }: CacheError): void =>
  publish('cacheFailed', { operation, kind })
