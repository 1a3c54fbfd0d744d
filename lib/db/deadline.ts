// The deadline of an operation, its retries, and the conversion of drivers' errors.

import { DriverError, type Effect, isRetryableState } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E, type TE } from '../core/prelude.cjs'
import { clearTimeout, MAX_TIMER_MS, setTimeout } from '../core/process.js'
import type { Outcome, Query } from './database.js'
import { paramProblem } from './text-format.js'

/**
 * Whether a prepared statement is stale: a column has another type now, or the connection lost the statement (DISCARD
 * ALL, a pooler that gave the connection to another client). The server checks that first, so nothing was done, and the
 * statement can be prepared anew.
 */
export const isStalePlan = (error: unknown): boolean => {
  const { code, routine } = (error ?? {}) as { readonly code?: unknown; readonly routine?: unknown }
  // The SQLSTATE alone covers all that PostgreSQL does not support, and its messages are translated.
  return code === '0A000' ? routine === 'RevalidateCachedQuery' : isForgotten(error)
}

/** Whether the connection has no such prepared statement, or another one of its name. */
export const isForgotten = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return code === '26000' || code === '42P05'
}

const DEFAULT_TIMEOUT_MS = 5_000

/** Returns the option `timeoutMs` in milliseconds. Throws a `RangeError`. */
export const timeoutOf = ({ timeoutMs = DEFAULT_TIMEOUT_MS }: { readonly timeoutMs?: number }): number =>
  numberOption('timeoutMs', timeoutMs, 1, MAX_TIMER_MS)

/**
 * Runs `start`, but fails with a `DriverError` after `timeoutMs`, of which `spentMs` have passed already. Then it calls
 * `abandon`, which returns the effect, and ignores a later result.
 */
export const withDeadline = <A>(
  name: string,
  timeoutMs: number,
  start: () => PromiseLike<A>,
  abandon: () => Effect = () => 'unknown',
  spentMs = 0,
): Outcome<A> =>
  new Promise((resolve) => {
    const timer = setTimeout(() => {
      const effect = abandon()
      const message = `${name}: no answer within ${String(timeoutMs)} ms`
      resolve(E.left(new DriverError(message, { kind: 'timeout', retryable: true, effect })))
    }, timeoutMs - spentMs)
    const settle = (result: E.Either<DriverError, A>): void => {
      clearTimeout(timer)
      resolve(result)
    }
    const fail = (cause: unknown): void => settle(E.left(driverError(name, cause)))
    try {
      start().then((answer) => settle(E.right(answer)), fail)
    } catch (cause) {
      fail(cause)
    }
  })

/** Converts a driver's error. Drivers differ in classes and fields; all of them have `code`. */
export const driverError = (name: string, cause: unknown): DriverError => {
  if (cause instanceof DriverError) return cause
  const { code, message } = (cause ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  const sqlState = typeof code === 'string' && SQL_STATE.test(code) ? code : undefined
  const [isStale, isLost] = [isStalePlan(cause), sqlState === undefined && isLostCode(code)]
  const statementError = typeof message === 'string' && message !== '' ? message : String(code ?? cause)
  return new DriverError(
    `${name}: ${statementError}${isStale ? '; nothing was done, and another attempt succeeds' : ''}`,
    {
      sqlState,
      retryable: isLost || isStale || (sqlState !== undefined && isRetryableState(sqlState)),
      cause,
      ...(isLost ? { kind: 'unavailable', effect: isOfConnecting(cause) ? 'none' : 'unknown' } : {}),
      ...violated(cause),
    },
  )
}

/** The names of the violated constraint and column. postgres.js and PGlite have other fields for them. */
const violated = (cause: unknown): { readonly constraint?: string; readonly column?: string } => {
  const fields = (cause ?? {}) as Readonly<Record<string, unknown>>
  const constraint = fields['constraint_name'] ?? fields['constraint']
  const column = fields['column_name'] ?? fields['column']
  return {
    ...(typeof constraint === 'string' ? { constraint } : {}),
    ...(typeof column === 'string' ? { column } : {}),
  }
}

// A SQLSTATE has five characters and at least one digit, unlike EPIPE.
const SQL_STATE = /^(?=.*\d)[0-9A-Z]{5}$/

const isLostCode = (code: unknown): boolean =>
  typeof code === 'string' && /^(E[A-Z0-9_]+|CONNECT(ION)?_[A-Z]+)$/.test(code)

/** Whether an established connection was lost. */
export const hasBrokenOff = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return isLostCode(code) && !isOfConnecting(error)
}

/** Whether no connection could be established. */
const isOfConnecting = (error: unknown): boolean => {
  const { code, syscall } = (error ?? {}) as { readonly code?: unknown; readonly syscall?: unknown }
  return (
    error instanceof AggregateError ||
    code === 'CONNECT_TIMEOUT' ||
    syscall === 'connect' ||
    syscall === 'getaddrinfo'
  )
}

/** Whether the connection was lost; neither the server rejected the statement, nor a deadline passed. */
export const isLostConnection = (error: DriverError): boolean =>
  error.sqlState === undefined && isLostCode((error.cause as { readonly code?: unknown } | undefined)?.code)

/** The error of the first parameter that is no `Param`, if any. Drivers would treat it differently. */
export const invalidParams = (query: Query, params: readonly unknown[]): DriverError | undefined => {
  for (const [index, param] of params.entries()) {
    const problem = paramProblem(param)
    if (problem !== undefined)
      return new DriverError(`${query.name}: parameter $${String(index + 1)}: ${problem}`, {
        sqlState: '22021',
        retryable: false,
        effect: 'none',
      })
  }
  return undefined
}

export const closedError = (): DriverError =>
  new DriverError('the database is closed', { kind: 'unavailable', retryable: false, effect: 'none' })

// Retries operations of the store. Each is idempotent: the header keeps the ids of the last saves, and a rotation and
// a creation recognize their own effect. An operation is retried after each retryable `DriverError`: `isRetryableState`,
// `driverError` and `withDeadline` decide which errors are. Attempts and total time are bounded; the pauses are random.

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
