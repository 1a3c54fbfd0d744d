// Messages for the page that comes next: added by one request, shown by a later one. Each is added and taken
// away by an update, so that overlapping requests lose none.
import * as E from 'fp-ts/lib/Either.js'
import * as t from 'io-ts'
import type { Json } from '../base/json.js'
import { randomBits64 } from '../base/random.js'
import { OWN, sessionKey } from './key.js'
import type { SessionValue } from './session.js'
import { sessionRef, sessionUpdate } from './values.js'

/** A message; its `kind` is yours to choose (`info`, `error`). */
export interface Flash {
  readonly id: string
  readonly kind: string
  readonly text: string
}

const messages = sessionKey(
  OWN.flash,
  t.readonlyArray(t.readonly(t.type({ id: t.string, kind: t.string, text: t.string }))),
)

/** So many are kept, the latest ones: a page that is never looked at fills no session. */
const KEPT = 20

/**
 * Adds a message.
 *
 * @example
 * ```ts
 * import { buildSession, flash, flashes } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = flash('error', 'That is sold out.')(buildSession(memoryStore()))
 * console.log(flashes(session).map(({ kind }) => kind)) // [ 'error' ]
 * ```
 */
export const flash = (kind: string, text: string): (<H>(session: SessionValue<H>) => SessionValue<H>) => {
  const message = { id: randomBits64(), kind, text }
  return sessionUpdate(messages, (present) => [...present, message].slice(-KEPT), [])
}

/** The messages, the oldest first. */
export const flashes = <H>(session: SessionValue<H>): readonly Flash[] => sessionRef(messages, [])(session)

/** Takes these messages away; others that came meanwhile stay. */
export const unflash = (shown: readonly Flash[]): (<H>(session: SessionValue<H>) => SessionValue<H>) =>
  sessionUpdate(messages, (present) => present.filter(({ id }) => shown.every((seen) => seen.id !== id)), [])

/** Adds the messages of another session, once. */
export const addFlashes = (others: Json): (<H>(session: SessionValue<H>) => SessionValue<H>) => {
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
