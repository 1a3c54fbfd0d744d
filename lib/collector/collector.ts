// A collector that runs beside a server: now and then, in any number of processes.
import type { Task } from 'fp-ts/lib/Task.js'
import { publishFailure } from '../port/events.js'
import type { SessionStore } from '../port/session-store.js'
import { type CollectOptions, collectQuietly } from './collect.js'

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
