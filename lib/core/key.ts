// A typed key is a name and a codec. The codec converts values to JSON and back, so a `Date` keeps its type.
import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Errors, Type, Validation } from 'io-ts'
import { EncodeError } from './errors.js'
import { type Json, textProblem, toJson } from './json.js'
import { codecOf, isOfSchema, type Schema, type Storable } from './schema.js'

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- a program adds the types of its keys here
  namespace Keyrow {
    /**
     * The types of the values of keys that are plain strings. A program adds members in `declare global`. The types are
     * not checked at run time.
     */
    // eslint-disable-next-line @typescript-eslint/no-empty-object-type -- a program adds the members
    interface SessionData {}
  }
}

/** The names of the keys whose types a program has declared. */
export type DeclaredKey = Extract<keyof Keyrow.SessionData, string>

/** A name whose type the program has not declared. */
export type UndeclaredKey<K extends string> = K & (K extends DeclaredKey ? never : K)

export type DataOf<K extends DeclaredKey> = Keyrow.SessionData[K]

/** A key whose values are of type `A`. */
export interface SessionKey<A> {
  readonly name: string
  readonly codec: Type<A, unknown>
}

export interface AnyKey {
  readonly name: string
  readonly codec: {
    readonly name: string
    readonly is: (value: unknown) => boolean
    readonly encode: (value: never) => unknown
    readonly decode: (json: unknown) => Validation<unknown>
  }
}

// The maximum length of a key's name in bytes. The name is part of an index entry, whose length PostgreSQL limits.
const MAX_KEY_BYTES = 1024

/**
 * Makes a typed key. Every function that accepts the name of a key also accepts a typed key. The schema is a codec of
 * io-ts, or a schema of zod, valibot, arktype or another library that implements Standard Schema. A value whose schema has
 * no method `encode` is stored as it is, so it must be JSON, and the schema must not change it.
 *
 * @throws `EncodeError` for a name that is longer than 1,024 bytes, or has U+0000 or a lone surrogate. `TypeError` for a
 * schema that is asynchronous or has a transform without an inverse, as far as this is known without a value.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { buildSession, sessionKey, sessionRef, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const cart = sessionKey('cart', t.array(t.string))
 * const session = sessionSet(cart, ['tea'])(buildSession(memoryStore()))
 * console.log(sessionRef(cart, [])(session)) // [ 'tea' ]
 * ```
 */
export function sessionKey<A, O>(name: string, schema: Type<A, O>): SessionKey<A>
export function sessionKey<S extends StandardSchemaV1>(
  name: string,
  schema: S & Storable<S>,
): SessionKey<StandardSchemaV1.InferOutput<S>>
export function sessionKey(name: string, schema: Schema<unknown>): SessionKey<unknown> {
  return Object.freeze({ name: storableName(name), codec: codecOf(schema) })
}

/** The keys that keyrow itself uses. Every load includes these keys. */
export const OWN = {
  principal: 'keyrow:principal',
  signedIn: 'keyrow:signed-in',
  device: 'keyrow:device',
  lifetime: 'keyrow:lifetime',
  bound: 'keyrow:bound',
  sessionFlash: 'keyrow:flash',
} as const

export const nameOf = (key: string | AnyKey): string => (typeof key === 'string' ? key : key.name)

const problemOf = (name: string): string | undefined =>
  Buffer.byteLength(name) > MAX_KEY_BYTES
    ? `a key is at most ${String(MAX_KEY_BYTES)} bytes long`
    : textProblem(name)

export const isStorable = (name: string): boolean => problemOf(name) === undefined

const storableName = (name: unknown): string => {
  if (typeof name !== 'string') throw new EncodeError(String(name), [], 'a key is a string')
  const problem = problemOf(name)
  if (problem !== undefined) throw new EncodeError(name, [], problem)
  return name
}

/** Encodes `value` as the JSON to store. Throws an `EncodeError` if the key or the value cannot be stored. */
export const encodeValue = (key: string | AnyKey, value: unknown): Json => {
  // A caller in JavaScript may pass a key of any type.
  const name = storableName(typeof key === 'object' ? key.name : key)
  try {
    if (typeof key !== 'object') {
      if (!name.startsWith('keyrow:')) return toJson(name, value)
      throw new EncodeError(name, [], "keys that begin with 'keyrow:' are keyrow's own: use its functions")
    }
    // The codec of a schema returns checked JSON, and throws the reason if there is none.
    if (isOfSchema(key.codec)) return key.codec.encode(value as never) as Json
    if (!key.codec.is(value)) throw new EncodeError(name, [], `the value is no ${key.codec.name}`)
    return toJson(name, key.codec.encode(value as never))
  } catch (error) {
    // The codec, or a getter of the value, may throw. For example, a codec of dates may throw for an invalid `Date`.
    throw error instanceof EncodeError ? error : new EncodeError(name, [], String(error))
  }
}

/** Describes each io-ts error by its path and codec. The description omits the value, since a value may be a secret. */
export const problemsOf = (errors: Errors): readonly string[] =>
  errors.map((error) => {
    const path = error.context.slice(1).map((step) => step.key)
    const expected = error.context.at(-1)?.type.name ?? 'another type'
    return error.message ?? `expected ${expected}${path.length > 0 ? ` at ${path.join('.')}` : ''}`
  })
