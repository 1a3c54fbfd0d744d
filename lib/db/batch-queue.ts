// Batches requests of the same kind in a queue. While a batch runs, new requests wait and form the next batch. A
// request to an idle queue is sent at once. A request without a result in its batch is retried alone.

import { AsyncLocalStorage } from 'node:async_hooks'
import { DriverError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E } from '../core/prelude.cjs'
import { clearTimeout, setImmediate, setTimeout } from '../core/process.js'

export interface BatchOptions {
  /** The maximum number of requests in one batch. Up to 32 saves of one session count as one request. Default: 128. */
  readonly maxBatchSize?: number
  /**
   * The maximum number of concurrent statements of one kind. Default: 2. A second statement starts only if the first
   * one is late or many requests wait.
   */
  readonly concurrency?: number
  /** The maximum number of waiting requests of a kind. Further requests fail with a `DriverError`. Default: 10,000. */
  readonly maxQueueSize?: number
  /** The maximum time in the queue, in milliseconds. After it a request fails with a `DriverError`. Default: 12,000. */
  readonly queueTimeoutMs?: number
}

export const limitsOf = ({
  maxBatchSize = 128,
  concurrency = 2,
  maxQueueSize = 10_000,
  queueTimeoutMs = 12_000,
}: BatchOptions): Required<BatchOptions> => ({
  maxBatchSize: numberOption('maxBatchSize', maxBatchSize, 1, 1_000, 'integer'),
  concurrency: numberOption('concurrency', concurrency, 1, 100, 'integer'),
  maxQueueSize: numberOption('maxQueueSize', maxQueueSize, 1, 1e7, 'integer'),
  queueTimeoutMs: numberOption('queueTimeoutMs', queueTimeoutMs, 1, 1e9, 'integer'),
})

interface BatchSource<B> {
  readonly size: () => number
  /** Removes and returns the next batch if `slots` batches can start now. Returns `undefined` if no batch is ready. */
  readonly next: (slots: number) => B | undefined
  /** If at least this many requests wait, another batch starts while one runs. */
  readonly worthAnother: number
  /** Sends a batch. The batch takes one of the `concurrency` slots until the promise is settled. */
  readonly send: (batch: B) => Promise<void>
}

type SchedulerOptions = Pick<Required<BatchOptions>, 'concurrency' | 'maxBatchSize'>

/** A batch that runs longer than this time is late. Another batch may start while a late batch runs. */
const LATE_MS = 10

/** If this many reads wait, another statement is sent while one runs. */
const READS_WORTH_ANOTHER = 32

/** If this many writes wait, another statement is sent while one runs. Each statement costs a flush of the WAL. */
const WRITES_WORTH_ANOTHER = 64

/**
 * Sends the batches of a source. Normally one batch of writes runs at a time, since one large statement costs less than
 * two small ones. Up to `concurrency` batches run if a batch is late or many requests wait.
 */
class Scheduler<B> {
  // A batch must not run in the async context of its first request.
  readonly #neutral = AsyncLocalStorage.snapshot()
  readonly #source: BatchSource<B>
  readonly #concurrency: number
  readonly #worthAnother: number
  #running = 0
  #started = 0
  #scheduled = false
  #watching = false

  constructor(source: BatchSource<B>, { concurrency, maxBatchSize }: SchedulerOptions) {
    this.#source = source
    this.#concurrency = concurrency
    this.#worthAnother = Math.min(source.worthAnother, maxBatchSize)
  }

  /** Sends a batch after this turn of the event loop. It includes requests that arrive later in the same turn. */
  schedule(): void {
    if (this.#scheduled || this.#running >= this.#concurrency) return
    this.#scheduled = true
    this.#neutral(setImmediate, () => {
      this.#scheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    while (this.#running < this.#concurrency && this.#isDue()) {
      const batch = this.#source.next(this.#concurrency - this.#running)
      if (batch === undefined) return
      this.#running += 1
      this.#started = performance.now()
      const done = (): void => {
        this.#running -= 1
        this.#pump()
      }
      void this.#source.send(batch).then(done, done)
    }
    if (this.#running < this.#concurrency && this.#source.size() > 0) this.#pumpWhenLate()
  }

  #isDue(): boolean {
    if (this.#running === 0 || this.#source.size() >= this.#worthAnother) return true
    return performance.now() - this.#started >= LATE_MS
  }

  #pumpWhenLate(): void {
    if (this.#watching) return
    this.#watching = true
    setTimeout(() => {
      this.#watching = false
      this.#pump()
    }, LATE_MS)
  }
}

/** Returns the error of a request that was not sent because the database is too slow for the load. */
const overload = (message: string, kind: 'unavailable' | 'timeout'): DriverError =>
  new DriverError(`${message}; the database does not keep up`, { kind, retryable: true, effect: 'none' })

// Whether an error concerns the whole batch. After any other error each request is retried alone, since one request may
// be the cause. For example, a request has a value that cannot be stored, or waits too long for a lock.
const isBatchWideFailure = (error: unknown): boolean =>
  !(error instanceof DriverError) ||
  (error.retryable && !/^(40|57014|55P03|25P04)/.test(error.sqlState ?? ''))

/**
 * A request that may wait for a lock frees its slot after this time. Most requests that wait for no lock are faster.
 */
const SLOT_MS = 50

const releaseSlotAfter = (doing: Promise<unknown>): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, SLOT_MS)
    const done = (): void => {
      clearTimeout(timer)
      resolve()
    }
    void doing.then(done, done)
  })

/** The approximate maximum size of the text in one statement, in characters. A larger request is sent alone. */
const MAX_BATCH_CHARS = 4 * 1024 * 1024

export interface Pending<I, A, L> {
  readonly item: I
  readonly key: string | undefined
  /** The time at which the item arrived, as a value of `performance.now()`. */
  readonly since: number
  readonly resolve: (outcome: E.Either<L | DriverError, A>) => void
  readonly reject: (thrown: unknown) => void
}

/** Items of one key that are sent as one request. */
export interface Merged<I, R, A, L> {
  readonly request: R
  readonly pending: readonly Pending<I, A, L>[]
  /** Splits the result of the request into the results of its items. */
  readonly split: (result: A) => readonly A[]
}

export interface BatchQueueOptions<I, R, A, L> {
  readonly what: string
  readonly limits: Required<BatchOptions>
  /** Returns an error if no request may be sent in the current async context. */
  readonly misuse: (() => L | undefined) | undefined
  /** Returns the results in the order of the requests. If a result is `undefined`, its items are retried alone. */
  readonly all: (requests: readonly R[]) => Promise<E.Either<L, readonly (A | undefined)[]>>
  /** Sends one item alone. `mayBeDone` is true if a batch with this item was sent before. */
  readonly one: (item: I, mayBeDone: boolean) => Promise<E.Either<L, A>>
  /** Returns the key of the lock that an item takes. Items with the same key are sent in the order of arrival. */
  readonly keyOf?: (item: I) => string
  /** The maximum number of items of one key in one request. Default: 1. */
  readonly maxMerged?: number
  /** Whether `other` can be in one request with `first`. By default it can. */
  readonly canMerge?: (first: I, other: I) => boolean
  /**
   * Merges items into one request. `base` is the result of the previous request with the same key, if the items waited
   * for that request. The request does not contain the items that `merge` rejects.
   */
  readonly merge: (pending: readonly Pending<I, A, L>[], base: A | undefined) => Merged<I, R, A, L>
  /** The length of an item's text. Default: 0. */
  readonly sizeOf?: (item: I) => number
}

/** The function `merge` of a queue that sends each item as a separate request. */
export const unmerged = <I, A, L>(pending: readonly Pending<I, A, L>[]): Merged<I, I, A, L> => ({
  request: (pending[0] as Pending<I, A, L>).item,
  pending,
  split: (result) => [result],
})

/** Items of one key that were taken from the queue. */
interface Group<I, R, A, L> extends Merged<I, R, A, L> {
  readonly key: string | undefined
  /** The number of items in the group, including the items that `merge` rejected. */
  readonly size: number
}

class BatchQueue<I, R, A, L> {
  readonly #options: BatchQueueOptions<I, R, A, L>
  readonly #scheduler: Scheduler<readonly Group<I, R, A, L>[]>
  /** The items that can be sent now. */
  readonly #ready: Pending<I, A, L>[] = []
  /** For each key, the items that wait for an earlier item of that key. */
  readonly #blockedByKey = new Map<string, Pending<I, A, L>[]>()
  /** For each key with waiting items, the result of the last request. */
  readonly #bases = new Map<string, A>()
  readonly #underWay = new Set<Group<I, R, A, L>>()
  /** The number of unanswered items. */
  #size = 0

  constructor(options: BatchQueueOptions<I, R, A, L>) {
    this.#options = options
    const source = {
      size: () => this.#ready.length,
      next: (slots: number) => this.#next(slots),
      worthAnother: options.keyOf === undefined ? READS_WORTH_ANOTHER : WRITES_WORTH_ANOTHER,
      send: (groups: readonly Group<I, R, A, L>[]) => this.#send(groups),
    }
    this.#scheduler = new Scheduler(source, options.limits)
  }

  request(item: I): Promise<E.Either<L | DriverError, A>> {
    const { what, limits, misuse, keyOf } = this.#options
    const failure = misuse?.() ?? (this.#size >= limits.maxQueueSize ? queueFull(what, limits) : undefined)
    if (failure !== undefined) return Promise.resolve(E.left(failure))
    return new Promise((resolve, reject) => {
      this.#enqueue({ item, key: keyOf?.(item), since: performance.now(), resolve, reject })
      this.#scheduler.schedule()
    })
  }

  #enqueue(one: Pending<I, A, L>): void {
    this.#size += 1
    const { key } = one
    const blocked = key === undefined ? undefined : this.#blockedByKey.get(key)
    if (blocked !== undefined) {
      blocked.push(one)
      return
    }
    if (key !== undefined) this.#blockedByKey.set(key, [])
    this.#ready.push(one)
  }

  #next(slots: number): readonly Group<I, R, A, L>[] | undefined {
    const { limits, sizeOf } = this.#options
    while (this.#ready.length > 0) {
      const groups: Group<I, R, A, L>[] = []
      const most = this.#shareOf(this.#ready.length, slots)
      let [taken, size] = [0, 0]
      for (; taken < most && groups.length < limits.maxBatchSize && size <= MAX_BATCH_CHARS; taken += 1) {
        const group = this.#take(this.#ready[taken] as Pending<I, A, L>)
        if (group === undefined) continue
        groups.push(group)
        if (sizeOf !== undefined) for (const { item } of group.pending) size += sizeOf(item)
      }
      this.#ready.splice(0, taken)
      if (groups.length > 0) return groups
    }
    return undefined
  }

  /**
   * Returns the number of ready items for the next batch. Reads are divided evenly among the slots, so that the process
   * decodes one answer while the server prepares another. A batch of writes contains all ready items.
   */
  #shareOf(ready: number, slots: number): number {
    if (this.#options.keyOf !== undefined) return ready
    return Math.ceil(ready / Math.min(slots, Math.max(1, Math.floor(ready / READS_WORTH_ANOTHER))))
  }

  // Takes an item and the waiting items that can be merged with it. Returns `undefined` if no item has to be sent.
  #take(first: Pending<I, A, L>): Group<I, R, A, L> | undefined {
    const { key } = first
    const taken = [first, ...this.#takeBlocked(first)]
    const pending = this.#inTime(taken)
    this.#size -= taken.length - pending.length
    if (pending.length === 0) {
      this.#release(key, undefined)
      return undefined
    }
    const base = key === undefined ? undefined : this.#bases.get(key)
    const group = { ...this.#options.merge(pending, base), key, size: pending.length }
    this.#underWay.add(group)
    if (group.pending.length > 0) return group
    this.#complete(group, undefined)
    return undefined
  }

  #takeBlocked({ item, key }: Pending<I, A, L>): readonly Pending<I, A, L>[] {
    const { maxMerged = 1, canMerge } = this.#options
    const blocked = key === undefined ? undefined : this.#blockedByKey.get(key)
    if (blocked === undefined || blocked.length === 0 || maxMerged === 1) return []
    const most = Math.min(maxMerged - 1, blocked.length)
    let count = 0
    while (count < most && canMerge?.(item, (blocked[count] as Pending<I, A, L>).item) !== false) count += 1
    return blocked.splice(0, count)
  }

  /** Returns the items whose time in the queue is not over. The other items fail. */
  #inTime(pending: readonly Pending<I, A, L>[]): readonly Pending<I, A, L>[] {
    const { what, limits } = this.#options
    const earliest = performance.now() - limits.queueTimeoutMs
    return pending.filter(({ since, resolve }) => {
      if (since >= earliest) return true
      const message = `${what}: not sent within ${String(limits.queueTimeoutMs)} ms`
      resolve(E.left(overload(message, 'timeout')))
      return false
    })
  }

  /** Ends a group, unless it has ended already. `result` is the new state of the group's key, if known. */
  #complete(group: Group<I, R, A, L>, result: A | undefined): void {
    if (!this.#underWay.delete(group)) return
    this.#size -= group.size
    this.#release(group.key, result)
    this.#scheduler.schedule()
  }

  #release(key: string | undefined, result: A | undefined): void {
    if (key === undefined) return
    const next = this.#blockedByKey.get(key)?.shift()
    if (next === undefined) this.#blockedByKey.delete(key)
    else this.#ready.push(next)
    if (next === undefined || result === undefined) this.#bases.delete(key)
    else this.#bases.set(key, result)
  }

  async #send(groups: readonly Group<I, R, A, L>[]): Promise<void> {
    try {
      const [first] = groups
      const isSingle = groups.length === 1 && first?.pending.length === 1
      const each = (isSingle ? groups : await this.#sendBatch(groups)).map((group) =>
        this.#sendEach(group, !isSingle),
      )
      if (this.#options.keyOf === undefined) await Promise.all(each)
      // A request that waits for a lock must not block the queue.
      else if (isSingle) await releaseSlotAfter(Promise.all(each))
    } catch (thrown) {
      // The observer of an `observedDatabase` may throw.
      for (const group of groups) {
        this.#complete(group, undefined)
        for (const { reject } of group.pending) reject(thrown)
      }
    }
  }

  /** Sends a batch and resolves the items that have a result. Returns the groups without a result. */
  async #sendBatch(groups: readonly Group<I, R, A, L>[]): Promise<readonly Group<I, R, A, L>[]> {
    const results = await this.#options.all(groups.map(({ request }) => request))
    if (E.isLeft(results)) {
      if (!isBatchWideFailure(results.left)) return groups
      for (const group of groups) {
        this.#complete(group, undefined)
        for (const { resolve } of group.pending) resolve(results)
      }
      return []
    }
    return groups.filter((group, index) => {
      const result = results.right[index]
      if (result === undefined) return true
      this.#complete(group, result)
      for (const [place, own] of group.split(result).entries()) group.pending[place]?.resolve(E.right(own))
      return false
    })
  }

  /** Sends the items one after the other, each in its own statement. An item whose time in the queue is over fails. */
  async #sendEach(group: Group<I, R, A, L>, mayBeDone: boolean): Promise<void> {
    let latest: A | undefined
    for (const one of group.pending)
      try {
        if (this.#inTime([one]).length === 0) continue
        const outcome = await this.#options.one(one.item, mayBeDone)
        if (E.isRight(outcome)) latest = outcome.right
        one.resolve(outcome)
      } catch (thrown) {
        one.reject(thrown)
      }
    this.#complete(group, latest)
  }
}

const queueFull = (what: string, { maxQueueSize }: Required<BatchOptions>): DriverError =>
  overload(`${what}: ${String(maxQueueSize)} requests are waiting already`, 'unavailable')

/** Makes a batch queue, and returns the function that sends an item through this queue. */
export const batchQueue = <I, R, A, L>(
  options: BatchQueueOptions<I, R, A, L>,
): ((item: I) => Promise<E.Either<L | DriverError, A>>) => {
  const queue = new BatchQueue(options)
  return (item) => queue.request(item)
}
