// Collecting garbage: expired sessions and what hangs from them, in batches, with pauses in between, so that
// the requests being served hardly notice.
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import type { Task } from 'fp-ts/lib/Task.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import type { SessionStore } from './contract.js'
import { publish, publishFailure } from './events.js'

export interface DeleteExpiredOptions {
  /** At most so many sessions in one batch, which is one transaction. Default: 200. */
  readonly batchSize?: number
  /** The least pause between two batches, in milliseconds; it is never shorter than the batch took. Default: 20. */
  readonly delayMs?: number
  /** No batch begins later than this many milliseconds after the first. Default: 10 minutes. */
  readonly totalTimeoutMs?: number
  /** Ends the collection after the batch that is under way. */
  readonly signal?: AbortSignal
  /** Called after each batch. */
  readonly onBatch?: (soFar: DeletedExpired) => void
}

/** What a collection did. */
export interface DeletedExpired {
  /** How many sessions were deleted. */
  readonly sessions: number
  readonly batches: number
  /** Whether nothing was left to do; else its time was up, it was told to end, or another one is at work. */
  readonly finished: boolean
}

type Limits = Required<Pick<DeleteExpiredOptions, 'batchSize' | 'delayMs' | 'totalTimeoutMs'>>

const limitsOf = ({
  batchSize = 200,
  delayMs = 20,
  totalTimeoutMs = 600_000,
}: DeleteExpiredOptions): Limits => ({
  batchSize: numberOption('batchSize', batchSize, 1, 100_000, 'integer'),
  delayMs: numberOption('delayMs', delayMs, 0, 3_600_000),
  totalTimeoutMs: numberOption('totalTimeoutMs', totalTimeoutMs, 0, Number.MAX_SAFE_INTEGER),
})

/**
 * Deletes expired sessions with all that hangs from them. It never waits for a lock, never deletes what is
 * alive, and may run anywhere and any number of times: on one database one batch is done at a time. Throws a
 * `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { deleteExpiredSessions } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const collected = await deleteExpiredSessions(memoryStore(), { totalTimeoutMs: 60_000 })()
 * console.log(collected) // { _tag: 'Right', right: { sessions: 0, batches: 1, finished: true } }
 * ```
 */
export const deleteExpiredSessions = (
  store: SessionStore,
  options: DeleteExpiredOptions = {},
): TaskEither<StoreError, DeletedExpired> => {
  return deleting(store, options, true)
}

/** The pauses of a background task (`ref` is false) keep no process alive. */
const deleting = (
  store: SessionStore,
  options: DeleteExpiredOptions,
  ref: boolean,
): TaskEither<StoreError, DeletedExpired> => {
  const limits = limitsOf(options)
  return async () => {
    const start = performance.now()
    const result = await deleteBatches(store, limits, options, start, ref)
    if (E.isRight(result))
      publish('expiredDeleted', { ...result.right, durationMs: performance.now() - start })
    else publishFailure('deleteExpired', result.left)
    return result
  }
}

const deleteBatches = async (
  store: SessionStore,
  { batchSize, delayMs, totalTimeoutMs }: Limits,
  { signal, onBatch }: DeleteExpiredOptions,
  start: number,
  ref: boolean,
): Promise<E.Either<StoreError, DeletedExpired>> => {
  const until = start + totalTimeoutMs
  for (let [sessions, batches] = [0, 0]; ; ) {
    const began = performance.now()
    const result = await store.deleteExpired(batchSize)()
    if (E.isLeft(result)) return result
    const { more, busy } = result.right
    ;[sessions, batches] = [sessions + result.right.sessions, batches + (busy ? 0 : 1)]
    onBatch?.({ sessions, batches, finished: !more && !busy })
    if (!more && !busy) return E.right({ sessions, batches, finished: true })
    const pause = Math.max(delayMs, performance.now() - began, busy ? BUSY_PAUSE_MS : 0)
    if (performance.now() + pause > until || !(await waited(pause, signal, ref)))
      return E.right({ sessions, batches, finished: false })
  }
}

/** While another collector is at work. */
const BUSY_PAUSE_MS = 500

/** Whether the pause came to its end. */
const waited = (pause: number, signal: AbortSignal | undefined, ref: boolean): Promise<boolean> =>
  signal?.aborted === true
    ? Promise.resolve(false)
    : delay(pause, true, { ref, ...(signal === undefined ? {} : { signal }) }).catch(() => false)

// A collector that runs beside a server: now and then, in any number of processes.

export interface CleanupOptions extends Omit<DeleteExpiredOptions, 'signal'> {
  /** From the end of one collection to the next, on average, in milliseconds. Default: 5 minutes. */
  readonly everyMs?: number
}

export interface Cleanup {
  /** Ends it, after the batch that is under way. */
  readonly stop: Task<void>
}

/**
 * Starts collecting garbage in the background. Its times are spread at random, so that processes which start
 * together do not come together. Failures are told as events (`failed`), and it goes on. It keeps no process
 * alive. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { startCleanup } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const collector = startCleanup(memoryStore(), { everyMs: 60_000 })
 * await collector.stop()
 * ```
 */
export const startCleanup = (store: SessionStore, options: CleanupOptions = {}): Cleanup => {
  const { everyMs = 300_000, ...rest } = options
  numberOption('everyMs', everyMs, 1, 2 ** 30)
  const end = new AbortController()
  const deleteExpired = deleting(store, { ...rest, signal: end.signal }, false)
  let running: Promise<unknown> = Promise.resolve()
  let timer: NodeJS.Timeout
  const later = (milliseconds: number): void => {
    timer = setTimeout(() => {
      running = deleteExpired()
        // The program's own: `onBatch`, or a store of its own, that throws.
        .catch((error: unknown) => publishFailure('deleteExpired', error))
        .then(() => {
          if (!end.signal.aborted) later(everyMs * (0.5 + Math.random()))
        })
    }, milliseconds).unref()
  }
  later(everyMs * Math.random())
  return {
    stop: async () => {
      end.abort()
      clearTimeout(timer)
      await running
    },
  }
}
