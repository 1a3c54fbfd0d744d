// Whose session it is: an entry like any other, which stores also keep a listing of.

import * as E from 'fp-ts/lib/Either.js'
import * as t from 'io-ts'
import { composeEdits, type Edits, type Entries, noEdits, setTo } from './edits.js'
import type { Json } from './json.js'
import { OWN, type SessionKey, sessionKey } from './key.js'
import { isNumberWithin, MAX_LIFETIME_MS } from './options.js'
import { type SessionValue, withEdits } from './session.js'
import { randomBits64 } from './token.js'
import { sessionRef, sessionSet, sessionUpdate } from './values.js'

/** The entry's key. */
export const PRINCIPAL = OWN.principal

const isPrincipal = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= 1024

const Principal = new t.Type<string>(
  'string of 1 to 1,024 bytes',
  isPrincipal,
  (value, context) => (isPrincipal(value) ? t.success(value) : t.failure(value, context)),
  t.identity,
)

/**
 * The key under which a session says whose it is. `sessionDel(sessionPrincipal)` makes it nobody's.
 *
 * @example
 * ```ts
 * import { buildSession, sessionFor, sessionPrincipal, sessionRef } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionFor('ada')(buildSession(memoryStore()))
 * console.log(sessionRef(sessionPrincipal, 'nobody')(session)) // ada
 * ```
 */
export const sessionPrincipal: SessionKey<string> = sessionKey(PRINCIPAL, Principal)

/**
 * Says whose session it is: a user's id, or whatever tells one party from another. `sessionsOf` then lists it,
 * and `destroySessionsOf` ends it. Do this at sign-in, with `rotateSession`.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, saveSession, sessionFor, sessionsOf } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * const mine = pipe(
 *   saveSession(sessionFor('ada')(buildSession(store))),
 *   TE.chainW(() => sessionsOf(store, 'ada')),
 * )
 * console.log(await pipe(mine, TE.map((sessions) => sessions.length))()) // { _tag: 'Right', right: 1 }
 * ```
 */
export const sessionFor = (principal: string): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionSet(sessionPrincipal, principal)

// Messages for the page that comes next: added by one request, shown by a later one. Each is added and taken
// away by an update, so that overlapping requests lose none.

/** A message; its `kind` is yours to choose (`info`, `error`). */
export interface Flash {
  readonly id: string
  readonly kind: string
  readonly text: string
}

const messages = sessionKey(
  OWN.sessionFlash,
  t.readonlyArray(t.readonly(t.type({ id: t.string, kind: t.string, text: t.string }))),
)

/** So many are kept, the latest ones: a page that is never looked at fills no session. */
const KEPT = 20

/**
 * Adds a message.
 *
 * @example
 * ```ts
 * import { buildSession, sessionFlash, sessionFlashes } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionFlash('error', 'That is sold out.')(buildSession(memoryStore()))
 * console.log(sessionFlashes(session).map(({ kind }) => kind)) // [ 'error' ]
 * ```
 */
export const sessionFlash = (
  kind: string,
  text: string,
): (<H>(session: SessionValue<H>) => SessionValue<H>) => {
  const message = { id: randomBits64(), kind, text }
  return sessionUpdate(messages, (present) => [...present, message].slice(-KEPT), [])
}

/** The messages, the oldest first. */
export const sessionFlashes = <H>(session: SessionValue<H>): readonly Flash[] =>
  sessionRef(messages, [])(session)

/** Takes these messages away; others that came meanwhile stay. */
export const sessionClearFlashes = (
  shown: readonly Flash[],
): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionUpdate(messages, (present) => present.filter(({ id }) => shown.every((seen) => seen.id !== id)), [])

/** Adds the messages of another session, once. */
const addFlashes = (others: Json): (<H>(session: SessionValue<H>) => SessionValue<H>) => {
  const added = messages.codec.decode(others)
  const more = E.isRight(added) ? added.right : []
  return sessionUpdate(
    messages,
    (present) => {
      const isNew = ({ id }: Flash): boolean => present.every((message) => message.id !== id)
      return [...present, ...more.filter(isNew)].slice(-KEPT)
    },
    [],
  )
}

// A session's own lifetime ("remember me"): an entry like any other, which stores obey instead of their own times.

/** The entry's key. */
export const LIFETIME = OWN.lifetime

/** How long one session lives, in milliseconds. */
export interface OwnLifetime {
  /** Unused for so long it expires. */
  readonly idleMs: number
  /** So long after the sign-in it expires, used or not. */
  readonly absoluteMs: number
}

const isOwn = (value: unknown): value is OwnLifetime =>
  typeof value === 'object' &&
  value !== null &&
  isNumberWithin((value as Partial<OwnLifetime>).idleMs, 1, MAX_LIFETIME_MS) &&
  isNumberWithin((value as Partial<OwnLifetime>).absoluteMs, 1, MAX_LIFETIME_MS)

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

// Entries of another session, on top of a session's own.

/** Sets all of them, but for messages, which are added. Doing it twice changes nothing. */
export const withEntries =
  (entries: Entries) =>
  <H>(session: SessionValue<H>): SessionValue<H> => {
    const sets: Edits = noEdits.withMutations((edits) => {
      for (const [key, value] of entries) if (key !== OWN.sessionFlash) edits.set(key, setTo(value))
    })
    const edited = withEdits(session, composeEdits(session.edits, sets))
    return entries.has(OWN.sessionFlash) ? addFlashes(entries.get(OWN.sessionFlash) as Json)(edited) : edited
  }
