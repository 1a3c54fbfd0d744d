// Wraps a store so that large sessions have a copy in a shared cache. A process that knows nothing of a session reads the
// copy, and then reads from the store only what has changed since the copy. The copy is never the answer: the store says
// whether the session is alive, and compares the copy's revision and version tag with its own. So a copy that is old, of
// another history or forged costs one more read, and does no harm.

import { LRUCache } from 'lru-cache'
import { jsonSize } from '../core/json.js'
import { numberOption } from '../core/options.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { neutral, setImmediate } from '../core/process.js'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import { type Absence, onceCommitted, type SessionStore, withTransactions } from '../store/contract.js'
import { publish } from '../store/events.js'
import type { Cache, CacheError } from './contract.js'
import { type Copies, copiesWith } from './sealed.js'

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
 * const store = writeThrough(batched(cached(memoryStore())), cache, { secrets: [randomBytes(32)] })
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
  const { using } = store
  const own = { ...store, ...writing(store, shared), load: loading(store, shared) }
  if (using === undefined) return own
  return withTransactions(own, (tx) => {
    const inside = using(tx)
    return { ...inside, ...ending(inside, shared) }
  })
}

/** A session of which the process knows nothing is loaded with the help of its copy. */
const loading =
  (store: SessionStore, shared: SharedCopies): SessionStore['load'] =>
  (id, secret, reading = {}) =>
    reading.keys === undefined && reading.known === undefined
      ? async () => {
          const copy = shared.isKnown(id) ? 'known' : await shared.read(id)
          const loaded = await store.load(id, secret, {
            known: typeof copy === 'string' ? undefined : copy,
          })()
          if (E.isRight(loaded)) shared.loaded(id, copy, loaded.right)
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
  ...ending(store, shared),
})

/** A session that ends in a transaction has ended after the commit. */
const ending = (store: SessionStore, shared: SharedCopies): Pick<SessionStore, 'destroy' | 'endAll'> => {
  const drop = (ids: readonly SessionId[]) => () => onceCommitted(store, () => shared.drop(ids))
  return {
    destroy: (id) =>
      pipe(
        store.destroy(id),
        TE.tapIO(() => drop([id])),
      ),
    endAll: (principal, which) => pipe(store.endAll(principal, which), TE.tapIO(drop)),
  }
}

const isOutdated = (copy: Snapshot, { revision, versionTag }: Snapshot): boolean => {
  const saves = revision - copy.revision
  return saves < 0 || saves >= SAVES_PER_COPY || (saves === 0 && copy.versionTag !== versionTag)
}

/** The maximum number of sessions that the process is known to know. */
const MAX_KNOWN = 10_000

/** The maximum number of copies that one command deletes. */
const MAX_DROPPED = 100

/** The result of a read: the copy, or why there is none. `known`: the copy was not read. `failed`: the cache has failed. */
type Read = Snapshot | 'known' | 'failed' | 'missing'

/** The copies of sessions in a cache. No method fails, and each read takes a limited time. */
class SharedCopies {
  readonly #cache: Cache
  readonly #copies: Copies
  readonly #ttlMs: number
  readonly #minBytes: number
  /** The sessions that this process has loaded or saved. A layer below has probably cached them. */
  readonly #known = new LRUCache<SessionId, true>({ max: MAX_KNOWN })
  readonly #waiting = new Map<SessionId, Snapshot>()
  #isWriting = false

  constructor(cache: Cache, copies: Copies, ttlMs: number, minBytes: number) {
    this.#cache = cache
    this.#copies = copies
    this.#ttlMs = ttlMs
    this.#minBytes = minBytes
  }

  isKnown(id: SessionId): boolean {
    return this.#known.get(id) === true
  }

  async read(id: SessionId): Promise<Read> {
    const values = await this.#cache.get([id])()
    if (E.isLeft(values)) {
      failed('get', values.left)
      return 'failed'
    }
    const value = O.toUndefined(values.right[0] ?? O.none)
    const copy = value && O.toUndefined(this.#copies.decode(id, value.value))
    publish('copyRead', {
      id,
      result: value === undefined ? 'missing' : copy === undefined ? 'rejected' : 'found',
    })
    return copy ?? 'missing'
  }

  /** Writes a copy after a load, if the cache has none that is new enough. */
  loaded(id: SessionId, copy: Read, result: E.Either<Absence, Snapshot>): void {
    if (E.isLeft(result)) {
      if (result.left === 'expired') this.#known.delete(id)
      return
    }
    this.#known.set(id, true)
    if (copy === 'missing' || (typeof copy === 'object' && isOutdated(copy, result.right)))
      this.write(id, result.right)
  }

  /** Writes a copy after every sixteenth save. */
  saved(id: SessionId, since: Snapshot, snapshot: Snapshot): void {
    const count = ({ revision }: Snapshot): number => Math.floor(revision / SAVES_PER_COPY)
    if (count(snapshot) > count(since)) this.write(id, snapshot)
  }

  /** Writes the copy of a session if the session is large. The caller does not wait. */
  write(id: SessionId, snapshot: Snapshot): void {
    this.#known.set(id, true)
    if (snapshot.keys !== undefined || !this.#hasCopy(snapshot)) return
    if (this.#waiting.size >= MAX_WAITING && !this.#waiting.has(id)) return
    this.#waiting.set(id, snapshot)
    if (this.#isWriting) return
    this.#isWriting = true
    // The copies are encoded after the request, and belong to no request's async context.
    neutral(setImmediate, () => void this.#writeAll())
  }

  drop(ids: readonly SessionId[]): void {
    for (const id of ids) {
      this.#waiting.delete(id)
      this.#known.delete(id)
    }
    void this.#dropAll(ids)
  }

  async #dropAll(ids: readonly SessionId[]): Promise<void> {
    for (let from = 0; from < ids.length; from += MAX_DROPPED) {
      const dropped = await this.#cache.drop(ids.slice(from, from + MAX_DROPPED))()
      if (E.isLeft(dropped)) failed('drop', dropped.left)
    }
  }

  /** Whether a session is large enough for a copy, and small enough for the cache. */
  #hasCopy({ entries }: Snapshot): boolean {
    const size = entries.reduce((sum, value, key) => sum + key.length + jsonSize(value), 0)
    return size >= this.#minBytes && size <= this.#cache.maxValueBytes
  }

  async #writeAll(): Promise<void> {
    try {
      for (const [id, snapshot] of this.#waiting) {
        this.#waiting.delete(id)
        await this.#writeOne(id, snapshot)
        // Requests run between two copies.
        await new Promise((resolve) => setImmediate(resolve))
      }
    } finally {
      this.#isWriting = false
    }
  }

  async #writeOne(id: SessionId, snapshot: Snapshot): Promise<void> {
    const value = this.#copies.encode(id, snapshot)
    if (value.length > this.#cache.maxValueBytes) return
    const written = await this.#cache.set([{ key: id, value, ttlMs: this.#ttlMs }])()
    if (E.isRight(written)) return
    failed('set', written.left)
    if (written.left.kind === 'paused' || written.left.kind === 'closed') this.#waiting.clear()
  }
}

const failed = (operation: 'get' | 'set' | 'drop', { kind }: CacheError): void =>
  publish('cacheFailed', { operation, kind })
