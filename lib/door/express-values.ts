// The mutable session object of express-session, as entries: its keys are keys, `cookie` among them. What was
// done to it is told by what it was when it was given out.

import { isDeepStrictEqual } from 'node:util'
import { Map as HashMap } from 'immutable'
import type { Json } from '../base/json.js'
import type { Lifetime } from '../port/lifetime.js'
import type { Session } from '../port/session-store.js'
import type { Entries } from '../session/edits.js'
import { sessionDel, sessionSet } from '../session/values.js'

type Members = Readonly<Record<string, Json>>

/** Who copies an object member by member would change what it is by this one. */
const PROTOTYPE = '__proto__'

/** The entries as express-session sees them: keyrow's own are not among them. */
export const visible = (entries: Entries): Entries =>
  entries.filterNot((_, key) => key === PROTOTYPE || key.startsWith('keyrow:'))

/** A mutable copy of them, as `JSON.parse` would give it. */
export const objectOf = (entries: Entries): Record<string, unknown> => ({
  cookie: { originalMaxAge: null },
  ...(JSON.parse(JSON.stringify(Object.fromEntries(entries))) as Record<string, unknown>),
})

/** What `JSON.stringify` makes of the object: a `Date` becomes text, `undefined` is left out. */
export const entriesOf = (object: object): Entries =>
  HashMap(Object.entries(JSON.parse(JSON.stringify(object)) as Members)).delete(PROTOTYPE)

/** The session with what was done to its object, from `before` to `after`. */
export const withEdited = (session: Session, before: Entries, after: Entries): Session => {
  const { lifetime } = session.handle
  const isSame = (key: string): boolean =>
    key === 'cookie'
      ? isSameCookie(lifetime, before.get(key), after.get(key))
      : isDeepStrictEqual(before.get(key), after.get(key))
  const edited = before
    .merge(after)
    .keySeq()
    .filterNot(isSame)
    .reduce((result: Session, key) => {
      const value = after.get(key)
      return value === undefined ? sessionDel(key)(result) : sessionSet(key, value)(result)
    }, session)
  return edited
}

/** The times in a cookie; express-session moves them in every request. */
const TIMES = ['expires', 'originalExpires']

// A time that has moved only a little is not worth a write, by the same rule as the expiration of a session.
const isSameCookie = ({ touchFraction }: Lifetime, before?: Json, after?: Json): boolean => {
  if (!isMembers(before) || !isMembers(after)) return isDeepStrictEqual(before, after)
  if (!isDeepStrictEqual(withoutTimes(before), withoutTimes(after))) return false
  const [from, to, maxAge] = [timeOf(before), timeOf(after), after['originalMaxAge']]
  if (from === undefined || to === undefined) return from === to
  return to >= from && to - from < touchFraction * (typeof maxAge === 'number' ? maxAge : 0)
}

const withoutTimes = (cookie: Members): Members =>
  Object.fromEntries(Object.entries(cookie).filter(([name]) => !TIMES.includes(name)))

const isMembers = (value: Json | undefined): value is Members => typeof value === 'object' && value !== null

/** When the browser forgets the cookie, in milliseconds since 1970, if it says so. */
const timeOf = (cookie: Members): number | undefined => {
  const time = typeof cookie['expires'] === 'string' ? Date.parse(cookie['expires']) : Number.NaN
  return Number.isNaN(time) ? undefined : time
}

/** Whether the browser has forgotten the cookie by now, so that whoever shows it is not that browser. */
export const isForgotten = (entries: Entries, now: number): boolean => {
  const cookie = entries.get('cookie')
  const time = isMembers(cookie) ? timeOf(cookie) : undefined
  return time !== undefined && time <= now
}
