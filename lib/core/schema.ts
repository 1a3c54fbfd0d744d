// Makes a codec from a schema of another library, such as zod, valibot or arktype. The libraries share the interface
// Standard Schema, which validates, and does not encode. So a value is stored as it is, unless the schema has a method
// `encode`, as those of zod have.

import { isDeepStrictEqual } from 'node:util'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Errors, Mixed, Type } from 'io-ts'
import { t } from './prelude.cjs'

/** A codec of io-ts, or a schema of another library that implements Standard Schema. `A` is the type of its values. */
export type Schema<A> = Type<A, unknown> | StandardSchemaV1<unknown, A>

/** Any codec of io-ts, and any schema of another library. */
export type AnySchema = Mixed | StandardSchemaV1

/** The type of the values of a schema. */
export type OutputOf<S> = S extends { readonly _A: infer A }
  ? A
  : S extends StandardSchemaV1<unknown, infer A>
    ? A
    : never

type Encoder = { readonly encode: (value: never) => unknown }

/**
 * Rejects a schema whose values cannot be encoded: it has a transform, and no method `encode`. A default is no such
 * transform, since the validation of its result changes nothing.
 */
export type Storable<S> = S extends Encoder
  ? unknown
  : S extends StandardSchemaV1<infer I, infer A>
    ? [A] extends [I]
      ? unknown
      : { readonly 'this schema has a transform without an inverse': never }
    : unknown

const codecs = new WeakMap<object, Type<unknown, unknown>>()
const made = new WeakSet<object>()

/**
 * Returns the codec of a schema. The codec of a schema is always the same object.
 *
 * @throws `TypeError` for another value, for an asynchronous schema, and for a schema with a transform that has no inverse,
 * as far as this is known without a value
 */
export const codecOf = <A>(schema: Schema<A>): Type<A, unknown> => {
  if (!isStandard(schema)) return checkedCodec(schema)
  const known = codecs.get(schema)
  if (known !== undefined) return known as Type<A, unknown>
  const codec = new SchemaCodec(schema).codec
  codecs.set(schema, codec)
  made.add(codec)
  return codec as Type<A, unknown>
}

// A schema of arktype is a function.
const isStandard = (schema: unknown): schema is StandardSchemaV1 =>
  ((typeof schema === 'object' && schema !== null) || typeof schema === 'function') && '~standard' in schema

const checkedCodec = <A>(codec: Type<A, unknown>): Type<A, unknown> => {
  const { decode, encode } = (codec as Partial<Type<A, unknown>> | undefined) ?? {}
  if (typeof decode === 'function' && typeof encode === 'function') return codec
  throw new TypeError('expected a codec of io-ts, or a schema that implements Standard Schema')
}

/** The reason why a value cannot be stored. */
class Unstorable extends TypeError {
  override toString(): string {
    return this.message
  }
}

const ASYNCHRONOUS = 'the schema is asynchronous, and a value must be checked at once'
const NO_INVERSE = 'the schema has a transform without an inverse'

class SchemaCodec {
  readonly #schema: StandardSchemaV1
  readonly #encode: ((value: unknown) => unknown) | undefined
  readonly #name: string

  constructor(schema: StandardSchemaV1) {
    this.#schema = schema
    this.#name = `value of this schema of ${schema['~standard'].vendor}`
    const { encode } = schema as { readonly encode?: unknown }
    this.#encode =
      typeof encode === 'function' ? (encode.bind(schema) as (value: unknown) => unknown) : undefined
    this.#probe()
  }

  get codec(): Type<unknown, unknown> {
    return new t.Type(
      this.#name,
      (value): value is unknown => this.#problemOf(value) === undefined,
      (json, context) => {
        const { value, errors } = this.#validated(json)
        if (errors === undefined) return t.success(value)
        return t.failures(errors.map((message) => ({ value: json, context, message })) satisfies Errors)
      },
      (value) => this.#encoded(value),
    )
  }

  /** Finds errors of the program as early as possible. No value is known, so the schema rejects this one, or throws. */
  #probe(): void {
    try {
      if (isPromise(this.#schema['~standard'].validate(undefined))) throw new Unstorable(ASYNCHRONOUS)
      this.#encode?.(undefined)
    } catch (error) {
      if (error instanceof Unstorable) throw error
      if (isUnidirectional(error)) throw new Unstorable(NO_INVERSE, { cause: error })
    }
  }

  #validated(json: unknown): { readonly value?: unknown; readonly errors?: readonly string[] } {
    try {
      // Some libraries change or refuse frozen values.
      const result = this.#schema['~standard'].validate(thawed(json))
      if (isPromise(result)) return { errors: [ASYNCHRONOUS] }
      // A failure of valibot has a member `value` too.
      if (result.issues !== undefined) return { errors: result.issues.map(messageOf) }
      return hasPromise(result.value) ? { errors: [ASYNCHRONOUS] } : { value: result.value }
    } catch (error) {
      return { errors: [`the schema has thrown ${error instanceof Error ? error.name : 'a value'}`] }
    }
  }

  /** Returns the reason why a value cannot be stored, if there is one. */
  #problemOf(value: unknown): string | undefined {
    try {
      this.#encoded(value)
      return undefined
    } catch (error) {
      return String(error)
    }
  }

  #encoded(value: unknown): unknown {
    if (this.#encode !== undefined) return this.#encodedBy(this.#encode, value)
    const checked = this.#validated(value)
    if (checked.errors !== undefined) throw new Unstorable(checked.errors.join('; '))
    // The value is read back by the same validation, so this must not change the value.
    if (isDeepStrictEqual(checked.value, value)) return value
    throw new Unstorable(`${NO_INVERSE}, or a default that the value lacks: the validation changes the value`)
  }

  #encodedBy(encode: (value: unknown) => unknown, value: unknown): unknown {
    let encoded: unknown
    try {
      encoded = encode(thawed(value))
    } catch (error) {
      if (isUnidirectional(error)) throw new Unstorable(NO_INVERSE, { cause: error })
      const { issues } = error as { readonly issues?: unknown }
      throw Array.isArray(issues)
        ? new Unstorable((issues as readonly StandardSchemaV1.Issue[]).map(messageOf).join('; '))
        : error
    }
    if (hasPromise(encoded)) throw new Unstorable(ASYNCHRONOUS)
    return encoded
  }
}

const isPromise = <A>(value: A | Promise<A>): value is Promise<A> =>
  typeof (value as { readonly then?: unknown } | undefined)?.then === 'function'

/** Whether a value is or contains a promise. A schema of arktype puts the promise of an asynchronous part there. */
const hasPromise = (value: unknown): boolean => {
  if (typeof value !== 'object' || value === null) return false
  return isPromise(value) || (isPlain(value) && Object.values(value).some(hasPromise))
}

const isPlain = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value) as object | null
  return Array.isArray(value) || prototype === null || prototype === Object.prototype
}

/** Whether a codec was made from a schema. Its `encode` throws the reason why a value cannot be stored. */
export const isOfSchema = (codec: object): boolean => made.has(codec)

/** Copies arrays and plain objects, so that the copy is not frozen. */
const thawed = (value: unknown): unknown => {
  if (typeof value !== 'object' || value === null || !isPlain(value)) return value
  if (Array.isArray(value)) return value.map(thawed)
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, thawed(member)] as const))
}

/** Whether zod has thrown because a transform has no inverse. */
const isUnidirectional = (error: unknown): boolean =>
  error instanceof Error && error.constructor.name.endsWith('ZodEncodeError')

/**
 * Describes an issue. Messages of arktype and valibot end in the value, which may be a secret, so this part is left out.
 */
const messageOf = ({ message, path = [] }: StandardSchemaV1.Issue): string => {
  const names = path.map((step) => String(typeof step === 'object' ? step.key : step))
  const text = message.replace(/ \(was .*\)$| but received .*$|: Received .*$/s, '')
  return names.length === 0 || text.startsWith(names.join('.')) ? text : `${text} at ${names.join('.')}`
}
