// Gathers what arrives while earlier batches are under way, and sends it as the next one. Whoever comes when nothing
// is under way waits for nothing.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import { DriverError, type StoreError } from '../core/errors.js'
import { clearTimeout, setImmediate, setTimeout } from '../core/process.js'

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

// A line of those who ask alike: who wait go together, each gets its own answer, and who cannot be answered so asks
// by itself.

export interface Asked<I, A, L extends StoreError> {
  /** Its name in errors. */
  readonly what: string
  readonly limits: Required<BatchLimits>
  /** Why nobody may ask here and now. */
  readonly refusal: (() => L | undefined) | undefined
  /** The answers in the order of the items; `undefined` for one that must ask by itself. */
  readonly all: (items: readonly I[]) => Promise<E.Either<L, readonly (A | undefined)[]>>
  readonly one: (item: I) => Promise<E.Either<L, A>>
  /** Of what may wait for a lock: its name. Two of one name are never asked at once. */
  readonly lock?: (item: I) => string
  /** The length of its text. Default: nothing worth counting. */
  readonly sizeOf?: (item: I) => number
}

interface Waiting<I, A, L> extends InLine {
  readonly item: I
  readonly resolve: (outcome: E.Either<L | DriverError, A>) => void
}

interface Queue<I, A, L> {
  readonly waiting: Waiting<I, A, L>[]
  /** By the name of a lock, those who wait for one who waits or asks. */
  readonly behind: Map<string, Waiting<I, A, L>[]>
  /** How many were not answered yet. */
  size: number
}

type Answer<A, L> = Promise<E.Either<L | DriverError, A>>

export const asking = <I, A, L extends StoreError>(asked: Asked<I, A, L>): ((item: I) => Answer<A, L>) => {
  const { what, limits, refusal, lock } = asked
  const line: Queue<I, A, L> = { waiting: [], behind: new Map(), size: 0 }
  const joined = gathering(
    { next: (places) => nextOf(line, asked, places), send: (waiting) => send(asked, waiting) },
    limits.atOnce,
  )
  return (item) => {
    const refused = refusal?.() ?? (line.size >= limits.queue ? overloaded(what, limits.queue) : undefined)
    if (refused !== undefined) return Promise.resolve(E.left(refused))
    const name = lock?.(item)
    return new Promise((resolve, reject) => {
      const answered =
        <R>(settle: (result: R) => void) =>
        (result: R): void => {
          leave(line, name)
          joined()
          settle(result)
        }
      join(line, name, {
        item,
        since: performance.now(),
        resolve: answered(resolve),
        reject: answered(reject),
      })
      joined()
    })
  }
}

const join = <I, A, L>(line: Queue<I, A, L>, name: string | undefined, one: Waiting<I, A, L>): void => {
  line.size += 1
  const same = name === undefined ? undefined : line.behind.get(name)
  if (same !== undefined) {
    same.push(one)
    return
  }
  if (name !== undefined) line.behind.set(name, [])
  line.waiting.push(one)
}

const leave = <I, A, L>(line: Queue<I, A, L>, name: string | undefined): void => {
  line.size -= 1
  if (name === undefined) return
  const next = line.behind.get(name)?.shift()
  if (next === undefined) line.behind.delete(name)
  else line.waiting.push(next)
}

const nextOf = <I, A, L extends StoreError>(
  { waiting }: Queue<I, A, L>,
  { what, limits, sizeOf, lock }: Asked<I, A, L>,
  places: number,
): readonly Waiting<I, A, L>[] | undefined => {
  while (waiting.length > 0) {
    // What writes goes together as far as it can: each statement flushes the log.
    const most = Math.min(limits.batch, lock === undefined ? shareOf(waiting.length, places) : waiting.length)
    let [count, size] = [0, 0]
    for (; count < most && size < BATCH_SIZE; count += 1)
      size += sizeOf?.((waiting[count] as Waiting<I, A, L>).item) ?? 0
    const batch = inTime(waiting.splice(0, count), what, limits.waitMs)
    if (batch.length > 0) return batch
  }
  return undefined
}

/**
 * So many of those who wait make the next batch: the places get alike, so that the process works on one batch while the
 * server works on another. But a statement of its own is worth while for no fewer than sixteen.
 */
const shareOf = (waiting: number, places: number): number =>
  Math.ceil(waiting / Math.min(places, Math.max(1, Math.floor(waiting / 16))))

const send = async <I, A, L extends StoreError>(
  asked: Asked<I, A, L>,
  waiting: readonly Waiting<I, A, L>[],
): Promise<void> => {
  try {
    const left = waiting.length === 1 ? waiting : await together(asked, waiting)
    const each = Promise.all(left.map((one) => alone(asked, one)))
    // One that may wait for a lock does not hold up those behind it.
    await (asked.lock === undefined ? each : briefly(each))
  } catch (thrown) {
    // A statement's observer may throw: that is everybody's, and the place of the batch is free again.
    for (const { reject } of waiting) reject(thrown)
  }
}

/** Those who have to ask by themselves; the others have their answers. */
const together = async <I, A, L extends StoreError>(
  { all }: Asked<I, A, L>,
  waiting: readonly Waiting<I, A, L>[],
): Promise<readonly Waiting<I, A, L>[]> => {
  const results = await all(waiting.map(({ item }) => item))
  if (E.isLeft(results)) {
    if (!concernsAll(results.left)) return waiting
    for (const { resolve } of waiting) resolve(results)
    return []
  }
  return waiting.filter(({ resolve }, index) => {
    const answer = results.right[index]
    if (answer !== undefined) resolve(E.right(answer))
    return answer === undefined
  })
}

const alone = async <I, A, L extends StoreError>(
  { one }: Asked<I, A, L>,
  { item, resolve, reject }: Waiting<I, A, L>,
): Promise<void> => {
  try {
    resolve(await one(item))
  } catch (thrown) {
    reject(thrown)
  }
}
