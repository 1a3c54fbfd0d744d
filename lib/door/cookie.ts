// The session's cookie: its name, how it is read, and how it is written. `HttpOnly`, an explicit `SameSite`, and where
// the connection is secure `Secure` with the prefix `__Host-`, which demands the path `/` and no `Domain`; or, where the
// options have another path or a domain, `__Secure-`.

import { parseCookie, stringifySetCookie } from 'cookie'
import * as O from 'fp-ts/lib/Option.js'
import { Token } from '../session/token.js'

export interface CookieOptions {
  /**
   * The cookie's name; over a secure connection it gets the prefix `__Host-`, or `__Secure-` with a `domain` or another
   * `path`. Default: `session`.
   */
  readonly cookieName?: string
  /** Which requests from other sites carry the cookie; browsers take `none` only over TLS. Default: `lax`. */
  readonly sameSite?: 'lax' | 'strict' | 'none'
  /**
   * Whether the cookie outlives the browser, for as long as a session can live at most. Default: false.
   */
  readonly persistent?: boolean
  /**
   * Whether the cookie is kept apart for each site in whose frames yours is shown (CHIPS), where browsers take no other
   * cookie. Needs `sameSite: 'none'`. Default: false.
   */
  readonly partitioned?: boolean
  /** All hosts of this domain get the cookie, and may set it: `shop.example`. Default: only the host that gave it. */
  readonly domain?: string
  /** Only requests below this path carry the cookie. It is no protection from other paths of the host. Default: `/`. */
  readonly path?: string
}

export interface SessionCookie {
  /**
   * The tokens in a request's `Cookie` header, in its order; one in the ordinary case. A browser sends several
   * cookies of one name when another page, or another server on the host, has set one for a path or a domain: then
   * those that could be tokens, at most three.
   */
  readonly read: (header: string | undefined, secure: boolean) => readonly string[]
  /**
   * The `Set-Cookie` header that gives the browser this token. `absoluteMs` is the store's, `ownMs` that of a session
   * with times of its own, whose cookie always outlives the browser.
   */
  readonly give: (token: string, secure: boolean, absoluteMs: number, ownMs?: number) => string
  /** The `Set-Cookie` header that takes it away. */
  readonly take: (secure: boolean) => string
}

/** @throws `TypeError` for a name that cannot be a cookie's, and for options with which browsers drop the cookie */
export const sessionCookie = (options: CookieOptions = {}): SessionCookie => {
  refuseDropped(options)
  const { cookieName = 'session', sameSite = 'lax', persistent = false, domain, path = '/' } = options
  const prefix = domain === undefined && path === '/' ? '__Host-' : '__Secure-'
  const nameFor = (secure: boolean): string => (secure ? `${prefix}${cookieName}` : cookieName)
  const write = (value: string, secure: boolean, maxAge?: number): string =>
    stringifySetCookie({
      name: nameFor(secure),
      value,
      path,
      httpOnly: true,
      sameSite,
      secure,
      // Without `Secure` browsers would drop it.
      partitioned: secure && options.partitioned === true,
      ...(domain === undefined ? {} : { domain }),
      ...(maxAge === undefined ? {} : { maxAge }),
    })
  // Refuses at once what could not be written later.
  for (const secure of [true, false]) write('', secure)
  return {
    read: (header = '', secure) => tokensIn(header, nameFor(secure)),
    give: (token, secure, absoluteMs, ownMs = persistent ? absoluteMs : undefined) =>
      // Zero seconds would take it away.
      write(token, secure, ownMs === undefined ? undefined : Math.ceil(ownMs / 1000)),
    take: (secure) => write('', secure, 0),
  }
}

/** At least two labels, and the last one begins with a letter: no address, no `localhost`, no port. */
const DOMAIN = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

const refuseDropped = ({
  cookieName = '',
  sameSite,
  partitioned,
  domain,
  path = '/',
}: CookieOptions): void => {
  if (/^__(Host|Secure)-/i.test(cookieName)) throw new TypeError('cookieName: the prefix is added by itself')
  if (partitioned === true && sameSite !== 'none')
    throw new TypeError(
      "partitioned: it needs sameSite: 'none'; in frames of other sites browsers send no other cookie",
    )
  if (domain !== undefined && !DOMAIN.test(domain))
    throw new TypeError(
      `domain: "${domain}" is no domain of a cookie: the name of yours, as shop.example; no address, port or dot before it`,
    )
  if (!path.startsWith('/'))
    throw new TypeError(`path: "${path}" does not begin with /, and browsers would take another one`)
}

/** The number of tokens that are tried: each of them costs a load. */
const MOST_TOKENS = 3

const tokensIn = (header: string, name: string): readonly string[] => {
  const first = parseCookie(header)[name]
  if (first === undefined) return []
  if (header.indexOf(`${name}=`) === header.lastIndexOf(`${name}=`)) return [first]
  const all = new Set(header.split(';').flatMap((pair) => parseCookie(pair)[name] ?? []))
  const wellFormed = [...all].filter((value) => O.isSome(Token.parse(value)))
  return wellFormed.length === 0 ? [first] : wellFormed.slice(0, MOST_TOKENS)
}
