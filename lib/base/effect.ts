// Errors of a driver with something else in them: they are never changed in place.
import { DriverError } from './errors.js'
import type { Effect } from './sql-state.js'

/** The same error with another effect. */
export const withEffect = (error: DriverError, effect: Effect): DriverError =>
  error.effect === effect ? error : again(error.message, error, effect)

/** The same error with another message. */
export const withMessage = (error: DriverError, message: string): DriverError =>
  again(message, error, error.effect)

const again = (
  message: string,
  { sqlState, kind, constraint, column, retryable, cause }: DriverError,
  effect: Effect,
): DriverError => new DriverError(message, { sqlState, kind, constraint, column, retryable, effect, cause })
