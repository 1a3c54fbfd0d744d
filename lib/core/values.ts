// Reads and edits a session's values with pure functions. The session is the last argument, for `pipe` and `flow`.

import { isDeepStrictEqual } from 'node:util'
import { applyAt, composeEdit, deleted, type Edit, setTo, updatedBy, valueAt } from './edits.js'
import { DecodeError, KeyNotLoaded } from './errors.js'
import { type DeepReadonly, deepFreeze, type Json } from './json.js'
import {
  type AnyKey,
  type DataOf,
  type DeclaredKey,
  encodeValue,
  nameOf,
  problemsOf,
  type SessionKey,
  type UndeclaredKey,
} from './key.js'
import { E, O, pipe } from './prelude.cjs'
import { isLoaded, type SessionValue, withEdit } from './session.js'

type Reader<B> = <H>(session: SessionValue<H>) => B
export type Editor = <H>(session: SessionValue<H>) => SessionValue<H>

/**
 * Returns the value of a key, deeply frozen. Without a fallback, the result is an `Option`. With a fallback, the result
 * is the value, or the fallback for an absent key. A stored value that does not fit the key's codec counts as absent,
 * but stays stored until the key is set again. `sessionRefStrict` returns a `DecodeError` for such a value.
 *
 * @throws `KeyNotLoaded` if the session was loaded without this key
 *
 * @example
 * ```ts
 * import { buildSession, sessionRef, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionSet('theme', 'dark')(buildSession(memoryStore()))
 * console.log(sessionRef('theme')(session)) // { _tag: 'Some', value: 'dark' }
 * console.log(sessionRef('language', 'en')(session)) // en
 * ```
 */
export function sessionRef<K extends DeclaredKey>(key: K): Reader<O.Option<DeepReadonly<DataOf<K>>>>
export function sessionRef<K extends DeclaredKey>(
  key: K,
  fallback: NoInfer<DeepReadonly<DataOf<K>>>,
): Reader<DeepReadonly<DataOf<K>>>
export function sessionRef(key: string): Reader<O.Option<Json>>
export function sessionRef<A>(key: SessionKey<A>): Reader<O.Option<DeepReadonly<A>>>
export function sessionRef<B>(key: string, fallback: B): Reader<Json | B>
export function sessionRef<A>(key: SessionKey<A>, fallback: NoInfer<DeepReadonly<A>>): Reader<DeepReadonly<A>>
export function sessionRef<A, B>(key: SessionKey<A>, fallback: B): Reader<DeepReadonly<A> | B>
export function sessionRef(key: string | AnyKey, ...fallback: readonly unknown[]): Reader<unknown> {
  return (session) => valueOr(fallback, read(session, key))
}

/** Returns a plain value if there is a fallback, else an `Option`. A `DecodeError` counts as an absent value. */
const valueOr = (fallback: readonly unknown[], decoded: Decoded): unknown => {
  const value = E.isRight(decoded) ? decoded.right : O.none
  if (fallback.length === 0) return value
  return O.isSome(value) ? value.value : fallback[0]
}

/**
 * Returns the value of a typed key as an `Option`, or a `DecodeError` if the stored value does not fit the codec.
 *
 * @throws `KeyNotLoaded` if the session was loaded without this key
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { buildSession, sessionKey, sessionRefStrict, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const visits = sessionKey('visits', t.number)
 * const session = sessionSet('visits', 'many')(buildSession(memoryStore()))
 * console.log(sessionRefStrict(visits)(session)._tag) // Left
 * ```
 */
export const sessionRefStrict =
  <A>(key: SessionKey<A>): Reader<E.Either<DecodeError, O.Option<DeepReadonly<A>>>> =>
  (session) =>
    read(session, key) as E.Either<DecodeError, O.Option<DeepReadonly<A>>>

/**
 * Sets a key. An equal value leaves the session unchanged. If several saves set a key, the last save wins.
 *
 * @throws `EncodeError` for a value that is not JSON or does not fit the codec, and for a name that cannot be stored
 *
 * @example
 * ```ts
 * import { buildSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const before = buildSession(memoryStore())
 * const after = sessionSet('lines', [1, 2])(before)
 * console.log(before.store.size, after.store.size) // 0 1
 * ```
 */
export function sessionSet<K extends DeclaredKey>(key: K, value: NoInfer<DeepReadonly<DataOf<K>>>): Editor
export function sessionSet<K extends string>(key: UndeclaredKey<K>, value: Json): Editor
export function sessionSet<A>(key: SessionKey<A>, value: NoInfer<A | DeepReadonly<A>>): Editor
export function sessionSet(key: string | AnyKey, value: unknown): Editor {
  return (session) => {
    const json = encodeValue(key, value)
    const present = session.store.get(nameOf(key))
    return present !== undefined && isDeepStrictEqual(present, json)
      ? session
      : edited(session, nameOf(key), setTo(json))
  }
}

/** Sets a key even if the key already has this value. So `signIn` can begin an equal lifetime anew. */
export const sessionSetAnew =
  <A>(key: SessionKey<A>, value: A): Editor =>
  (session) =>
    edited(session, key.name, setTo(encodeValue(key, value)))

/**
 * Deletes a key. If the key is loaded and has no value, the session is returned unchanged.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import { buildSession, sessionDel, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = pipe(buildSession(memoryStore()), sessionSet('theme', 'dark'), sessionDel('theme'))
 * console.log(session.store.size) // 0
 * ```
 */
export const sessionDel =
  (key: string | AnyKey): Editor =>
  (session) =>
    session.store.has(nameOf(key)) || !isLoaded(session, nameOf(key))
      ? edited(session, nameOf(key), deleted())
      : session

/**
 * Replaces a key's value with the result of `f`. Without a fallback, `f` gets the current value as an `Option`. With a
 * fallback, `f` gets the value, or the fallback for an absent key. The returned session already has the result. If
 * another request changes the key before the save, the save runs `f` again on the newer value. So no concurrent update
 * is lost. For a key that is not loaded, `f` runs only when the key is loaded or the session is saved.
 *
 * `f` must be pure, since it may run any number of times. If `f` throws, the edit, load or save that runs `f` fails.
 *
 * @example
 * ```ts
 * import * as O from 'fp-ts/lib/Option.js'
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as t from 'io-ts'
 * import { buildSession, sessionKey, sessionRef, sessionUpdate } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const visits = sessionKey('visits', t.number)
 * const session = pipe(
 *   buildSession(memoryStore()),
 *   sessionUpdate(visits, (n) => n + 1, 0),
 *   sessionUpdate(visits, O.match(() => 1, (n) => n + 1)),
 * )
 * console.log(sessionRef(visits, 0)(session)) // 2
 * ```
 */
export function sessionUpdate<K extends DeclaredKey>(
  key: K,
  f: (value: O.Option<DeepReadonly<DataOf<K>>>) => NoInfer<DeepReadonly<DataOf<K>>>,
): Editor
export function sessionUpdate<K extends DeclaredKey>(
  key: K,
  f: (value: DeepReadonly<DataOf<K>>) => NoInfer<DeepReadonly<DataOf<K>>>,
  fallback: NoInfer<DeepReadonly<DataOf<K>>>,
): Editor
export function sessionUpdate<K extends string>(
  key: UndeclaredKey<K>,
  f: (value: O.Option<Json>) => Json,
): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: O.Option<DeepReadonly<A>>) => NoInfer<A | DeepReadonly<A>>,
): Editor
export function sessionUpdate<K extends string>(
  key: UndeclaredKey<K>,
  f: (value: Json) => Json,
  fallback: Json,
): Editor
export function sessionUpdate<A>(
  key: SessionKey<A>,
  f: (value: DeepReadonly<A>) => NoInfer<A | DeepReadonly<A>>,
  fallback: NoInfer<DeepReadonly<A>>,
): Editor
export function sessionUpdate(
  key: string | AnyKey,
  f: (value: never) => unknown,
  ...fallback: readonly unknown[]
): Editor {
  const step = (json: O.Option<Json>): Json =>
    encodeValue(key, f(valueOr(fallback, decodeAt(key, json)) as never))
  return (session) => edited(session, nameOf(key), updatedBy(step))
}

// After a `Set` or a `Del` the value is known. So a later `Update` becomes a `Set`, which the save does not replay.
const edited = <H>(session: SessionValue<H>, key: string, edit: Edit): SessionValue<H> => {
  const composed = composeEdit(session.edits.get(key), edit)
  const edits = session.edits.set(key, composed)
  if (composed._tag !== 'Update') return withEdit(session, edits, applyAt(session.store, key, composed))
  return withEdit(session, edits, isLoaded(session, key) ? applyAt(session.store, key, edit) : session.store)
}

const read = <H>(session: SessionValue<H>, key: string | AnyKey): Decoded => {
  const json = valueAt(session.store, nameOf(key))
  if (O.isNone(json) && !isLoaded(session, nameOf(key))) throw new KeyNotLoaded(nameOf(key))
  return decodeAt(key, json)
}

type Decoded = E.Either<DecodeError, O.Option<unknown>>

const decodeAt = (key: string | AnyKey, json: O.Option<Json>): Decoded => {
  if (typeof key === 'string' || O.isNone(json)) return E.right(json)
  // The `decode` of a program's codec may throw. A value for which `decode` throws does not fit the codec.
  const decode = () => key.codec.decode(json.value)
  return pipe(
    E.tryCatch(decode, (thrown): readonly string[] => [String(thrown)]),
    E.chainW(E.mapLeft(problemsOf)),
    E.mapLeft((problems) => new DecodeError(key.name, problems)),
    E.map((value) => O.some(deepFreeze(value))),
  )
}
