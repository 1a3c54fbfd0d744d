// The session's cookie: its name, how it is read, and how it is written. `__Host-` and `Secure` where the
// connection is secure, `HttpOnly`, an explicit `SameSite`, the path `/` and never a `Domain`.

import { parseCookie, stringifySetCookie } from 'cookie'
import * as O from 'fp-ts/lib/Option.js'
import { Token } from '../session/token.js'

export interface CookieOptions {
  /** The cookie's name; over a secure connection it gets the prefix `__Host-`. Default: `session`. */
  readonly cookieName?: string
  /** Which requests from other sites carry the cookie; browsers take `none` only over TLS. Default: `lax`. */
  readonly sameSite?: 'lax' | 'strict' | 'none'
  /**
   * Whether the cookie outlives the browser, for as long as a session can live at most. Default: false.
   */
  readonly persistent?: boolean
}

export interface SessionCookie {
  /**
   * The tokens in a request's `Cookie` header, in its order; one in the ordinary case. A browser sends several
   * cookies of one name when another page, or another server on the host, has set one for a path or a domain: then
   * those that could be tokens, at most three.
   */
  readonly read: (header: string | undefined, secure: boolean) => readonly string[]
  /** The `Set-Cookie` header that gives the browser this token. */
  readonly give: (token: string, secure: boolean, absoluteMs: number) => string
  /** The `Set-Cookie` header that takes it away. */
  readonly take: (secure: boolean) => string
}

/** Throws a `TypeError` for a name that cannot be a cookie's. */
export const sessionCookie = (options: CookieOptions = {}): SessionCookie => {
  const { cookieName = 'session', sameSite = 'lax', persistent = false } = options
  const nameFor = (secure: boolean): string => (secure ? `__Host-${cookieName}` : cookieName)
  const write = (value: string, secure: boolean, maxAge?: number): string =>
    stringifySetCookie({
      name: nameFor(secure),
      value,
      path: '/',
      httpOnly: true,
      sameSite,
      secure,
      ...(maxAge === undefined ? {} : { maxAge }),
    })
  if (/^__(Host|Secure)-/i.test(cookieName)) throw new TypeError('cookieName: the prefix is added by itself')
  // Refuses at once what could not be written later.
  for (const secure of [true, false]) write('', secure)
  return {
    read: (header = '', secure) => tokensIn(header, nameFor(secure)),
    give: (token, secure, absoluteMs) =>
      write(token, secure, persistent ? Math.floor(absoluteMs / 1000) : undefined),
    take: (secure) => write('', secure, 0),
  }
}

/** So many are tried: each that is tried costs a load. */
const MOST_TOKENS = 3

const tokensIn = (header: string, name: string): readonly string[] => {
  const first = parseCookie(header)[name]
  if (first === undefined) return []
  if (header.indexOf(`${name}=`) === header.lastIndexOf(`${name}=`)) return [first]
  const all = new Set(header.split(';').flatMap((pair) => parseCookie(pair)[name] ?? []))
  const wellFormed = [...all].filter((value) => O.isSome(Token.parse(value)))
  return wellFormed.length === 0 ? [first] : wellFormed.slice(0, MOST_TOKENS)
}
