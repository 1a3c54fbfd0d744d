// Deletes expired sessions in batches. Pauses between the batches leave the database free for requests.

import { setTimeout as delay } from 'node:timers/promises'
import type { Task } from 'fp-ts/lib/Task.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E } from '../core/prelude.cjs'
import type { SessionStore } from './contract.js'
import { publish, publishFailure } from './events.js'

export interface DeleteExpiredOptions {
  /** The maximum number of sessions in one batch. Without Citus a batch is one transaction. Default: 200. */
  readonly batchSize?: number
  /** The minimum pause after a batch, in milliseconds. A pause is not shorter than the previous batch. Default: 20. */
  readonly delayMs?: number
  /** No batch begins more than this many milliseconds after the start of the run. Default: 10 minutes. */
  readonly totalTimeoutMs?: number
  /** Ends the run after the current batch. */
  readonly signal?: AbortSignal
  /** Called after each batch. */
  readonly onBatch?: (soFar: DeletedExpired) => void
}

/** The progress or the result of a run. */
export interface DeletedExpired {
  /** The number of deleted sessions. */
  readonly sessions: number
  readonly batches: number
  /** True if no expired session was left, except locked ones. False if the time was up or the run was aborted. */
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
 * Deletes expired sessions with all their rows, in batches. The cleanup waits for no lock and deletes no live session.
 * Any number of processes may run a cleanup. Without Citus only one batch runs at a time in each schema.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { deleteExpiredSessions } from 'keyrow/store'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const result = await deleteExpiredSessions(memoryStore(), { totalTimeoutMs: 60_000 })()
 * console.log(result) // { _tag: 'Right', right: { sessions: 0, batches: 1, finished: true } }
 * ```
 */
export const deleteExpiredSessions = (
  store: SessionStore,
  options: DeleteExpiredOptions = {},
): TaskEither<StoreError, DeletedExpired> => deleting(store, options, true)

/** If `ref` is false, the pauses do not keep the process alive. */
const deleting = (
  store: SessionStore,
  options: DeleteExpiredOptions,
  ref: boolean,
): TaskEither<StoreError, DeletedExpired> => {
  const limits = limitsOf(options)
  return async () => {
    const start = performance.now()
    const result = await deleteBatches(store, limits, options, ref)
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
  ref: boolean,
): Promise<E.Either<StoreError, DeletedExpired>> => {
  const until = performance.now() + totalTimeoutMs
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

const BUSY_PAUSE_MS = 500

/** Waits for `pause` milliseconds. Returns false if the signal has ended the wait. */
const waited = (pause: number, signal: AbortSignal | undefined, ref: boolean): Promise<boolean> =>
  delay(pause, true, { ref, ...(signal === undefined ? {} : { signal }) }).catch(() => false)

export interface CleanupOptions extends Omit<DeleteExpiredOptions, 'signal'> {
  /** The average time from the end of one run to the next, in milliseconds. Default: 5 minutes. */
  readonly everyMs?: number
}

export interface Cleanup {
  /** Ends the cleanup after the current batch. */
  readonly stop: Task<void>
}

/**
 * Starts deleting expired sessions in the background. The runs begin at random times, so that processes that start
 * together do not clean up together. Failures are published as `failed` events, and the cleanup continues. The cleanup
 * does not keep the process alive.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { startCleanup } from 'keyrow/store'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const cleanup = startCleanup(memoryStore(), { everyMs: 60_000 })
 * await cleanup.stop()
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
        // The program's `onBatch` or store may throw.
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
