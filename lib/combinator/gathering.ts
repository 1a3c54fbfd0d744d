// Gathers what arrives while earlier batches are under way, and sends it as the next one. Whoever comes when nothing
// is under way waits for nothing.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import type { StoreError } from '../base/errors.js'
import { DriverError } from '../base/errors.js'
import { clearTimeout, setImmediate, setTimeout } from '../base/timers.js'

export interface BatchLimits {
  /** At most so many in one statement. Default: 128. */
  readonly batch?: number
  /** At most so many statements of a kind at once. Default: 2. */
  readonly atOnce?: number
  /** At most so many loads, and as many saves, have no answer yet; one more fails at once with a `DriverError`. Default: 10,000. */
  readonly queue?: number
  /** At most so many milliseconds does one wait for its turn; then it fails with a `DriverError`. Default: 12,000. */
  readonly waitMs?: number
}

export const limitsOf = ({
  batch = 128,
  atOnce = 2,
  queue = 10_000,
  waitMs = 12_000,
}: BatchLimits): Required<BatchLimits> => {
  for (const [name, figure, most] of [
    ['batch', batch, 1_000],
    ['atOnce', atOnce, 100],
    ['queue', queue, 1e7],
    ['waitMs', waitMs, 1e9],
  ] as const)
    if (!(Number.isInteger(figure) && figure >= 1 && figure <= most))
      throw new RangeError(`${name} is ${String(figure)}; it must be from 1 to ${String(most)}`)
  return { batch, atOnce, queue, waitMs }
}

/** Something that waits, in an order of its own. */
export interface BatchSource<B> {
  /** The next batch, out of the line, where so many could go now; `undefined` when there is none. */
  readonly next: (places: number) => B | undefined
  /** Sends a batch, whose place is free again when this has ended, however it ended. */
  readonly send: (batch: B) => Promise<void>
}

/** Gives the function to call whenever something has joined the line. */
export const gathering = <B>(line: BatchSource<B>, atOnce: number): (() => void) => {
  // Not in the async context of whoever came first: a batch is nobody's.
  const neutral = AsyncLocalStorage.snapshot()
  let running = 0
  let scheduled = false
  const pump = (): void => {
    scheduled = false
    while (running < atOnce) {
      const batch = line.next(atOnce - running)
      if (batch === undefined) return
      running += 1
      const done = (): void => {
        running -= 1
        pump()
      }
      void line.send(batch).then(done, done)
    }
  }
  return () => {
    if (scheduled || running >= atOnce) return
    scheduled = true
    // Whoever asks in the same turn of the event loop still joins: those, for one, whom a batch has just answered.
    neutral(setImmediate, pump)
  }
}

export const overloaded = (what: string, queue: number): DriverError =>
  new DriverError(`${what}: ${String(queue)} are waiting already; the database does not keep up`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
  })

/** One who waits for its turn. */
export interface InLine {
  /** When it came, by `performance.now()`. */
  readonly since: number
  readonly resolve: (outcome: E.Either<DriverError, never>) => void
  readonly reject: (thrown: unknown) => void
}

/** Those who have not waited too long; the others are told that they have. */
export const inTime = <W extends InLine>(
  waiting: readonly W[],
  what: string,
  waitMs: number,
): readonly W[] => {
  const earliest = performance.now() - waitMs
  return waiting.filter(({ since, resolve }) => {
    if (since >= earliest) return true
    resolve(E.left(tooLate(what, waitMs)))
    return false
  })
}

const tooLate = (what: string, waitMs: number): DriverError =>
  new DriverError(
    `${what}: its turn has not come within ${String(waitMs)} ms; the database does not keep up`,
    { kind: 'timeout', retryable: true, effect: 'none' },
  )

/**
 * Whether all of a batch failed for the same reason; else each is tried by itself, for one may be what is wrong: what
 * cannot be stored, what deadlocked, what took so long that the server cancelled it.
 */
export const concernsAll = (error: StoreError): boolean =>
  !(error instanceof DriverError) ||
  (error.retryable && !/^(40|57014|55P03|25P04)/.test(error.sqlState ?? ''))

/** What may wait for a lock keeps its place for as long as one does that has none to wait for. */
const PLACE_MS = 50

export const briefly = (doing: Promise<unknown>): Promise<void> =>
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
