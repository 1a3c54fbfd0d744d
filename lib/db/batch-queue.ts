// Gathers what arrives while earlier batches are under way, and sends it as the next one. Whoever comes when nothing
// is under way waits for nothing.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import { DriverError, type StoreError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { clearTimeout, setImmediate, setTimeout } from '../core/process.js'

export interface BatchOptions {
  /** At most so many in one statement. Default: 128. */
  readonly maxBatchSize?: number
  /** At most so many statements of a kind at once. Default: 2. */
  readonly concurrency?: number
  /** At most so many loads, and as many saves, have no answer yet; one more fails at once with a `DriverError`. Default: 10,000. */
  readonly maxQueueSize?: number
  /** At most so many milliseconds does one wait for its turn; then it fails with a `DriverError`. Default: 12,000. */
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

/** Something that waits, in an order of its own. */
export interface BatchSource<B> {
  /** The next batch, out of the line, where so many could go now; `undefined` when there is none. */
  readonly next: (places: number) => B | undefined
  /** Sends a batch, whose place is free again when this has ended, however it ended. */
  readonly send: (batch: B) => Promise<void>
}

/** Gives the function to call whenever something has joined the line. */
export const scheduler = <B>(queueState: BatchSource<B>, concurrency: number): (() => void) => {
  // Not in the async context of whoever came first: a batch is nobody's.
  const neutral = AsyncLocalStorage.snapshot()
  let running = 0
  let scheduled = false
  const pump = (): void => {
    scheduled = false
    while (running < concurrency) {
      const batch = queueState.next(concurrency - running)
      if (batch === undefined) return
      running += 1
      const done = (): void => {
        running -= 1
        pump()
      }
      void queueState.send(batch).then(done, done)
    }
  }
  return () => {
    if (scheduled || running >= concurrency) return
    scheduled = true
    // Whoever asks in the same turn of the event loop still joins: those, for one, whom a batch has just answered.
    neutral(setImmediate, pump)
  }
}

export const queueFull = (what: string, maxQueueSize: number): DriverError =>
  new DriverError(`${what}: ${String(maxQueueSize)} are waiting already; the database does not keep up`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
  })

/** One who waits for its turn. */
export interface PendingRequest {
  /** When it came, by `performance.now()`. */
  readonly since: number
  readonly resolve: (outcome: E.Either<DriverError, never>) => void
  readonly reject: (thrown: unknown) => void
}

/** Those who have not waited too long; the others are told that they have. */
export const dropTimedOut = <W extends PendingRequest>(
  pending: readonly W[],
  what: string,
  queueTimeoutMs: number,
): readonly W[] => {
  const earliest = performance.now() - queueTimeoutMs
  return pending.filter(({ since, resolve }) => {
    if (since >= earliest) return true
    resolve(E.left(queueTimeout(what, queueTimeoutMs)))
    return false
  })
}

const queueTimeout = (what: string, queueTimeoutMs: number): DriverError =>
  new DriverError(
    `${what}: its turn has not come within ${String(queueTimeoutMs)} ms; the database does not keep up`,
    { kind: 'timeout', retryable: true, effect: 'none' },
  )

/**
 * Whether all of a batch failed for the same reason; else each is tried by itself, for one may be what is wrong: what
 * cannot be stored, what deadlocked, what took so long that the server cancelled it.
 */
export const isBatchWideFailure = (error: StoreError): boolean =>
  !(error instanceof DriverError) ||
  (error.retryable && !/^(40|57014|55P03|25P04)/.test(error.sqlState ?? ''))

/** What may wait for a lock keeps its place for as long as one does that has none to wait for. */
const PLACE_MS = 50

export const releaseSlotAfter = (doing: Promise<unknown>): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, PLACE_MS)
    const done = (): void => {
      clearTimeout(timer)
      resolve()
    }
    void doing.then(done, done)
  })

/** About as much text in one statement; what is larger goes alone. */
export const BATCH_SIZE = 4 * 1024 * 1024

// A line of those who ask alike: who wait go together, each gets its own answer, and who cannot be answered so asks
// by itself.

export interface BatchQueueOptions<I, A, L extends StoreError> {
  /** Its name in errors. */
  readonly what: string
  readonly limits: Required<BatchOptions>
  /** Why nobody may ask here and now. */
  readonly misuse: (() => L | undefined) | undefined
  /** The answers in the order of the items; `undefined` for one that must ask by itself. */
  readonly all: (items: readonly I[]) => Promise<E.Either<L, readonly (A | undefined)[]>>
  readonly one: (item: I) => Promise<E.Either<L, A>>
  /** Of what may wait for a lock: its name. Two of one name are never asked at once. */
  readonly lock?: (item: I) => string
  /** The length of its text. Default: nothing worth counting. */
  readonly sizeOf?: (item: I) => number
}

interface PendingItem<I, A, L> extends PendingRequest {
  readonly item: I
  readonly resolve: (outcome: E.Either<L | DriverError, A>) => void
}

interface Queue<I, A, L> {
  readonly pending: PendingItem<I, A, L>[]
  /** By the name of a lock, those who wait for one who waits or asks. */
  readonly blockedByKey: Map<string, PendingItem<I, A, L>[]>
  /** How many were not answered yet. */
  size: number
}

type Answer<A, L> = Promise<E.Either<L | DriverError, A>>

export const batchQueue = <I, A, L extends StoreError>(
  options: BatchQueueOptions<I, A, L>,
): ((item: I) => Answer<A, L>) => {
  const { what, limits, misuse, lock } = options
  const queue: Queue<I, A, L> = { pending: [], blockedByKey: new Map(), size: 0 }
  const schedule = scheduler(
    { next: (places) => takeBatch(queue, options, places), send: (pending) => send(options, pending) },
    limits.concurrency,
  )
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
  name: string | undefined,
  one: PendingItem<I, A, L>,
): void => {
  queue.size += 1
  const same = name === undefined ? undefined : queue.blockedByKey.get(name)
  if (same !== undefined) {
    same.push(one)
    return
  }
  if (name !== undefined) queue.blockedByKey.set(name, [])
  queue.pending.push(one)
}

const complete = <I, A, L>(queue: Queue<I, A, L>, name: string | undefined): void => {
  queue.size -= 1
  if (name === undefined) return
  const next = queue.blockedByKey.get(name)?.shift()
  if (next === undefined) queue.blockedByKey.delete(name)
  else queue.pending.push(next)
}

const takeBatch = <I, A, L extends StoreError>(
  { pending }: Queue<I, A, L>,
  { what, limits, sizeOf, lock }: BatchQueueOptions<I, A, L>,
  places: number,
): readonly PendingItem<I, A, L>[] | undefined => {
  while (pending.length > 0) {
    // What writes goes together as far as it can: each statement flushes the log.
    const most = Math.min(
      limits.maxBatchSize,
      lock === undefined ? splitEvenly(pending.length, places) : pending.length,
    )
    let [count, size] = [0, 0]
    for (; count < most && size < BATCH_SIZE; count += 1)
      size += sizeOf?.((pending[count] as PendingItem<I, A, L>).item) ?? 0
    const batch = dropTimedOut(pending.splice(0, count), what, limits.queueTimeoutMs)
    if (batch.length > 0) return batch
  }
  return undefined
}

/**
 * So many of those who wait make the next batch: the places get alike, so that the process works on one batch while the
 * server works on another. But a statement of its own is worth while for no fewer than sixteen.
 */
const splitEvenly = (pending: number, places: number): number =>
  Math.ceil(pending / Math.min(places, Math.max(1, Math.floor(pending / 16))))

const send = async <I, A, L extends StoreError>(
  options: BatchQueueOptions<I, A, L>,
  pending: readonly PendingItem<I, A, L>[],
): Promise<void> => {
  try {
    const left = pending.length === 1 ? pending : await sendBatch(options, pending)
    const each = Promise.all(left.map((one) => sendSingle(options, one)))
    // One that may wait for a lock does not hold up those behind it.
    await (options.lock === undefined ? each : releaseSlotAfter(each))
  } catch (thrown) {
    // A statement's observer may throw: that is everybody's, and the place of the batch is free again.
    for (const { reject } of pending) reject(thrown)
  }
}

/** Those who have to ask by themselves; the others have their answers. */
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
