// Collecting garbage: expired sessions and what hangs from them, in batches, with pauses in between, so that
// the requests being served hardly notice.
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import { publish, publishFailure } from '../port/events.js'
import type { SessionStore } from '../port/session-store.js'

export interface CollectOptions {
  /** At most so many sessions in one batch, which is one transaction. Default: 200. */
  readonly batch?: number
  /** The least pause between two batches, in milliseconds; it is never shorter than the batch took. Default: 20. */
  readonly pauseMs?: number
  /** No batch begins later than this many milliseconds after the first. Default: 10 minutes. */
  readonly withinMs?: number
  /** Ends the collection after the batch that is under way. */
  readonly signal?: AbortSignal
  /** Called after each batch. */
  readonly onBatch?: (soFar: Collected) => void
}

/** What a collection did. */
export interface Collected {
  /** How many sessions were deleted. */
  readonly sessions: number
  readonly batches: number
  /** Whether nothing was left to do; else its time was up, it was told to end, or another one is at work. */
  readonly finished: boolean
}

interface Limits {
  readonly batch: number
  readonly pauseMs: number
  readonly withinMs: number
}

const limitsOf = ({ batch = 200, pauseMs = 20, withinMs = 600_000 }: CollectOptions): Limits => {
  for (const [name, figure, least, most] of [
    ['batch', batch, 1, 100_000],
    ['pauseMs', pauseMs, 0, 3_600_000],
    ['withinMs', withinMs, 0, Number.MAX_SAFE_INTEGER],
  ] as const)
    if (!(figure >= least && figure <= most)) throw new RangeError(`${name} is ${String(figure)}`)
  return { batch: Math.floor(batch), pauseMs, withinMs }
}

/**
 * Deletes expired sessions with all that hangs from them. It never waits for a lock, never deletes what is
 * alive, and may run anywhere and any number of times: on one database one batch is done at a time. Throws a
 * `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { collectGarbage } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const collected = await collectGarbage(memoryStore(), { withinMs: 60_000 })()
 * console.log(collected) // { _tag: 'Right', right: { sessions: 0, batches: 1, finished: true } }
 * ```
 */
export const collectGarbage = (
  store: SessionStore,
  options: CollectOptions = {},
): TaskEither<StoreError, Collected> => {
  const limits = limitsOf(options)
  return collecting(store, limits, options, true)
}

/** The same; with `holds` false its pauses keep no process alive. */
export const collectQuietly = (
  store: SessionStore,
  options: CollectOptions,
): TaskEither<StoreError, Collected> => collecting(store, limitsOf(options), options, false)

const collecting =
  (
    store: SessionStore,
    limits: Limits,
    options: CollectOptions,
    holds: boolean,
  ): TaskEither<StoreError, Collected> =>
  async () => {
    const start = performance.now()
    const result = await collect(store, limits, options, start, holds)
    if (E.isRight(result)) publish('collected', { ...result.right, durationMs: performance.now() - start })
    else publishFailure('collect', result.left)
    return result
  }

const collect = async (
  store: SessionStore,
  { batch, pauseMs, withinMs }: Limits,
  { signal, onBatch }: CollectOptions,
  start: number,
  holds: boolean,
): Promise<E.Either<StoreError, Collected>> => {
  const until = start + withinMs
  for (let [sessions, batches] = [0, 0]; ; ) {
    const began = performance.now()
    const result = await store.collect(batch)()
    if (E.isLeft(result)) return result
    const { more, busy } = result.right
    ;[sessions, batches] = [sessions + result.right.sessions, batches + (busy ? 0 : 1)]
    onBatch?.({ sessions, batches, finished: !more && !busy })
    if (!more && !busy) return E.right({ sessions, batches, finished: true })
    const pause = Math.max(pauseMs, performance.now() - began, busy ? BUSY_PAUSE_MS : 0)
    if (performance.now() + pause > until || !(await waited(pause, signal, holds)))
      return E.right({ sessions, batches, finished: false })
  }
}

/** While another collector is at work. */
const BUSY_PAUSE_MS = 500

/** Whether the pause came to its end. */
const waited = (pause: number, signal: AbortSignal | undefined, holds: boolean): Promise<boolean> =>
  signal?.aborted === true
    ? Promise.resolve(false)
    : delay(pause, true, { ref: holds, ...(signal === undefined ? {} : { signal }) }).catch(() => false)
