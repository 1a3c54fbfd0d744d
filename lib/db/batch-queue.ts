// A queue that batches requests of the same kind. While batches run, new requests wait and form the next batch; a
// request to an idle queue waits for nothing. A request that a batch could not answer is retried alone.

import { AsyncLocalStorage } from 'node:async_hooks'
import { DriverError, type StoreError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E } from '../core/prelude.cjs'
import { clearTimeout, setImmediate, setTimeout } from '../core/process.js'

export interface BatchOptions {
  /** The maximum number of requests in one statement. The saves of one session, up to 32, count as one. Default: 128. */
  readonly maxBatchSize?: number
  /** The maximum number of concurrent statements of a kind, if one is late or many requests wait. Default: 2. */
  readonly concurrency?: number
  /** The maximum number of unanswered requests of a kind. One more fails at once with a `DriverError`. Default: 10,000. */
  readonly maxQueueSize?: number
  /** The maximum time in the queue, in milliseconds. Then a request fails with a `DriverError`. Default: 12,000. */
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

export interface BatchSource<B> {
  /** The number of requests that wait. */
  readonly size: () => number
  /** Removes and returns the next batch; `undefined` if none is ready. */
  readonly next: () => B | undefined
  /** Sends a batch. Its slot is free once the promise has settled. */
  readonly send: (batch: B) => Promise<void>
}

type SchedulerOptions = Pick<Required<BatchOptions>, 'concurrency' | 'maxBatchSize'>

/** After this time a batch is late, and the next one starts beside it. */
const LATE_MS = 10

/** This many waiting requests are worth a statement beside the one that runs. */
const WORTH_ANOTHER = 64

/**
 * Sends the batches of a source. One runs at a time, since a larger statement costs less for each request than two smaller
 * ones. Up to `concurrency` run if batches are late, or if many requests wait.
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
    this.#worthAnother = Math.min(WORTH_ANOTHER, maxBatchSize)
  }

  /** Sends a batch soon. Requests of the same turn of the event loop still join, such as those that follow a batch's answers. */
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
      const batch = this.#source.next()
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

/** Returns the function to call after each addition to the source. */
export const scheduler = <B>(source: BatchSource<B>, options: SchedulerOptions): (() => void) => {
  const made = new Scheduler(source, options)
  return () => made.schedule()
}

/** The database is too slow for the load. The request was not sent. */
const overload = (message: string, kind: 'unavailable' | 'timeout'): DriverError =>
  new DriverError(`${message}; the database does not keep up`, { kind, retryable: true, effect: 'none' })

export const queueFull = (what: string, maxQueueSize: number): DriverError =>
  overload(`${what}: ${String(maxQueueSize)} requests are waiting already`, 'unavailable')

export interface PendingRequest {
  /** The time of its arrival, by `performance.now()`. */
  readonly since: number
  readonly resolve: (outcome: E.Either<DriverError, never>) => void
  readonly reject: (thrown: unknown) => void
}

/** Rejects requests whose time in the queue is up, and returns the others. */
export const dropTimedOut = <W extends PendingRequest>(
  pending: readonly W[],
  what: string,
  queueTimeoutMs: number,
): readonly W[] => {
  const earliest = performance.now() - queueTimeoutMs
  return pending.filter(({ since, resolve }) => {
    if (since >= earliest) return true
    resolve(E.left(overload(`${what}: not sent within ${String(queueTimeoutMs)} ms`, 'timeout')))
    return false
  })
}

/**
 * Whether an error concerns all of a batch. Otherwise each request is retried alone, since one of them may be the
 * cause: by a value that cannot be stored, a deadlock, or a lock that took until the timeout.
 */
export const isBatchWideFailure = (error: StoreError): boolean =>
  !(error instanceof DriverError) ||
  (error.retryable && !/^(40|57014|55P03|25P04)/.test(error.sqlState ?? ''))

/** A batch that may wait for a lock holds its slot for this long, about as long as a batch without a lock. */
const SLOT_MS = 50

export const releaseSlotAfter = (doing: Promise<unknown>): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, SLOT_MS)
    const done = (): void => {
      clearTimeout(timer)
      resolve()
    }
    void doing.then(done, done)
  })

/** The approximate size of the text in one statement, in characters. Larger requests go alone. */
export const MAX_BATCH_CHARS = 4 * 1024 * 1024

export interface BatchQueueOptions<I, A, L extends StoreError> {
  readonly what: string
  readonly limits: Required<BatchOptions>
  /** The reason why no request can be sent here and now, if any. */
  readonly misuse: (() => L | undefined) | undefined
  /** Returns the results in the order of the items; `undefined` for an item that must be retried alone. */
  readonly all: (items: readonly I[]) => Promise<E.Either<L, readonly (A | undefined)[]>>
  readonly one: (item: I) => Promise<E.Either<L, A>>
  /** The key of the lock that an item takes. Two items of one key are never sent at once. */
  readonly lock?: (item: I) => string
  /** The length of the item's text. Default: 0. */
  readonly sizeOf?: (item: I) => number
}

interface PendingItem<I, A, L> extends PendingRequest {
  readonly item: I
  readonly resolve: (outcome: E.Either<L | DriverError, A>) => void
}

interface Queue<I, A, L> {
  readonly pending: PendingItem<I, A, L>[]
  /** By the key of a lock: the items behind one that is queued or sent. */
  readonly blockedByKey: Map<string, PendingItem<I, A, L>[]>
  size: number
}

type Answer<A, L> = Promise<E.Either<L | DriverError, A>>

export const batchQueue = <I, A, L extends StoreError>(
  options: BatchQueueOptions<I, A, L>,
): ((item: I) => Answer<A, L>) => {
  const { what, limits, misuse, lock } = options
  const queue: Queue<I, A, L> = { pending: [], blockedByKey: new Map(), size: 0 }
  const source = {
    size: () => queue.pending.length,
    next: () => takeBatch(queue, options),
    send: (pending: readonly PendingItem<I, A, L>[]) => send(options, pending),
  }
  const schedule = scheduler(source, limits)
  const isFull = (): boolean => queue.size >= limits.maxQueueSize
  return (item) => {
    const failure = misuse?.() ?? (isFull() ? queueFull(what, limits.maxQueueSize) : undefined)
    if (failure !== undefined) return Promise.resolve(E.left(failure))
    const key = lock?.(item)
    return new Promise((resolve, reject) => {
      const completing =
        <R>(settle: (result: R) => void) =>
        (result: R): void => {
          complete(queue, key)
          schedule()
          settle(result)
        }
      const since = performance.now()
      enqueue(queue, key, { item, since, resolve: completing(resolve), reject: completing(reject) })
      schedule()
    })
  }
}

const enqueue = <I, A, L>(
  queue: Queue<I, A, L>,
  key: string | undefined,
  one: PendingItem<I, A, L>,
): void => {
  queue.size += 1
  const same = key === undefined ? undefined : queue.blockedByKey.get(key)
  if (same !== undefined) {
    same.push(one)
    return
  }
  if (key !== undefined) queue.blockedByKey.set(key, [])
  queue.pending.push(one)
}

const complete = <I, A, L>(queue: Queue<I, A, L>, key: string | undefined): void => {
  queue.size -= 1
  if (key === undefined) return
  const next = queue.blockedByKey.get(key)?.shift()
  if (next === undefined) queue.blockedByKey.delete(key)
  else queue.pending.push(next)
}

const takeBatch = <I, A, L extends StoreError>(
  { pending }: Queue<I, A, L>,
  { what, limits, sizeOf }: BatchQueueOptions<I, A, L>,
): readonly PendingItem<I, A, L>[] | undefined => {
  while (pending.length > 0) {
    const most = Math.min(limits.maxBatchSize, pending.length)
    let [count, size] = [0, 0]
    for (; count < most && size < MAX_BATCH_CHARS; count += 1)
      size += sizeOf?.((pending[count] as PendingItem<I, A, L>).item) ?? 0
    const batch = dropTimedOut(pending.splice(0, count), what, limits.queueTimeoutMs)
    if (batch.length > 0) return batch
  }
  return undefined
}

const send = async <I, A, L extends StoreError>(
  options: BatchQueueOptions<I, A, L>,
  pending: readonly PendingItem<I, A, L>[],
): Promise<void> => {
  try {
    const rest = pending.length === 1 ? pending : await sendBatch(options, pending)
    const each = Promise.all(rest.map((one) => sendSingle(options, one)))
    // A request that may wait for a lock does not block the queue.
    await (options.lock === undefined ? each : releaseSlotAfter(each))
  } catch (thrown) {
    // An observer of statements may throw.
    for (const { reject } of pending) reject(thrown)
  }
}

/** Resolves the requests that the batch answers, and returns the others. */
const sendBatch = async <I, A, L extends StoreError>(
  { all }: BatchQueueOptions<I, A, L>,
  pending: readonly PendingItem<I, A, L>[],
): Promise<readonly PendingItem<I, A, L>[]> => {
  const results = await all(pending.map(({ item }) => item))
  if (E.isLeft(results)) {
    if (!isBatchWideFailure(results.left)) return pending
    for (const { resolve } of pending) resolve(results)
    return []
  }
  return pending.filter(({ resolve }, index) => {
    const answer = results.right[index]
    if (answer !== undefined) resolve(E.right(answer))
    return answer === undefined
  })
}

const sendSingle = async <I, A, L extends StoreError>(
  { one }: BatchQueueOptions<I, A, L>,
  { item, resolve, reject }: PendingItem<I, A, L>,
): Promise<void> => {
  try {
    resolve(await one(item))
  } catch (thrown) {
    reject(thrown)
  }
}
