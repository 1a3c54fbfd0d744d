// A line of those who ask alike: who wait go together, each gets its own answer, and who cannot be answered so asks
// by itself.

import * as E from 'fp-ts/lib/Either.js'
import type { DriverError, StoreError } from '../base/errors.js'
import {
  BATCH_SIZE,
  type BatchLimits,
  briefly,
  concernsAll,
  gathering,
  type InLine,
  inTime,
  overloaded,
} from './gathering.js'

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
