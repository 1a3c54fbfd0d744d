// Defines answers that are never stored, such as passwords. Only the request with the answer can read the secret. The
// journal contains a placeholder, and the id of the answer's row depends on an HMAC of the secret.

import { createHmac } from 'node:crypto'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Type } from 'io-ts'
import { E, t } from '../core/prelude.cjs'
import { codecOf, type Schema, type Storable } from '../core/schema.js'
import type { Token } from '../core/token.js'
import type { Codec } from './steps.js'

/** A secret in an answer. */
export interface Secret<A> {
  /**
   * Returns the secret.
   *
   * @throws `TypeError` in a later request than the one that contained the answer
   */
  readonly reveal: () => A
}

class SecretValue<A> implements Secret<A> {
  readonly #value: readonly [value: A, posted: unknown] | undefined

  constructor(value?: readonly [value: A, posted: unknown]) {
    this.#value = value
  }

  reveal(): A {
    if (this.#value === undefined)
      throw new TypeError(
        'a secret can be read only in the request with the answer: use it in an effect right after the page',
      )
    return this.#value[0]
  }

  /** @internal */
  posted(): unknown {
    return this.#value?.[1]
  }

  toJSON(): string {
    return '[secret]'
  }
}

const PLACEHOLDER = '[secret]'

const secretCodecs = new WeakSet<object>()

/**
 * Makes the codec of a secret in an answer, for a member of a codec of io-ts. The schema of the secret itself is a codec of
 * io-ts, or a schema of another library that implements Standard Schema. `reveal` returns the secret in the request with the answer. The secret is
 * not stored, shown again, or published in an event.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { secretAnswer } from 'keyrow/flow'
 *
 * const SignIn = t.type({ name: t.string, password: secretAnswer(t.string) })
 * const decoded = SignIn.decode({ name: 'ada', password: 'sesame' })
 * console.log(decoded._tag === 'Right' && decoded.right.password.reveal()) // sesame
 * console.log(JSON.stringify(decoded._tag === 'Right' && SignIn.encode(decoded.right))) // {"name":"ada","password":"[secret]"}
 * ```
 */
export function secretAnswer<A>(schema: Type<A, unknown>): Type<Secret<A>, unknown>
export function secretAnswer<S extends StandardSchemaV1>(
  schema: S & Storable<S>,
): Type<Secret<StandardSchemaV1.InferOutput<S>>, unknown>
export function secretAnswer<A>(schema: Schema<A>): Type<Secret<A>, unknown> {
  const codec = codecOf(schema)
  const secret = new t.Type<Secret<A>, unknown>(
    codec.name,
    (value): value is Secret<A> => value instanceof SecretValue,
    (posted, context) => {
      seen.add(posted)
      return posted === PLACEHOLDER
        ? t.success(new SecretValue<A>())
        : E.map((value: A) => new SecretValue<A>([value, posted]))(codec.validate(posted, context))
    },
    () => PLACEHOLDER,
  )
  secretCodecs.add(secret)
  return secret
}

const NO_SECRETS: readonly SecretValue<unknown>[] = []

/** Returns all secrets in a decoded answer. */
const secretsIn = (answer: unknown): readonly SecretValue<unknown>[] => {
  if (typeof answer !== 'object' || answer === null) return NO_SECRETS
  if (answer instanceof SecretValue) return [answer]
  let secrets = NO_SECRETS
  for (const member of Object.values(answer) as readonly unknown[]) {
    const found = secretsIn(member)
    if (found.length > 0) secrets = [...secrets, ...found]
  }
  return secrets
}

/** Whether a decoded answer contains the placeholder of a secret. */
export const lacksSecret = (answer: unknown): boolean =>
  secretsIn(answer).some((secret) => secret.posted() === undefined)

/**
 * Returns an HMAC of the secrets in a decoded answer, or an empty string if there are none. The key is derived from the
 * session's secret, which is not stored, so a stored row does not help to guess a secret.
 */
export const secretDigest = (token: Token, answer: unknown): string => {
  const secrets = secretsIn(answer).map((secret) => secret.posted())
  if (secrets.length === 0) return ''
  return createHmac('sha256', token.derived('secret answer'))
    .update(JSON.stringify(secrets))
    .digest('base64url')
}

/** The members of io-ts codecs through which a nested codec is found. */
interface Nested {
  readonly props?: Readonly<Record<string, Codec>>
  readonly types?: readonly Codec[]
  readonly type?: Codec
  readonly codomain?: Codec
}

const nestedIn = (codec: Codec): readonly Codec[] => {
  const { props = {}, types = [], type, codomain } = codec as Nested
  return [...Object.values(props), ...types, ...[type, codomain].filter((nested) => nested !== undefined)]
}

const knownSecrets = new WeakMap<Codec, boolean>()

/**
 * Whether answers of this codec have secrets. A secret is found in `t.type`, `t.strict`, `t.partial`, `t.intersection`,
 * `t.union`, `t.array`, `t.tuple`, `t.record`, `t.readonly` and refinements.
 */
export const hasSecrets = (codec: Codec): boolean => {
  const known = knownSecrets.get(codec)
  if (known !== undefined) return known
  const found = secretCodecs.has(codec) || nestedIn(codec).some(hasSecrets)
  knownSecrets.set(codec, found)
  return found
}

/** Decodes an answer. Also returns the posted values that were decoded as secrets, even if the answer does not fit. */
export const decodeAnswer = <A>(decode: () => A): readonly [A, ReadonlySet<unknown>] => {
  const outer = seen
  const secrets = new Set<unknown>()
  seen = secrets
  try {
    return [decode(), secrets]
  } finally {
    seen = outer
  }
}

/** The posted values that the running decoding has decoded as secrets. Decoding is synchronous. */
let seen = new Set<unknown>()

/** Returns what was posted, without the secrets. */
export const withoutSecrets = (posted: unknown, secrets: ReadonlySet<unknown>): unknown => {
  if (secrets.has(posted)) return undefined
  if (typeof posted !== 'object' || posted === null || secrets.size === 0) return posted
  if (Array.isArray(posted)) return posted.map((item: unknown) => withoutSecrets(item, secrets))
  return Object.fromEntries(
    Object.entries(posted)
      .filter(([, value]) => !secrets.has(value))
      .map(([name, value]) => [name, withoutSecrets(value, secrets)] as const),
  )
}
