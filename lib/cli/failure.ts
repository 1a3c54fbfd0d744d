// How a command ends: exit codes that mean something, and failures as one line in which no password is.
import { DriverError, type SchemaMismatch } from '../base/errors.js'

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  schema: 4,
  problem: 5,
  interrupted: 130,
} as const

/** What the command line itself has to say. */
export class Refusal extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message)
  }
}

export const usage = (message: string): Refusal => new Refusal(EXIT.usage, message)

export type Failure = DriverError | SchemaMismatch | Refusal

const NAMES: Readonly<Record<number, string>> = {
  [EXIT.usage]: 'Usage',
  [EXIT.notFound]: 'NotFound',
  [EXIT.interrupted]: 'Interrupted',
}

/** A failure as it is told: to programs as it is, to people as its message. */
export interface Told {
  readonly name: string
  readonly message: string
  readonly code: number
  readonly sqlState?: string
}

/** What the server or a library said may quote what it was given; `secrets` are struck out of that. */
export const told = (failure: unknown, secrets: readonly string[]): Told => {
  if (failure instanceof Refusal)
    return { name: NAMES[failure.code] ?? 'Failed', message: failure.message, code: failure.code }
  const { message, _tag } = failure as Partial<Failure & { readonly _tag: string }>
  if (_tag === 'SchemaMismatch') return { name: _tag, message: message ?? '', code: EXIT.schema }
  const state = failure instanceof DriverError ? failure.sqlState : undefined
  return {
    name: _tag ?? 'Unexpected',
    message: withoutSecrets(message ?? String(failure), secrets),
    code: EXIT.failed,
    ...(state === undefined ? {} : { sqlState: state }),
  }
}

const withoutSecrets = (message: string, secrets: readonly string[]): string =>
  secrets.reduce((rest, secret) => rest.replaceAll(secret, '***'), message)

/** Whatever may be a password in these texts, the longest first: any of them may be the address of a database. */
export const secretsIn = (texts: readonly (string | undefined)[], password?: string): readonly string[] => {
  const found = texts.flatMap((text) => (text === undefined ? [] : passwordsIn(text)))
  const all = [...found, ...(password === undefined ? [] : [password])]
  const decoded = all.flatMap((secret) => [secret, decodedUri(secret)])
  return [...new Set(decoded)].filter((secret) => secret !== '').sort((a, b) => b.length - a.length)
}

// From the first colon to each `@` that follows: a password may have one that is not encoded.
const passwordsIn = (text: string): readonly string[] => {
  const rest = text.slice(text.indexOf('://') + 3)
  if (!text.includes('://')) return []
  const named = [...rest.matchAll(/[?&][^=]*pass[^=]*=([^&]*)/gi)].map((match) => match[1] ?? '')
  const colon = rest.indexOf(':')
  const ends = [...rest.matchAll(/@/g)].map(({ index }) => index)
  return [
    ...named,
    ...ends.filter((end) => colon >= 0 && end > colon).map((end) => rest.slice(colon + 1, end)),
  ]
}

const decodedUri = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
