// A bound on waiting, and one way to tell what went wrong, for every driver.
import * as E from 'fp-ts/lib/Either.js'
import { DriverError, type Effect, isRetryableState } from '../core/errors.js'
import { MAX_TIMER_MS, numberOption } from '../core/options.js'
import { clearTimeout, setTimeout } from '../core/process.js'
import type { Query } from './database.js'
import { paramProblem } from './text-format.js'

// Errors of a prepared statement that does not fit any more: a column that it reads has another type now, or its
// connection has forgotten it (DISCARD ALL, a pooler that gave the connection to somebody else). The server says so
// before it runs anything.

/** Whether a driver's own error is one of these: nothing was done, and the statement can be prepared anew. */
export const isStalePlan = (error: unknown): boolean => {
  const { code, routine } = (error ?? {}) as { readonly code?: unknown; readonly routine?: unknown }
  // By the routine: the same SQLSTATE stands for all that PostgreSQL does not support, and messages are translated.
  return code === '0A000' ? routine === 'RevalidateCachedQuery' : isForgotten(error)
}

/** Whether the connection has no statement of that name, or another one. */
export const isForgotten = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return code === '26000' || code === '42P05'
}

/** How long one statement may take, its wait for a connection included, when nothing else is said. */
const DEFAULT_TIMEOUT_MS = 5_000

export const timeoutOf = ({ timeoutMs = DEFAULT_TIMEOUT_MS }: { readonly timeoutMs?: number }): number =>
  numberOption('timeoutMs', timeoutMs, 1, MAX_TIMER_MS)

/**
 * What `start` gives, or a `DriverError` once `timeoutMs` have passed, of which `spentMs` have gone by already; then
 * `abandon` is called, which tells what is known of the effect, and what comes later is ignored.
 */
export const withDeadline = <A>(
  name: string,
  timeoutMs: number,
  start: () => PromiseLike<A>,
  abandon: () => Effect = () => 'unknown',
  spentMs = 0,
): Promise<E.Either<DriverError, A>> =>
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

/** A driver's own error as ours. Drivers differ in classes and fields; all of them have `code`. */
export const driverError = (name: string, cause: unknown): DriverError => {
  if (cause instanceof DriverError) return cause
  const { code, message } = (cause ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  const sqlState = typeof code === 'string' && SQL_STATE.test(code) ? code : undefined
  const [isStale, isLost] = [isStalePlan(cause), sqlState === undefined && isLostCode(code)]
  const statementError = typeof message === 'string' && message !== '' ? message : String(code ?? cause)
  return new DriverError(
    `${name}: ${statementError}${isStale ? '; nothing was done: it succeeds when it is tried again' : ''}`,
    {
      sqlState,
      retryable: isLost || isStale || (sqlState !== undefined && isRetryableState(sqlState)),
      cause,
      ...(isLost ? { kind: 'unavailable', effect: isOfConnecting(cause) ? 'none' : 'unknown' } : {}),
      ...violated(cause),
    },
  )
}

/** The names of what was violated: postgres.js and PGlite call them differently. */
const violated = (cause: unknown): { readonly constraint?: string; readonly column?: string } => {
  const fields = (cause ?? {}) as Readonly<Record<string, unknown>>
  const constraint = fields['constraint_name'] ?? fields['constraint']
  const column = fields['column_name'] ?? fields['column']
  return {
    ...(typeof constraint === 'string' ? { constraint } : {}),
    ...(typeof column === 'string' ? { column } : {}),
  }
}

// Five characters, at least one a digit, which tells them from EPIPE.
const SQL_STATE = /^(?=.*\d)[0-9A-Z]{5}$/

const isLostCode = (code: unknown): boolean =>
  typeof code === 'string' && /^(E[A-Z0-9_]+|CONNECT(ION)?_[A-Z]+)$/.test(code)

/** Whether this says that a connection broke off which had been made. */
export const hasBrokenOff = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return isLostCode(code) && !isOfConnecting(error)
}

/** Whether no connection could be made. */
const isOfConnecting = (error: unknown): boolean => {
  const { code, syscall } = (error ?? {}) as { readonly code?: unknown; readonly syscall?: unknown }
  return (
    error instanceof AggregateError ||
    code === 'CONNECT_TIMEOUT' ||
    syscall === 'connect' ||
    syscall === 'getaddrinfo'
  )
}

/** Whether the connection itself went, as against a refusal by the server or a deadline. */
export const isLostConnection = (error: DriverError): boolean =>
  error.sqlState === undefined && isLostCode((error.cause as { readonly code?: unknown } | undefined)?.code)

/** Why these parameters must not be sent, if so: drivers would each do something else with them. */
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
