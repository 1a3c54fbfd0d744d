// The values of a session, with `undefined` for what is absent.
import * as O from 'fp-ts/lib/Option.js'
import type { DeepReadonly } from '../base/frozen.js'
import type { Json } from '../base/json.js'
import type { SessionKey } from '../session/key.js'
import type { SessionValue } from '../session/session.js'
import * as values from '../session/values.js'
import { given } from './settled.js'

type Reader<B> = <H>(session: SessionValue<H>) => B
type Editor = <H>(session: SessionValue<H>) => SessionValue<H>

/**
 * The value of a key, or the fallback, or `undefined`.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, sessionRef, sessionSet } from 'keyrow/promise'
 *
 * const session = sessionSet('theme', 'dark')(buildSession(memoryStore()))
 * console.log(sessionRef('theme')(session), sessionRef('language', 'en')(session)) // dark en
 * ```
 */
export function sessionRef(key: string): Reader<Json | undefined>
export function sessionRef<A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined>
export function sessionRef<B>(key: string, fallback: B): Reader<Json | B>
export function sessionRef<A>(key: SessionKey<A>, fallback: NoInfer<DeepReadonly<A>>): Reader<DeepReadonly<A>>
export function sessionRef<A, B>(key: SessionKey<A>, fallback: B): Reader<DeepReadonly<A> | B>
export function sessionRef(key: string | SessionKey<unknown>, fallback?: unknown): Reader<unknown> {
  return values.sessionRef(key as string, fallback)
}

/** The value of a typed key, or `undefined`; throws a `DecodeError` for a stored value that does not fit. */
export const sessionRefStrict =
  <A>(key: SessionKey<A>): Reader<DeepReadonly<A> | undefined> =>
  (session) =>
    O.toUndefined(given(values.sessionRefStrict(key)(session)))

/**
 * Replaces a key's value by `f` of it, or of the fallback, or of `undefined`; replayed when it is saved.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { buildSession, sessionRef, sessionUpdate } from 'keyrow/promise'
 *
 * const session = sessionUpdate('visits', (visits) => Number(visits) + 1, 0)(buildSession(memoryStore()))
 * console.log(sessionRef('visits')(session)) // 1
 * ```
 */
export function sessionUpdate(key: string, f: (value: Json | undefined) => Json): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A> | undefined) => NoInfer<A | DeepReadonly<A>>,
): Editor
export function sessionUpdate(key: string, f: (value: Json) => Json, fallback: Json): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A>) => NoInfer<A | DeepReadonly<A>>,
  fallback: NoInfer<DeepReadonly<A>>,
): Editor
export function sessionUpdate(
  key: string | SessionKey<unknown>,
  f: (value: never) => unknown,
  fallback?: unknown,
): Editor {
  return values.sessionUpdate(key as string, f as (value: Json) => Json, fallback as Json)
}
