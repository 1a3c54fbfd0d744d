// Checks the numbers in options. A caller in JavaScript may pass the string '5', which `+` would concatenate.

import { inspect } from 'node:util'

/** Ten thousand years in milliseconds. A timestamp of PostgreSQL can be this far in the future. */
export const MAX_LIFETIME_MS = 10_000 * 365 * 24 * 60 * 60_000

/** Whether `value` is a number from `min` to `max`. With 'integer', `value` must also be a whole number. */
export const isNumberWithin = (
  value: unknown,
  min: number,
  max: number,
  kind: 'number' | 'integer' = 'number',
): value is number =>
  typeof value === 'number' && value >= min && value <= max && (kind === 'number' || Number.isInteger(value))

/**
 * Checks the option `name` and returns its value.
 *
 * @throws `RangeError` for a value that is not a number in the range. The message shows the value and the range.
 */
export const numberOption = (
  name: string,
  value: unknown,
  min: number,
  max: number,
  kind: 'number' | 'integer' = 'number',
): number => {
  if (isNumberWithin(value, min, max, kind)) return value
  const type = kind === 'integer' ? 'an integer' : 'a number'
  const got = inspect(value, { depth: 0 })
  throw new RangeError(`${name} is ${got}; it must be ${type} from ${String(min)} to ${String(max)}`)
}
