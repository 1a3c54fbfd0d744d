// Moments of time as values that cannot be changed. Locking a `Date` takes longer than all else of a row: of rows that
// are read again and again, the last ones are kept, each in the place that its milliseconds give it.
import { deepFreeze } from '../base/frozen.js'

const PLACES = 1024

const kept: Date[] = []

/** Milliseconds since 1970, or an ISO 8601 date, as a `Date` whose setters throw. */
export const moment = (time: string | number): Date => {
  const date = new Date(time)
  const place = date.getTime() & (PLACES - 1)
  const known = kept[place]
  if (known?.getTime() === date.getTime()) return known
  kept[place] = date
  return deepFreeze(date)
}
