// Makes a codec from a schema of another library, such as zod, valibot or arktype. The libraries share the interface
// Standard Schema, which validates, and does not encode. So a value is stored as it is, unless the schema has a method
// `encode`, as those of zod have.

import { isDeepStrictEqual } from 'node:util'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Errors, Mixed, Type } from 'io-ts'
import { EncodeError } from './errors.js'
import { isPlainObject, type Json, toJson } from './json.js'
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
    const { encode, async: isAsynchronous } = schema as {
      readonly encode?: unknown
      readonly async?: unknown
    }
    if (isAsynchronous === true) throw new Unstorable(ASYNCHRONOUS)
    this.#encode =
      typeof encode === 'function' ? (encode.bind(schema) as (value: unknown) => unknown) : undefined
    this.#probe()
  }

  get codec(): Type<unknown, unknown> {
    return new t.Type(
      this.#name,
      (value): value is unknown => this.#isStorable(value),
      (json, context) => {
        const { value, errors } = this.#validated(json)
        if (errors === undefined) return t.success(value)
        return t.failures(errors.map((message) => ({ value: json, context, message })) satisfies Errors)
      },
      (value) => this.#encoded(value),
    )
  }

  /** Finds a transform without an inverse as early as possible. The schema rejects this value, or throws. */
  #probe(): void {
    try {
      this.#encode?.(undefined)
    } catch (error) {
      if (isUnidirectional(error)) throw new Unstorable(NO_INVERSE, { cause: error })
    }
  }

  #validated(json: unknown): { readonly value?: unknown; readonly errors?: readonly string[] } {
    try {
      // Some libraries change or refuse frozen values.
      const result = this.#schema['~standard'].validate(thawed(json))
      // A failure of valibot has a member `value` too.
      if (!isPromise(result) && result.issues !== undefined)
        return { errors: result.issues.map((issue) => messageOf(issue)) }
      const value = isPromise(result) ? result : result.value
      return hasPromise(value)
        ? { errors: [`${ASYNCHRONOUS}, or one of its functions has thrown`] }
        : { value }
    } catch (error) {
      return { errors: [`the schema has thrown ${error instanceof Error ? error.name : 'a value'}`] }
    }
  }

  #isStorable(value: unknown): boolean {
    try {
      this.#encoded(value)
      return true
    } catch {
      return false
    }
  }

  /** Returns the JSON of a value. The JSON is read back by the same validation, so this must give the same value. */
  #encoded(value: unknown): Json {
    const json = jsonOf(this.#encode === undefined ? value : this.#encodedBy(this.#encode, value))
    const checked = this.#validated(json)
    if (checked.errors !== undefined) throw new Unstorable(checked.errors.join('; '))
    if (this.#encode !== undefined || isDeepStrictEqual(jsonOf(checked.value), json)) return json
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

const jsonOf = (value: unknown): Json => {
  try {
    return toJson('', value)
  } catch (error) {
    if (!(error instanceof EncodeError)) throw error
    throw new Unstorable(
      error.path.length === 0 ? error.reason : `${error.reason} at ${error.path.join('.')}`,
    )
  }
}

const isPromise = (value: unknown): value is Promise<unknown> =>
  typeof (value as { readonly then?: unknown } | null | undefined)?.then === 'function'

/**
 * Whether a value is or contains a promise. zod turns a thrown error into a promise, and a schema of arktype puts the
 * promise of an asynchronous part into the value. Nobody waits for these promises, so their rejections are ignored.
 */
const hasPromise = (value: unknown): boolean => {
  if (typeof value !== 'object' || value === null) return false
  if (isPromise(value)) {
    Promise.resolve(value).catch(() => undefined)
    return true
  }
  return isPlain(value) && Object.values(value).filter(hasPromise).length > 0
}

const isPlain = (value: object): boolean => Array.isArray(value) || isPlainObject(value)

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

/** The members of issues of arktype and valibot that Standard Schema does not name. */
interface OwnIssue extends StandardSchemaV1.Issue {
  /** The kind of the issue in arktype, whose name begins with a space, and what arktype expects. */
  readonly ' arkKind'?: unknown
  readonly expected?: unknown
  /** The value, as valibot writes it into the message. */
  readonly received?: unknown
}

// Messages of arktype and valibot repeat the value, which may be a secret. So an issue of arktype is described by what was
// expected, and in a message of valibot the value is replaced.
const messageOf = (issue: StandardSchemaV1.Issue): string => {
  const names = Array.from(issue.path ?? [], (step) => String(typeof step === 'object' ? step.key : step))
  const text = textOf(issue)
  return names.length === 0 ? text : `${text} at ${names.join('.')}`
}

const textOf = ({ message, ' arkKind': kind, expected, received }: OwnIssue): string => {
  if (kind !== undefined) return `must be ${String(expected).replace(/ \(.*$/s, '')}`
  return typeof received === 'string' && /["'\d]/.test(received) ? message.replaceAll(received, '…') : message
}
