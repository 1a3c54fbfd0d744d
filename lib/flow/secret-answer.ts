// Defines answers that are never stored, such as passwords. Only the request with the answer can read the secret. The
// journal contains a placeholder, and the id of the answer's row depends on an HMAC of the secret.

import { createHmac } from 'node:crypto'
import type { Type } from 'io-ts'
import { E, t } from '../core/prelude.cjs'
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
 * Makes the codec of a secret in an answer. `reveal` returns the secret in the request with the answer. The secret is
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
export const secretAnswer = <A>(codec: Type<A, unknown>): Type<Secret<A>, unknown> => {
  const secret = new t.Type<Secret<A>, unknown>(
    `secret ${codec.name}`,
    (value): value is Secret<A> => value instanceof SecretValue,
    (posted, context) =>
      posted === PLACEHOLDER
        ? t.success(new SecretValue<A>())
        : E.map((value: A) => new SecretValue<A>([value, posted]))(codec.validate(posted, context)),
    () => PLACEHOLDER,
  )
  secretCodecs.add(secret)
  return secret
}

/** Returns all secrets in a decoded answer. */
const secretsIn = (answer: unknown): readonly SecretValue<unknown>[] => {
  if (answer instanceof SecretValue) return [answer]
  if (typeof answer !== 'object' || answer === null) return []
  return Object.values(answer).flatMap(secretsIn)
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
}

const nestedIn = (codec: Codec): readonly Codec[] => {
  const { props = {}, types = [], type } = codec as Nested
  return [...Object.values(props), ...types, ...(type === undefined ? [] : [type])]
}

/** Whether answers of this codec have secrets. */
export const hasSecrets = (codec: Codec): boolean =>
  secretCodecs.has(codec) || nestedIn(codec).some(hasSecrets)

/** Returns what was posted, without the secrets of the codec. */
export const withoutSecrets = (codec: Codec, posted: unknown): unknown => {
  if (!hasSecrets(codec)) return posted
  const { props, types, type } = codec as Nested
  if (secretCodecs.has(codec) || typeof posted !== 'object' || posted === null || Array.isArray(posted))
    return undefined
  if (props !== undefined)
    return Object.fromEntries(
      Object.entries(posted).filter(
        ([name]) => !Object.hasOwn(props, name) || !hasSecrets(props[name] as Codec),
      ),
    )
  return [...(types ?? []), ...(type === undefined ? [] : [type])].reduce<unknown>(
    (rest, nested) => withoutSecrets(nested, rest),
    posted,
  )
}
