// Defines keyrow's own keys: the principal, flash messages, and a session's own lifetime.

import { composeEdits, type Edits, type Entries, setTo } from './edits.js'
import { OWN, type SessionKey, sessionKey } from './key.js'
import { isNumberWithin, MAX_LIFETIME_MS } from './options.js'
import { E, O, pipe, t } from './prelude.cjs'
import { type SessionValue, withEdits } from './session.js'
import { randomBits64 } from './token.js'
import { type Editor, sessionDel, sessionRef, sessionSet, sessionUpdate } from './values.js'

/** The name of the key for the principal. Stores also index sessions by principal. */
export const PRINCIPAL = OWN.principal

const codec = <A>(name: string, is: (value: unknown) => value is A): t.Type<A> =>
  new t.Type(
    name,
    is,
    (value, context) => (is(value) ? t.success(value) : t.failure(value, context)),
    t.identity,
  )

/**
 * The typed key of a session's principal. `sessionDel(sessionPrincipal)` removes the principal.
 *
 * @example
 * ```ts
 * import { buildSession, sessionFor, sessionPrincipal, sessionRef } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionFor('ada')(buildSession(memoryStore()))
 * console.log(sessionRef(sessionPrincipal, 'none')(session)) // ada
 * ```
 */
export const sessionPrincipal: SessionKey<string> = sessionKey(
  PRINCIPAL,
  codec(
    'string of 1 to 1,024 bytes',
    (value): value is string => typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= 1024,
  ),
)

/** Returns the principal of a session, or `undefined` if it has none. */
export const principalOf = (session: SessionValue<unknown>): string | undefined =>
  O.toUndefined(sessionRef(sessionPrincipal)(session))

/**
 * Sets the session's principal, which is the id of a user or of any other party. `sessionsOf` then lists the session,
 * and `destroySessionsOf` ends it. Set the principal at sign-in, and call `rotateSession` as well.
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionFor, sessionsOf } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const store = memoryStore()
 * await saveSession(sessionFor('ada')(buildSession(store)))()
 * const listed = await sessionsOf(store, 'ada')()
 * console.log(listed._tag === 'Right' && listed.right.length) // 1
 * ```
 */
export const sessionFor = (principal: string): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionSet(sessionPrincipal, principal)

/** The time of the last sign-in, and the principal that has signed in. */
const signedInKey = sessionKey(OWN.signedIn, t.readonly(t.type({ at: t.number, principal: t.string })))

/** A description of the device of a user, for a page that lists the user's sessions. */
export interface Device {
  /** The header `User-Agent`. */
  readonly userAgent?: string | undefined
  /** The network of the client's address: the first 24 bits of an IPv4 address, or the first 48 bits of an IPv6 address. */
  readonly network?: string | undefined
}

const deviceKey: SessionKey<Device> = sessionKey(
  OWN.device,
  t.readonly(
    t.partial({ userAgent: t.union([t.string, t.undefined]), network: t.union([t.string, t.undefined]) }),
  ),
)

/** Returns the device that a stored value describes. */
export const deviceOf = (value: unknown): Device | undefined => {
  const device = deviceKey.codec.decode(value)
  return E.isRight(device) ? device.right : undefined
}

/** Sets the principal and the device, and records the time of the sign-in. */
export const sessionSignedIn = (principal: string, device?: Device): Editor => {
  const at = Date.now()
  return (session) =>
    pipe(
      sessionFor(principal)(session),
      sessionSet(signedInKey, { at, principal }),
      device === undefined ? withoutDevice : sessionSet(deviceKey, device),
    )
}

/** Deletes the device, if there is one. The deletion of a missing key would be stored, too. */
const withoutDevice: Editor = (session) =>
  session.store.has(OWN.device) ? sessionDel(deviceKey)(session) : session

/**
 * Returns whether the user of a session has signed in, by `signIn`, within the last `ms` milliseconds. Ask for the
 * password again before a critical action if this is not so. The times are those of the clocks of your processes.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, signedInWithin, signIn, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(signIn('user 17'), TE.map(signedInWithin(10 * 60_000))),
 * )
 * console.log(await request()) // { _tag: 'Right', right: true }
 * ```
 */
export const signedInWithin =
  (ms: number) =>
  (session: SessionValue<unknown>): boolean => {
    const signedIn = sessionRef(signedInKey, undefined)(session)
    return (
      signedIn !== undefined && signedIn.principal === principalOf(session) && Date.now() - signedIn.at <= ms
    )
  }

/** A message that a later page shows once. The program chooses its `kind`, such as `info` or `error`. */
export interface Flash {
  readonly id: string
  readonly kind: string
  readonly text: string
}

const messages = sessionKey(
  OWN.sessionFlash,
  t.readonlyArray(t.readonly(t.type({ id: t.string, kind: t.string, text: t.string }))),
)

/** The maximum number of messages in a session. Without a maximum, messages that no page shows would accumulate. */
const KEPT = 20

/**
 * Adds a message for a later page. The edit is an `Update`, so messages that concurrent requests add are not lost.
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
): (<H>(session: SessionValue<H>) => SessionValue<H>) => addMessages([{ id: randomBits64(), kind, text }])

/** Adds the messages that the session does not have yet. */
const addMessages = (added: readonly Flash[]): Editor => {
  const withAdded = (present: readonly Flash[]): readonly Flash[] => {
    const isNew = ({ id }: Flash): boolean => present.every((message) => message.id !== id)
    return [...present, ...added.filter(isNew)].slice(-KEPT)
  }
  return sessionUpdate(messages, withAdded, [])
}

/** Returns the messages of the session, the oldest first. */
export const sessionFlashes = <H>(session: SessionValue<H>): readonly Flash[] =>
  sessionRef(messages, [])(session)

/** Removes the given messages, and keeps messages that a concurrent request adds. */
export const sessionClearFlashes = (
  shown: readonly Flash[],
): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionUpdate(messages, (present) => present.filter(({ id }) => shown.every((seen) => seen.id !== id)), [])

/** The name of the key for a session's own lifetime ("remember me"), which replaces the store's lifetime. */
export const LIFETIME = OWN.lifetime

/** The lifetime of one session. Each time is in milliseconds, and is at least 1 ms and at most ten thousand years. */
export interface OwnLifetime {
  /** An unused session expires after this time. */
  readonly idleMs: number
  /** A session expires this long after the save that sets this lifetime, even if the session is used. */
  readonly absoluteMs: number
}

const isOwn = (value: unknown): value is OwnLifetime =>
  typeof value === 'object' &&
  value !== null &&
  isNumberWithin((value as Partial<OwnLifetime>).idleMs, 1, MAX_LIFETIME_MS) &&
  isNumberWithin((value as Partial<OwnLifetime>).absoluteMs, 1, MAX_LIFETIME_MS)

export const ownLifetimeKey: SessionKey<OwnLifetime> = sessionKey(LIFETIME, codec('lifetime', isOwn))

export const ownLifetimeOf = (entries: Entries): OwnLifetime | undefined => {
  const value: unknown = entries.get(LIFETIME)
  return isOwn(value) ? value : undefined
}

/**
 * Copies `entries` of another session into a session, and merges flash messages. A repeated call changes nothing. The key of
 * a browser stays in its session.
 */
export const withEntries =
  (entries: Entries) =>
  <H>(session: SessionValue<H>): SessionValue<H> => {
    const sets: Edits = entries.deleteAll([OWN.sessionFlash, OWN.bound]).map((value) => setTo(value))
    const edited = withEdits(session, composeEdits(session.edits, sets))
    if (!entries.has(OWN.sessionFlash)) return edited
    const added = messages.codec.decode(entries.get(OWN.sessionFlash))
    return addMessages(E.isRight(added) ? added.right : [])(edited)
  }
