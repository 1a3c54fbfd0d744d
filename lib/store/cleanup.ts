// Collecting garbage: expired sessions and what hangs from them, in batches, with pauses in between, so that
// the requests being served hardly notice.
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import type { Task } from 'fp-ts/lib/Task.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../core/errors.js'
import type { SessionStore } from './contract.js'
import { publish, publishFailure } from './events.js'

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
const collectQuietly = (store: SessionStore, options: CollectOptions): TaskEither<StoreError, Collected> =>
  collecting(store, limitsOf(options), options, false)

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

// A collector that runs beside a server: now and then, in any number of processes.

export interface CollectorOptions extends Omit<CollectOptions, 'signal'> {
  /** From the end of one collection to the next, on average, in milliseconds. Default: 5 minutes. */
  readonly everyMs?: number
}

export interface Collector {
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
 * import { startCollector } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const collector = startCollector(memoryStore(), { everyMs: 60_000 })
 * await collector.stop()
 * ```
 */
export const startCollector = (store: SessionStore, options: CollectorOptions = {}): Collector => {
  const { everyMs = 300_000, ...rest } = options
  if (!(everyMs >= 1 && everyMs <= 2 ** 30)) throw new RangeError(`everyMs is ${String(everyMs)}`)
  const end = new AbortController()
  const collect = collectQuietly(store, { ...rest, signal: end.signal })
  let running: Promise<unknown> = Promise.resolve()
  let timer: NodeJS.Timeout
  const later = (milliseconds: number): void => {
    timer = setTimeout(() => {
      running = collect()
        // The program's own: `onBatch`, or a store of its own, that throws.
        .catch((error: unknown) => publishFailure('collect', error))
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
