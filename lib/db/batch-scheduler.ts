// Decides when the batches of a queue are sent.

import { AsyncLocalStorage } from 'node:async_hooks'
import { numberOption } from '../core/options.js'
import { setImmediate, setTimeout } from '../core/process.js'

export interface BatchOptions {
  /** The maximum number of requests in one batch. Up to 32 saves of one session count as one request. Default: 128. */
  readonly maxBatchSize?: number
  /**
   * The maximum number of concurrent statements of one kind. Default: 2. A second statement starts only if the first
   * one runs for over 10 ms, or if many requests wait.
   */
  readonly concurrency?: number
  /** The maximum number of waiting requests of a kind. Further requests fail with a `DriverError`. Default: 10,000. */
  readonly maxQueueSize?: number
  /** A request that waits in the queue for over this many milliseconds fails with a `DriverError`. Default: 12,000. */
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
  /** Returns the number of waiting requests. */
  readonly size: () => number
  /** Removes and returns the next batch, if one is ready. `slots` is the number of batches that can start now. */
  readonly next: (slots: number) => B | undefined
  /** Sends a batch. The batch takes one of the `concurrency` slots until the promise is settled. */
  readonly send: (batch: B) => Promise<void>
}

type SchedulerOptions = Pick<Required<BatchOptions>, 'concurrency' | 'maxBatchSize'>

/** A batch that runs longer than this time is late. Another batch may start while a late batch runs. */
const LATE_MS = 10

/** If this many requests wait, another batch starts before the running batch ends. */
export const WORTH_ANOTHER = 32

/**
 * Sends the batches of a source. Normally one batch runs at a time, since one large statement costs less than two small
 * ones. Up to `concurrency` batches run if a batch is late or many requests wait.
 */
export class Scheduler<B> {
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

  /** Sends a batch after this turn of the event loop, so that it includes the requests that arrive in the same turn. */
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
