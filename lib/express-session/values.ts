// Converts between the mutable session object of express-session and entries. Each member of the object is a key,
// including `cookie`. The edits of an object are its differences from its original entries.

import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { Entries } from '../core/edits.js'
import type { Json } from '../core/json.js'
import { HashMap, O } from '../core/prelude.cjs'
import { Token } from '../core/token.js'
import { sessionDel, sessionSet } from '../core/values.js'
import type { Lifetime, Session } from '../store/contract.js'

export type Members = Readonly<Record<string, Json>>

/** A member of this name is left out, because its assignment would replace the prototype of an object. */
const PROTOTYPE = '__proto__'

/** Returns the entries without keyrow's own keys, and without `__proto__`. */
export const visible = (entries: Entries): Entries =>
  entries.filterNot((_, key) => key === PROTOTYPE || key.startsWith('keyrow:'))

/** Returns the entries as a mutable object, which is a deep copy. */
export const objectOf = (entries: Entries): Record<string, unknown> => ({
  cookie: { originalMaxAge: null },
  ...(JSON.parse(JSON.stringify(Object.fromEntries(entries))) as Record<string, unknown>),
})

/** Returns the entries of an object's JSON, in which a `Date` is text and `undefined` is left out. */
export const entriesOf = (object: object): Entries =>
  HashMap(Object.entries(JSON.parse(JSON.stringify(object)) as Members)).delete(PROTOTYPE)

/** Returns the session with the edits that lead from `before` to `after`. */
export const withEdited = (session: Session, before: Entries, after: Entries): Session =>
  before
    .merge(after)
    .keySeq()
    .filterNot((key) => isDeepStrictEqual(before.get(key), after.get(key)))
    .reduce((result: Session, key) => {
      const value = after.get(key)
      return value === undefined ? sessionDel(key)(result) : sessionSet(key, value)(result)
    }, session)

/** Overwrites those members of a cookie that change in every request, so that a comparison ignores them. */
const NO_TIMES = { expires: null, originalExpires: null, originalMaxAge: null }

// Returns the entries to store in place of `before`. If only the cookie's time has changed, and by less than
// `touchFraction` of the cookie's `originalMaxAge`, the result is equal to `before`. Otherwise the result is `after`.
export const entriesToStore = ({ touchFraction }: Lifetime, before: Entries, after: Entries): Entries => {
  const [from, to] = [before.get('cookie'), after.get('cookie')]
  if (from === undefined || !isSmallStep(touchFraction, from, to)) return after
  const kept = after.set('cookie', from)
  return isDeepStrictEqual(before.toObject(), kept.toObject()) ? kept : after
}

const isSmallStep = (touchFraction: number, before: Json, after: Json | undefined): boolean => {
  if (!isMembers(before) || !isMembers(after)) return false
  if (!isDeepStrictEqual({ ...before, ...NO_TIMES }, { ...after, ...NO_TIMES })) return false
  const [from, to] = [timeOf(before), timeOf(after)]
  const [maxAge, newMaxAge] = [before['originalMaxAge'], after['originalMaxAge']]
  if (typeof maxAge !== 'number' || typeof newMaxAge !== 'number' || from === undefined || to === undefined)
    return from === to && maxAge === newMaxAge
  if (Math.abs(newMaxAge - maxAge) >= CLOCK_STEP_MS || to <= from - CLOCK_STEP_MS) return false
  return to - from < touchFraction * newMaxAge
}

// express-session 1.19 reads the clock twice when it sets a cookie's time. So `originalMaxAge` may become a millisecond
// shorter in a request without changes, and the cookie's time may move backwards.
const CLOCK_STEP_MS = 1_000

export const isMembers = (value: Json | undefined): value is Members =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Returns the time of the cookie's expiry in milliseconds since 1970. A cookie with `expires: 0` has no such time. */
const timeOf = ({ expires }: Members): number | undefined => {
  const time = typeof expires === 'string' ? Date.parse(expires) : expires
  return typeof time !== 'number' || Number.isNaN(time) || expires === 0 ? undefined : time
}

/** Whether the session has ended because its cookie has expired. */
export const hasEnded = (entries: Entries, now: number): boolean => isOver(entries.get('cookie'), now)

/** Whether the cookie has expired at the time `now`, in milliseconds since 1970. */
export const isOver = (cookie: Json | undefined, now: number): boolean => {
  const time = isMembers(cookie) ? timeOf(cookie) : undefined
  return time !== undefined && time <= now
}

// A sid (express-session's session id) is a credential and is not stored. keyrow's id and secret are hashes of the sid.

const digest = (purpose: string, sid: string): Buffer =>
  createHash('sha256').update(`keyrow express-session ${purpose}\0${sid}`).digest()

/** Returns the token of the session that has this sid. */
export const tokenOfSid = (sid: string): Token => {
  const id = digest('id', sid).subarray(0, 16)
  // The next two calls set the version and the variant of a UUID of version 4.
  id.writeUInt8((id.readUInt8(6) & 0x0f) | 0x40, 6)
  id.writeUInt8((id.readUInt8(8) & 0x3f) | 0x80, 8)
  const uuid = id.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  const token = Token.parse(`${uuid}.${digest('secret', sid).toString('base64url')}`)
  if (O.isNone(token)) throw new Error('a digest is no token')
  return token.value
}
