// A session's own lifetime ("remember me"): an entry like any other, which stores obey instead of their own times.
import * as t from 'io-ts'
import type { Entries } from './edits.js'
import { OWN, type SessionKey, sessionKey } from './key.js'

/** The entry's key. */
export const LIFETIME = OWN.lifetime

/** How long one session lives, in milliseconds. */
export interface OwnLifetime {
  /** Unused for so long it expires. */
  readonly idleMs: number
  /** So long after the sign-in it expires, used or not. */
  readonly absoluteMs: number
}

/** Ten thousand years in milliseconds: more would not fit a PostgreSQL timestamp. */
export const LONGEST_MS = 10_000 * 365 * 24 * 60 * 60_000

const isTime = (figure: unknown): figure is number =>
  typeof figure === 'number' && figure >= 1 && figure <= LONGEST_MS

const isOwn = (value: unknown): value is OwnLifetime =>
  typeof value === 'object' &&
  value !== null &&
  isTime((value as Partial<OwnLifetime>).idleMs) &&
  isTime((value as Partial<OwnLifetime>).absoluteMs)

const Own = new t.Type<OwnLifetime>(
  'lifetime',
  isOwn,
  (value, context) => (isOwn(value) ? t.success(value) : t.failure(value, context)),
  ({ idleMs, absoluteMs }) => ({ idleMs, absoluteMs }),
)

export const ownLifetimeKey: SessionKey<OwnLifetime> = sessionKey(LIFETIME, Own)

/** The lifetime that these entries give the session, if they do. */
export const ownLifetimeOf = (entries: Entries): OwnLifetime | undefined => {
  const value: unknown = entries.get(LIFETIME)
  return isOwn(value) ? value : undefined
}
