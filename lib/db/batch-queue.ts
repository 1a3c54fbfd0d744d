// Batches requests of the same kind in a queue. While a batch runs, new requests wait and form the next batch. A
// request to an idle queue waits at most for the end of the turn of the event loop. If a batch returns no result for a
// request, the request is sent again.

import { DriverError } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { type BatchOptions, type Member, releaseSlotAfter, Scheduler } from './batch-scheduler.js'

/** Returns the error of a request that was not sent because the database is too slow for the load. */
const overload = (message: string, kind: 'unavailable' | 'timeout'): DriverError =>
  new DriverError(`${message}; the database does not keep up`, { kind, retryable: true, effect: 'none' })

// Whether an error concerns the whole batch. After any other error each request is sent again alone, since a single
// request may be the cause. For example, this request has a value that cannot be stored, or waits too long for a lock.
const isBatchWideFailure = (error: unknown): boolean =>
  !(error instanceof DriverError) ||
  (error.retryable && !/^(40|57014|55P03|25P04)/.test(error.sqlState ?? ''))

// If this many requests wait, another batch starts while a batch runs. A second statement for writes saves less, since
// the writes of one statement share a flush of the write-ahead log.
const WORTH_ANOTHER_READ = 32
const WORTH_ANOTHER_WRITE = 64

/** No request is added to a batch whose requests already have more characters than this. */
const MAX_BATCH_CHARS = 4 * 1024 * 1024

export interface Pending<I, A, L> {
  readonly item: I
  readonly key: string | undefined
  /** The time at which the item arrived, as a value of `performance.now()`. */
  readonly since: number
  readonly resolve: (outcome: E.Either<L | DriverError, A>) => void
  readonly reject: (thrown: unknown) => void
  /** Whether a batch may have executed the item. */
  mayBeDone: boolean
  /** Whether the item was in a batch that did not execute it. */
  isUndone: boolean
}

/** Items with the same key that are sent as one request. */
export interface Merged<I, R, A, L> {
  readonly request: R
  readonly pending: readonly Pending<I, A, L>[]
  /** Splits the result of the request into the results of its items. It is undefined for a request of one item. */
  readonly split: ((result: A) => readonly A[]) | undefined
}

/** The result of a request that a batch may or may not have executed. */
export const UNKNOWN: unique symbol = Symbol('unknown')

export interface BatchQueueOptions<I, R, A, L> {
  readonly what: string
  readonly limits: Required<BatchOptions>
  /** Decides when batches are sent. Queues that share a scheduler take turns. Default: a scheduler of its own. */
  readonly scheduler?: Scheduler
  /** Returns an error if no request may be sent in the current async context. */
  readonly misuse: (() => L | undefined) | undefined
  /**
   * Sends a batch, and returns the results in the order of the requests. A result is `undefined` if the batch did not
   * execute the request, and `UNKNOWN` if the batch may have executed it. In both cases the items are sent again.
   */
  readonly all: (requests: readonly R[]) => Promise<E.Either<L, readonly (A | undefined | typeof UNKNOWN)[]>>
  /** Whether an item with a key is sent in a second batch if the first batch did not execute it. Default: false. */
  readonly isWorthAnotherBatch?: (item: I) => boolean
  /** Sends one item alone. `mayBeDone` is true if a batch may have executed the item. */
  readonly one: (item: I, mayBeDone: boolean) => Promise<E.Either<L, A>>
  /** Returns the key of the row that an item locks. Items with the same key are sent in the order of arrival. */
  readonly keyOf?: (item: I) => string
  /** The maximum number of items of one key in one request. Default: 1. */
  readonly maxMerged?: number
  /** Whether `other` can be merged with `first`. By default all items of one key can be merged. */
  readonly canMerge?: (first: I, other: I) => boolean
  /**
   * Merges items into one request. `base` is the result of the previous request with the same key, if the items waited
   * for that request. `merge` rejects the promise of an item that cannot be merged, and leaves out this item.
   */
  readonly merge: (pending: readonly Pending<I, A, L>[], base: A | undefined) => Merged<I, R, A, L>
  /** Returns the number of characters of an item. Default: 0. */
  readonly sizeOf?: (item: I) => number
}

/** The function `merge` of a queue that sends each item as a separate request. */
export const unmerged = <I, A, L>(pending: readonly Pending<I, A, L>[]): Merged<I, I, A, L> => ({
  request: (pending[0] as Pending<I, A, L>).item,
  pending,
  split: undefined,
})

/** What was taken from the queue for one key. */
interface Taken {
  readonly key: string | undefined
  /** The number of items, including the items that `merge` rejected. */
  readonly size: number
  isUnderWay: boolean
}

/** Items of one key that were taken from the queue. */
interface Group<I, R, A, L> extends Taken {
  readonly merged: Merged<I, R, A, L>
}

/** An empty list of waiting items. It is shared, so it must not be changed. */
const NONE: never[] = []

/** A group for which a batch returned no result. */
interface Unanswered<I, R, A, L> {
  readonly group: Group<I, R, A, L>
  /** The number of items that are sent now, each in its own statement. The others return to the queue. */
  readonly count: number
}

class BatchQueue<I, R, A, L> {
  readonly #options: BatchQueueOptions<I, R, A, L>
  readonly #scheduler: Scheduler
  readonly #member: Member
  /** The items that can be sent now. */
  readonly #ready: Pending<I, A, L>[] = []
  /** For each key, the items that wait for an earlier item of that key. */
  readonly #blockedByKey = new Map<string, Pending<I, A, L>[]>()
  /** For each key with waiting items, the result of the last request with this key. */
  readonly #bases = new Map<string, A>()
  /** The number of unanswered items. */
  #size = 0

  constructor(options: BatchQueueOptions<I, R, A, L>) {
    this.#options = options
    this.#scheduler = options.scheduler ?? new Scheduler()
    this.#member = this.#scheduler.add({
      limits: options.limits,
      worthAnother: Math.min(
        options.keyOf === undefined ? WORTH_ANOTHER_READ : WORTH_ANOTHER_WRITE,
        options.limits.maxBatchSize,
      ),
      size: () => this.#ready.length,
      send: (slots) => {
        const groups = this.#next(slots)
        return groups && this.#send(groups)
      },
    })
  }

  request(item: I): Promise<E.Either<L | DriverError, A>> {
    const { what, limits, misuse, keyOf } = this.#options
    const failure = misuse?.() ?? (this.#size >= limits.maxQueueSize ? queueFull(what, limits) : undefined)
    if (failure !== undefined) return Promise.resolve(E.left(failure))
    return new Promise((resolve, reject) => {
      const key = keyOf?.(item)
      const since = performance.now()
      const one = { item, key, since, resolve, reject, mayBeDone: false, isUndone: false }
      const isBlocked = key !== undefined && this.#blockedByKey.has(key)
      if (!isBlocked && this.#scheduler.sendAlone(this.#member, () => this.#sendAlone(one))) return
      this.#enqueue(one)
      this.#scheduler.schedule()
    })
  }

  #sendAlone(one: Pending<I, A, L>): Promise<void> {
    const { key } = one
    this.#size += 1
    if (key !== undefined) this.#blockedByKey.set(key, NONE)
    return this.#sendOne({ key, size: 1, isUnderWay: true }, one)
  }

  #enqueue(one: Pending<I, A, L>): void {
    this.#size += 1
    const { key } = one
    const blocked = key === undefined ? undefined : this.#blockedByKey.get(key)
    if (blocked === undefined) {
      if (key !== undefined) this.#blockedByKey.set(key, NONE)
      this.#ready.push(one)
    } else if (blocked === NONE) this.#blockedByKey.set(key as string, [one])
    else blocked.push(one)
  }

  #next(slots: number): readonly Group<I, R, A, L>[] | undefined {
    const { limits, sizeOf } = this.#options
    while (this.#ready.length > 0) {
      const groups: Group<I, R, A, L>[] = []
      const most = this.#shareOf(this.#ready.length, slots)
      const earliest = performance.now() - limits.queueTimeoutMs
      let taken = 0
      let size = 0
      for (; taken < most && groups.length < limits.maxBatchSize && size <= MAX_BATCH_CHARS; taken += 1) {
        const group = this.#take(this.#ready[taken] as Pending<I, A, L>, earliest)
        if (group === undefined) continue
        groups.push(group)
        if (sizeOf !== undefined) for (const { item } of group.merged.pending) size += sizeOf(item)
      }
      this.#ready.splice(0, taken)
      if (groups.length > 0) return groups
    }
    return undefined
  }

  /**
   * Returns how many of the ready items the next batch takes. Reads are divided evenly among the slots, so that the
   * process decodes one answer while the server prepares another answer. A batch of writes contains all ready items.
   */
  #shareOf(ready: number, slots: number): number {
    if (this.#options.keyOf !== undefined) return ready
    return Math.ceil(ready / Math.min(slots, Math.max(1, Math.floor(ready / WORTH_ANOTHER_READ))))
  }

  // Takes an item and the waiting items that can be merged with it. Returns `undefined` if no item has to be sent.
  #take(first: Pending<I, A, L>, earliest: number): Group<I, R, A, L> | undefined {
    const { key } = first
    const blocked = this.#takeBlocked(first)
    const taken = blocked.length === 0 ? [first] : [first, ...blocked]
    const pending = this.#inTime(taken, earliest)
    this.#size -= taken.length - pending.length
    if (pending.length === 0) {
      this.#release(key, undefined)
      return undefined
    }
    const base = key === undefined ? undefined : this.#bases.get(key)
    const merged = this.#options.merge(pending, base)
    const group = { merged, key, size: pending.length, isUnderWay: true }
    if (merged.pending.length > 0) return group
    this.#complete(group, undefined)
    return undefined
  }

  #takeBlocked({ item, key }: Pending<I, A, L>): readonly Pending<I, A, L>[] {
    const { maxMerged = 1, canMerge } = this.#options
    const blocked = key === undefined ? undefined : this.#blockedByKey.get(key)
    if (blocked === undefined || blocked.length === 0 || maxMerged === 1) return NONE
    const most = Math.min(maxMerged - 1, blocked.length)
    let count = 0
    while (count < most && canMerge?.(item, (blocked[count] as Pending<I, A, L>).item) !== false) count += 1
    return blocked.splice(0, count)
  }

  /** Returns the items that arrived at `earliest` or later. All other items have waited too long, so they fail. */
  #inTime(pending: readonly Pending<I, A, L>[], earliest: number): readonly Pending<I, A, L>[] {
    const { what, limits } = this.#options
    if (pending.every(({ since }) => since >= earliest)) return pending
    return pending.filter(({ since, resolve }) => {
      if (since >= earliest) return true
      const message = `${what}: not sent within ${String(limits.queueTimeoutMs)} ms`
      resolve(E.left(overload(message, 'timeout')))
      return false
    })
  }

  /**
   * Ends a group, unless it has ended already. `result` is the last result for the group's key, if known. The items of
   * `rest` return to the queue, before all other waiting items of the key.
   */
  #complete(group: Taken, result: A | undefined, rest: readonly Pending<I, A, L>[] = []): void {
    if (!group.isUnderWay) return
    group.isUnderWay = false
    const { key, size } = group
    this.#size -= size - rest.length
    if (key !== undefined && rest.length > 0)
      this.#blockedByKey.set(key, [...rest, ...(this.#blockedByKey.get(key) ?? NONE)])
    this.#release(key, result)
  }

  /** Lets the next item of the key be sent, if one waits. */
  #release(key: string | undefined, result: A | undefined): void {
    if (key === undefined) return
    const blocked = this.#blockedByKey.get(key)
    const next = blocked === NONE ? undefined : blocked?.shift()
    if (next === undefined) this.#blockedByKey.delete(key)
    else {
      this.#ready.push(next)
      this.#scheduler.schedule()
    }
    if (next !== undefined && result !== undefined) this.#bases.set(key, result)
    else if (this.#bases.size > 0) this.#bases.delete(key)
  }

  #send(groups: readonly Group<I, R, A, L>[]): Promise<void> {
    const [first] = groups
    if (groups.length > 1 || first === undefined || first.merged.pending.length > 1)
      return this.#sendSeveral(groups)
    return this.#sendOne(first, first.merged.pending[0] as Pending<I, A, L>)
  }

  #sendOne(taken: Taken, one: Pending<I, A, L>): Promise<void> {
    const done = this.#executeOne(taken, one)
    // A request that waits for a lock must not block the queue.
    return taken.key === undefined ? done : releaseSlotAfter(done)
  }

  /** Sends a request that has arrived alone. Each promise costs time, so this function makes only one. */
  #executeOne(group: Taken, { item, mayBeDone, resolve, reject }: Pending<I, A, L>): Promise<void> {
    const fail = (thrown: unknown): void => {
      this.#complete(group, undefined)
      reject(thrown)
    }
    try {
      return this.#options.one(item, mayBeDone).then((outcome) => {
        try {
          this.#complete(group, E.isRight(outcome) ? outcome.right : undefined)
          resolve(outcome)
        } catch (thrown) {
          fail(thrown)
        }
      }, fail)
    } catch (thrown) {
      fail(thrown)
      return Promise.resolve()
    }
  }

  async #sendSeveral(groups: readonly Group<I, R, A, L>[]): Promise<void> {
    try {
      const unanswered = await this.#sendBatch(groups)
      const each = unanswered.map((one) => this.#sendEach(one))
      if (this.#options.keyOf === undefined) await Promise.all(each)
    } catch (thrown) {
      // The observer of an `observedDatabase` may throw.
      for (const group of groups) {
        this.#complete(group, undefined)
        for (const { reject } of group.merged.pending) reject(thrown)
      }
    }
  }

  /** Sends a batch and resolves the items that have a result. Returns the groups without a result. */
  async #sendBatch(groups: readonly Group<I, R, A, L>[]): Promise<readonly Unanswered<I, R, A, L>[]> {
    const results = await this.#options.all(groups.map(({ merged }) => merged.request))
    if (E.isLeft(results)) {
      if (!isBatchWideFailure(results.left)) {
        if ((results.left as unknown as DriverError).effect === 'unknown') groups.forEach(doubt)
        return groups.map((group) => ({ group, count: group.merged.pending.length }))
      }
      for (const group of groups) {
        this.#complete(group, undefined)
        for (const { resolve } of group.merged.pending) resolve(results)
      }
      return []
    }
    const unanswered: Unanswered<I, R, A, L>[] = []
    groups.forEach((group, index) => {
      const result = results.right[index]
      if (result === UNKNOWN) doubt(group)
      if (result === undefined && this.#isWorthAnotherBatch(group)) unanswered.push({ group, count: 0 })
      else if (result === undefined || result === UNKNOWN) unanswered.push({ group, count: 1 })
      else this.#answer(group, result)
    })
    return unanswered
  }

  /** Whether a group that a batch did not execute is sent in a second batch. */
  #isWorthAnotherBatch({ merged, key }: Group<I, R, A, L>): boolean {
    if (key === undefined) return false
    const isWorth = merged.pending.every(
      ({ item, isUndone, mayBeDone }) =>
        !isUndone && !mayBeDone && this.#options.isWorthAnotherBatch?.(item) === true,
    )
    for (const one of merged.pending) one.isUndone = true
    return isWorth
  }

  #answer(group: Group<I, R, A, L>, result: A): void {
    this.#complete(group, result)
    const { pending, split } = group.merged
    if (split === undefined) pending[0]?.resolve(E.right(result))
    else for (const [place, own] of split(result).entries()) pending[place]?.resolve(E.right(own))
  }

  /** Sends the items one after the other, each in its own statement. An item that has waited too long fails instead. */
  async #sendEach({ group, count }: Unanswered<I, R, A, L>): Promise<void> {
    const { pending } = group.merged
    let latest: A | undefined
    for (const one of pending.slice(0, count))
      try {
        if (this.#inTime([one], performance.now() - this.#options.limits.queueTimeoutMs).length === 0)
          continue
        const outcome = await this.#options.one(one.item, one.mayBeDone)
        if (E.isRight(outcome)) latest = outcome.right
        one.resolve(outcome)
      } catch (thrown) {
        one.reject(thrown)
      }
    this.#complete(group, latest, pending.slice(count))
  }
}

/** Records that a batch may have executed the items of a group. */
const doubt = <I, R, A, L>({ merged }: Group<I, R, A, L>): void => {
  for (const one of merged.pending) one.mayBeDone = true
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
