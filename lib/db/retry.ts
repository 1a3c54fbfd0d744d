// Trying again. Every operation of the store may be done twice: what it does the second time changes nothing
// more (a save carries an id that the header remembers, a rotation and a creation know their own work). So
// one whose connection was lost, that was chosen as a deadlock's victim, or that met a server on its way up
// or down, is tried again: a bounded number of times, within a bounded time, with random pauses.
import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { clearTimeout, setTimeout } from '../core/process.js'

export interface RetryPolicy {
  /** How often an operation is tried in all. 1 never tries again. Default: 6. */
  readonly attempts: number
  /** An operation takes at most this many milliseconds, with all its attempts and pauses. Default: 12,000. */
  readonly totalTimeoutMs: number
  /** The first pause is from 0 to this many milliseconds; each one after it from 0 to twice as many. Default: 20. */
  readonly baseDelayMs: number
}

/** The policy with defaults filled in; throws a `RangeError` for a figure that makes no sense. */
export const retryPolicyOf = ({
  attempts = 6,
  totalTimeoutMs = 12_000,
  baseDelayMs = 20,
}: Partial<RetryPolicy>): RetryPolicy =>
  Object.freeze({
    attempts: numberOption('retry.attempts', attempts, 1, 1e9, 'integer'),
    totalTimeoutMs: numberOption('retry.totalTimeoutMs', totalTimeoutMs, 0, 1e9),
    baseDelayMs: numberOption('retry.baseDelayMs', baseDelayMs, 0, 1e9),
  })

/**
 * The same task, tried again by the policy while it fails with a `DriverError` that says it may be. When its time
 * is up it fails with such an error, and what comes later is ignored.
 */
export const retried =
  (policy: RetryPolicy) =>
  <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L | DriverError, A> =>
  () =>
    new Promise((resolve, reject) => {
      const time = { isUp: false }
      const timer = setTimeout(() => {
        time.isUp = true
        resolve(E.left(retryTimeout(policy)))
      }, policy.totalTimeoutMs)
      const ended =
        <R>(settle: (result: R) => void) =>
        (result: R): void => {
          clearTimeout(timer)
          settle(result)
        }
      attempts(policy, task, time).then(ended(resolve), ended(reject))
    })

const retryTimeout = ({ totalTimeoutMs }: RetryPolicy): DriverError =>
  new DriverError(`not done within ${String(totalTimeoutMs)} ms, all tries included`, {
    kind: 'timeout',
    retryable: true,
  })

const attempts = async <L, A>(
  { attempts, totalTimeoutMs, baseDelayMs }: RetryPolicy,
  task: TE.TaskEither<L, A>,
  time: { readonly isUp: boolean },
): Promise<E.Either<L, A>> => {
  const start = performance.now()
  for (let attempt = 1; ; attempt += 1) {
    const result = await task()
    if (!isRetryable(result) || attempt >= attempts) return result
    const pause = Math.random() * baseDelayMs * 2 ** (attempt - 1)
    if (performance.now() - start + pause > totalTimeoutMs) return result
    await new Promise((resolve) => setTimeout(resolve, pause))
    if (time.isUp) return result
  }
}

const isRetryable = (result: E.Either<unknown, unknown>): boolean =>
  E.isLeft(result) && result.left instanceof DriverError && result.left.retryable
