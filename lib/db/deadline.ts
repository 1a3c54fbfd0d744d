// Applies a deadline and retries to an operation, and converts the errors of drivers.

import { DriverError, type Effect, isRetryableState } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { E, type TE } from '../core/prelude.cjs'
import { cancelAlarm, delay, MAX_TIMER_MS, setAlarm } from '../core/process.js'
import type { Outcome, Query } from './database.js'
import { paramProblem } from './text-format.js'

// Whether a statement failed because its prepared form is stale. A prepared statement is stale if a column has a new
// type, or if the connection has lost the prepared statement. DISCARD ALL or a pooler can cause this loss. The server
// detects a stale statement before it runs the statement. So the statement had no effect, and can be sent again.
export const isStalePlan = (error: unknown): boolean => {
  const { code, routine } = (error ?? {}) as { readonly code?: unknown; readonly routine?: unknown }
  // 0A000 has other causes too, and messages may be translated. So the name of the server's routine is compared.
  return code === '0A000' ? routine === 'RevalidateCachedQuery' : isForgotten(error)
}

/** Whether the connection has lost the prepared statement, or has another prepared statement with the same name. */
export const isForgotten = (error: unknown): boolean => /^(26000|42P05)$/.test(String(codeOf(error)))

export const codeOf = (error: unknown): unknown =>
  (error as { readonly code?: unknown } | null | undefined)?.code

const DEFAULT_TIMEOUT_MS = 5_000

/** Returns the option `timeoutMs`, in milliseconds. Throws a `RangeError` if it is out of range. */
export const timeoutOf = ({ timeoutMs = DEFAULT_TIMEOUT_MS }: { readonly timeoutMs?: number }): number =>
  numberOption('timeoutMs', timeoutMs, 1, MAX_TIMER_MS)

// Runs `start`, and fails with a `DriverError` after `timeoutMs`. Earlier attempts have used `spentMs` of this time. At
// the deadline `abandon` is called, and returns the `effect` of the error. A later result of `start` is ignored.
export const withDeadline = <A>(
  name: string,
  timeoutMs: number,
  start: () => PromiseLike<A>,
  abandon: () => Effect = () => 'unknown',
  spentMs = 0,
): Outcome<A> =>
  new Promise((resolve) => {
    const alarm = setAlarm(timeoutMs - spentMs, () =>
      resolve(E.left(missedDeadline(name, timeoutMs, abandon()))),
    )
    const settle = (result: E.Either<DriverError, A>): void => {
      cancelAlarm(alarm)
      resolve(result)
    }
    const fail = (cause: unknown): void => settle(E.left(driverError(name, cause)))
    try {
      start().then((answer) => settle(E.right(answer)), fail)
    } catch (cause) {
      fail(cause)
    }
  })

export const missedDeadline = (name: string, timeoutMs: number, effect: Effect): DriverError =>
  new DriverError(`${name}: no answer within ${String(timeoutMs)} ms`, {
    kind: 'timeout',
    retryable: true,
    effect,
  })

/** Converts a driver's error to a `DriverError`. Drivers' errors differ in class and fields, but all have a `code`. */
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

/** Returns the names of the violated constraint and column. The field names of the drivers' errors differ. */
const violated = (cause: unknown): { readonly constraint?: string; readonly column?: string } => {
  const fields = (cause ?? {}) as Readonly<Record<string, unknown>>
  const constraint = fields['constraint_name'] ?? fields['constraint']
  const column = fields['column_name'] ?? fields['column']
  return {
    ...(typeof constraint === 'string' ? { constraint } : {}),
    ...(typeof column === 'string' ? { column } : {}),
  }
}

// A SQLSTATE has five characters and at least one digit. The system error EPIPE has no digit.
const SQL_STATE = /^(?=.*\d)[0-9A-Z]{5}$/

const isLostCode = (code: unknown): boolean =>
  typeof code === 'string' && /^(E[A-Z0-9_]+|CONNECT(ION)?_[A-Z]+)$/.test(code)

/** Whether an established connection was lost. */
export const hasBrokenOff = (error: unknown): boolean => isLostCode(codeOf(error)) && !isOfConnecting(error)

/** Whether no connection could be established. */
const isOfConnecting = (error: unknown): boolean => {
  const { syscall } = (error ?? {}) as { readonly syscall?: unknown }
  const isOfSocket = syscall === 'connect' || syscall === 'getaddrinfo'
  return isOfSocket || error instanceof AggregateError || codeOf(error) === 'CONNECT_TIMEOUT'
}

/** Whether the connection was lost. The result is false if the server rejected the statement or a deadline passed. */
export const isLostConnection = (error: DriverError): boolean =>
  error.sqlState === undefined && isLostCode(codeOf(error.cause))

/** Returns an error if a parameter is not a `Param`. Drivers would convert such a parameter differently. */
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

// Retries operations of the store, which are all idempotent. The database recognises a repeated save by its idempotency
// key. A repeated rotation or creation recognises the effect of the first attempt. An operation is retried after a lost
// connection, a timeout, a deadlock, a serialization failure or a stale prepared statement. It is also retried if the
// server is starting, stopping or read-only, or lacks resources. The number of attempts and the total time are bounded.
// The pauses between attempts have random lengths.

export interface RetryPolicy {
  /** The maximum number of attempts, including the first one. Default: 6. */
  readonly attempts: number
  /** The time for all attempts and pauses, in milliseconds. Default: 12,000. */
  readonly totalTimeoutMs: number
  /** The maximum length of the first pause, in milliseconds. The maximum doubles with each attempt. Default: 20. */
  readonly baseDelayMs: number
}

/** Returns a policy with defaults for the missing options. Throws a `RangeError` if an option is out of range. */
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

/** One attempt at an operation. `mayBeDone` is true if an earlier attempt failed with an unknown effect. */
export type Attempt<L, A> = (mayBeDone: boolean) => Promise<E.Either<L, A>>

// Repeats the operation, within the limits of the policy, while it fails with a retryable `DriverError`. When the total
// time is over, the task returns a retryable `DriverError`, and ignores the result of the running attempt.
export const retried =
  (policy: RetryPolicy) =>
  <L, A>(operation: Attempt<L, A>): TE.TaskEither<L | DriverError, A> =>
  () =>
    new Promise((resolve, reject) => {
      const run: Run<L, A> = { policy, operation, startedAt: performance.now(), isOver: false }
      const running = operation(false)
      const alarm = setAlarm(policy.totalTimeoutMs, () => {
        run.isOver = true
        resolve(E.left(retryTimeout(policy)))
      })
      const end = (result: E.Either<L, A>): void => {
        cancelAlarm(alarm)
        resolve(result)
      }
      const fail = (thrown: Error): void => {
        cancelAlarm(alarm)
        reject(thrown)
      }
      running.then((result) => {
        try {
          if (isRetryable(result)) again(run, result).then(end, fail)
          else end(result)
        } catch (thrown) {
          fail(thrown as Error)
        }
      }, fail)
    })

/** The attempts at one operation. `isOver` is true as soon as their total time is over. */
interface Run<L, A> {
  readonly policy: RetryPolicy
  readonly operation: Attempt<L, A>
  readonly startedAt: number
  isOver: boolean
}

const retryTimeout = ({ totalTimeoutMs }: RetryPolicy): DriverError =>
  new DriverError(`not done within ${String(totalTimeoutMs)} ms, all attempts included`, {
    kind: 'timeout',
    retryable: true,
  })

const again = async <L, A>(run: Run<L, A>, first: E.Left<DriverError>): Promise<E.Either<L, A>> => {
  const { policy, operation, startedAt } = run
  let result: E.Either<L, A> = first as E.Either<L, A>
  let mayBeDone = false
  for (let attempt = 1; isRetryable(result) && attempt < policy.attempts; attempt += 1) {
    mayBeDone ||= result.left.effect === 'unknown'
    const pause = Math.random() * policy.baseDelayMs * 2 ** (attempt - 1)
    if (performance.now() - startedAt + pause > policy.totalTimeoutMs) return result
    await delay(pause)
    if (run.isOver) return result
    result = await operation(mayBeDone)
  }
  return result
}

const isRetryable = (result: E.Either<unknown, unknown>): result is E.Left<DriverError> =>
  E.isLeft(result) && result.left instanceof DriverError && result.left.retryable
