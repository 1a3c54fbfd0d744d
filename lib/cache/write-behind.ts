// Wraps a store so that a save is answered when a shared cache has it. The store gets the save a little later, many saves as
// one. Each load still asks the store, which alone says whether the session is alive. The cache has the saves that the
// store does not have yet, as the head of the session, and the load adds them.

import type { SessionGone, StoreError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E, pipe, TE } from '../core/prelude.cjs'
import { neutral } from '../core/process.js'
import type { SessionId } from '../core/token.js'
import {
  type BatchOperations,
  onceCommitted,
  type SessionStore,
  withTransactions,
} from '../store/contract.js'
import type { FlowStore } from '../store/flow-contract.js'
import { Behind } from './behind.js'
import type { Cache } from './contract.js'
import { HeadCache } from './head-cache.js'
import type { LateStore } from './head-store.js'
import { type Closed, type LateBacklog, LateQueue } from './late-saves.js'
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
  /**
   * Whether the cache may delete values when it is full, as memcached does. Such a deletion counts as a loss: if the process
   * of a save has ended too, the save is lost. Default: false.
   */
  readonly allowEviction?: boolean
}

export interface WriteBehindStore extends SessionStore {
  /** Stores all saves of this process now. */
  readonly flush: TE.TaskEither<StoreError, void>
  /** Stores all saves of this process. Call it when the process ends. Later saves wait for the store. */
  readonly drain: TE.TaskEither<StoreError, void>
  /** Returns the saves of this process that are not known to be stored. */
  readonly backlog: () => LateBacklog
}

/**
 * Wraps a store so that a save is answered when a shared cache has it. The store gets the save after `flushMs`, together
 * with other saves. Each load asks the store, so an ended session is gone at once, whatever the cache does. A save is lost
 * only if its process ends and the cache loses it, before it is stored. Call `drain` at the end of the program.
 *
 * @throws `RangeError` for an option that is out of range
 * @throws `TypeError` for a store without late saves: the memory store, and a store on Citus
 * @throws `TypeError` for memcached without `allowEviction: true`
 *
 * @example
 * ```ts
 * import { randomBytes } from 'node:crypto'
 * import { createClient } from 'redis'
 * import { pgliteDatabase } from 'keyrow/pglite'
 * import { redisCache } from 'keyrow/redis'
 * import { batched, cached, sessionStore, writeBehind } from 'keyrow/store'
 *
 * const database = pgliteDatabase()
 * const cache = redisCache(() => createClient({ url: process.env['REDIS_URL'] ?? '' }), { timeoutMs: 500 })
 * const late = writeBehind(cached(sessionStore(database)), cache, { secrets: [randomBytes(32)] })
 * const store = batched(late)
 * console.log((await store.prepare())._tag, (await late.drain())._tag) // Right Right
 * await cache.close()
 * await database.close()
 * ```
 */
export const writeBehind = (
  store: SessionStore,
  cache: Cache,
  { secrets, flushMs = 1_000, maxBehindMs = 10_000, maxJournal = 10_000, allowEviction }: WriteBehindOptions,
): WriteBehindStore => {
  const { late } = store
  if (late === undefined) throw new TypeError('writeBehind needs a store in PostgreSQL, without citus')
  if (cache.mayEvict === true && allowEviction !== true)
    throw new TypeError(
      'this cache deletes values when it is full, so late saves may be lost: use Redis, or set allowEviction: true',
    )
  const options = {
    flushMs: numberOption('flushMs', flushMs, 0, 3_600_000),
    maxBehindMs: numberOption('maxBehindMs', maxBehindMs, 0, 3_600_000),
    maxJournal: numberOption('maxJournal', maxJournal, 1, 1e7, 'integer'),
  }
  if (options.flushMs + options.maxBehindMs > store.lifetime.idleMs / 10)
    throw new RangeError('flushMs and maxBehindMs together must be at most a tenth of idleMs')
  const heads = new HeadCache(cache, sealingWith(secrets))
  const queue = new LateQueue({ ...store, late }, heads, options)
  const { flushNow: flush, drain, backlog } = queue
  return { ...behindStore({ ...store, late }, heads, queue), flush, drain, backlog }
}

const behindStore = (store: LateStore, heads: HeadCache, queue: LateQueue): SessionStore => {
  const behind = new Behind(store, heads, queue)
  const { using, batch, flows } = store
  const own: SessionStore = {
    ...store,
    load: (id, secret, reading) => () => behind.load({ id, secret, ...reading }),
    refresh: (id, known, keys, touches) => () => behind.refresh(id, known, keys, touches),
    save: (id, change) => () => behind.save(id, change),
    ...ending(store, behind),
    ...(batch === undefined ? {} : { batch: batchOf(batch, behind) }),
    ...(flows === undefined ? {} : { flows: flowsAfter(flows, (id, task) => behind.after(id, task)) }),
  }
  return using === undefined ? own : withTransactions(own, (tx) => inTransaction(using(tx), behind))
}

/** A transaction sees only what the store has. So the head of a session stays closed from its first use to the end. */
const inTransaction = (store: SessionStore, behind: Behind): SessionStore => {
  const closed = new Map<SessionId, Promise<E.Either<StoreError, Closed>>>()
  const closing = (id: SessionId): Promise<E.Either<StoreError, Closed>> => {
    // The head is stored and opened outside of the transaction.
    const ready = neutral(() => behind.close(id))
    const open = (): void => {
      void neutral(() => ready.then((ended) => (E.isRight(ended) ? ended.right.open() : undefined)))
    }
    onceCommitted(store, open, open)
    return ready
  }
  const after =
    <L, A>(id: SessionId, task: TE.TaskEither<L, A>): TE.TaskEither<L | StoreError, A> =>
    async () => {
      const ready = closed.get(id) ?? closing(id)
      closed.set(id, ready)
      const result = await ready
      return E.isLeft(result) ? result : task()
    }
  const { flows } = store
  return {
    ...store,
    load: (id, secret, reading) => after(id, store.load(id, secret, reading)),
    refresh: (id, known, keys, touches) => after(id, store.refresh(id, known, keys, touches)),
    save: (id, change) => after(id, store.save(id, change)),
    touch: (id) => after(id, store.touch(id)),
    rotate: (id, from, to) => after(id, store.rotate(id, from, to)),
    ...ending(store, behind),
    ...(flows === undefined ? {} : { flows: flowsAfter(flows, after) }),
  }
}

/** A session that ends in a transaction has ended after the commit. */
const ending = (store: SessionStore, behind: Behind): Pick<SessionStore, 'destroy' | 'endAll'> => {
  const ended = (ids: readonly SessionId[]) => async (): Promise<void> => {
    if (store.transactionScope === undefined) await behind.ended(ids)
    else onceCommitted(store, () => void neutral(() => behind.ended(ids)))
  }
  return {
    destroy: (id) =>
      pipe(
        store.destroy(id),
        TE.chainFirstTaskK(() => ended([id])),
      ),
    endAll: (principal, which) => pipe(store.endAll(principal, which), TE.chainFirstTaskK(ended)),
  }
}

type After = <L, A>(
  id: SessionId,
  task: TE.TaskEither<L, A>,
) => TE.TaskEither<L | StoreError | SessionGone, A>

/** Edits of a session that are stored with a flow do not wait in a head. */
const flowsAfter = (flows: FlowStore, after: After): FlowStore => ({
  ...flows,
  write: (write) =>
    write.change === undefined ? flows.write(write) : after(write.session, flows.write(write)),
})

const batchOf = (batch: BatchOperations, behind: Behind): BatchOperations => ({
  ...batch,
  load: (requests) => () => behind.loadAll(requests, batch.load(requests)),
  save: (requests) => () => behind.saveAll(requests),
})
