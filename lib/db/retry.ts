// Retries operations of the store. Each is idempotent: the header keeps the ids of the last saves, and a rotation and
// a creation recognize their own effect. An operation is retried after a lost connection, a deadlock, or a server that
// starts or stops. Attempts and total time are bounded, and the pauses are random.
import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { clearTimeout, setTimeout } from '../core/process.js'

export interface RetryPolicy {
  /** Attempts in all; 1 never retries. Default: 6. */
  readonly attempts: number
  /** The time for all attempts and pauses, in milliseconds. Default: 12,000. */
  readonly totalTimeoutMs: number
  /** The longest first pause, in milliseconds; it doubles with each attempt. Default: 20. */
  readonly baseDelayMs: number
}

/** Fills in the defaults of a policy. Throws a `RangeError`. */
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
 * Runs the task again, by the policy, as long as it fails with a retryable `DriverError`. When the total time is up it
 * fails with such an error and ignores a later result.
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
  new DriverError(`not done within ${String(totalTimeoutMs)} ms, all attempts included`, {
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
