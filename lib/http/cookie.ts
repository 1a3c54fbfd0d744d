// The session's cookie, and the cross-site cookie. Both are `HttpOnly` with an explicit `SameSite`. Over a secure
// connection they are `Secure` with the prefix `__Host-`, which demands the path `/` and no `Domain`, or `__Secure-`.

import { parseCookie, stringifySetCookie } from 'cookie'
import { O } from '../core/prelude.cjs'
import { Token } from '../core/token.js'
import { headerOf, isUnsafe, type RequestInfo, senderOf } from './csrf.js'

const DEFAULT_NAME = 'session'

export interface CookieOptions {
  /** The name; over TLS with the prefix `__Host-`, or `__Secure-` if `domain` or `path` is set. Default: `session`. */
  readonly cookieName?: string
  /** Which requests from other sites carry the cookie. Browsers accept `none` only over TLS. Default: `lax`. */
  readonly sameSite?: 'lax' | 'strict' | 'none'
  /** Whether the cookie outlives the browser, for up to the store's `absoluteMs`. Default: false. */
  readonly persistent?: boolean
  /**
   * Whether the browser keeps a cookie of its own for each site that embeds yours in a frame (CHIPS). Some browsers accept
   * no other cookie there. It needs `sameSite: 'none'`. Default: false.
   */
  readonly partitioned?: boolean
  /** A domain whose hosts all get the cookie, and may set it: `shop.example`. Default: only the host that set it. */
  readonly domain?: string
  /** Only requests below this path carry the cookie. It does not protect from other paths of the host. Default: `/`. */
  readonly path?: string
}

/** @throws `TypeError` for an invalid cookie name, and for options with which browsers drop the cookie */
const sessionCookie = (options: CookieOptions) => {
  checkOptions(options)
  const { cookieName = DEFAULT_NAME, sameSite = 'lax', persistent = false, domain, path = '/' } = options
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
      // Browsers drop a partitioned cookie that is not `Secure`.
      partitioned: secure && options.partitioned === true,
      ...(domain === undefined ? {} : { domain }),
      ...(maxAge === undefined ? {} : { maxAge }),
    })
  // Throws now what `serialize` would throw later.
  for (const secure of [true, false]) write('', secure)
  return {
    read: (header = '', secure: boolean) => tokensIn(header, nameFor(secure)),
    /** `absoluteMs` is the store's lifetime. `ownMs` is the session's own, and makes the cookie persistent. */
    serialize: (token: string, secure: boolean, absoluteMs: number, ownMs?: number): string => {
      const lifetimeMs = ownMs ?? (persistent ? absoluteMs : undefined)
      // Rounded up: zero seconds would delete the cookie.
      return write(token, secure, lifetimeMs === undefined ? undefined : Math.ceil(lifetimeMs / 1000))
    },
    /** The `Set-Cookie` header that deletes the cookie. */
    clear: (secure: boolean): string => write('', secure, 0),
  }
}

/** At least two labels, the last of which begins with a letter. This excludes addresses, `localhost` and ports. */
const DOMAIN = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

const checkOptions = (options: CookieOptions): void => {
  const { cookieName = '', sameSite, partitioned, domain, path = '/' } = options
  if (/^__(Host|Secure)-/i.test(cookieName))
    throw new TypeError('cookieName: leave out the prefix, it is added automatically')
  if (partitioned === true && sameSite !== 'none')
    throw new TypeError(
      "partitioned needs sameSite: 'none': browsers send no other cookie in frames of other sites",
    )
  if (domain !== undefined && !DOMAIN.test(domain))
    throw new TypeError(
      `domain: "${domain}" is not a domain for cookies; give a name like shop.example, without a port or a leading dot`,
    )
  if (!path.startsWith('/'))
    throw new TypeError(`path: "${path}" does not begin with /; browsers would ignore it`)
}

/** Each token that is tried costs a load. */
const MAX_TOKENS = 3

// A browser sends several cookies of one name if another page or server of the host has set one for another path or
// domain. Then the well-formed ones count.
const tokensIn = (header: string, name: string): readonly string[] => {
  const first = parseCookie(header)[name]
  if (first === undefined) return []
  if (header.indexOf(`${name}=`) === header.lastIndexOf(`${name}=`)) return [first]
  const all = new Set(header.split(';').flatMap((pair) => parseCookie(pair)[name] ?? []))
  const wellFormed = [...all].filter((value) => O.isSome(Token.parse(value)))
  return wellFormed.length === 0 ? [first] : wellFormed.slice(0, MAX_TOKENS)
}

// The cross-site cookie. A browser does not send a `Lax` cookie with a form that a page of another site posts (3-D Secure,
// SAML, OpenID Connect's `form_post`), nor a `Strict` cookie with any link of another site. But it accepts a cookie from
// the response, which would replace the session of a user who is signed in. So the edits of such a request are stored in
// a second session, with the cookie `session-cross-site`. find-session.ts merges it at the first request with both.

export type SessionCookies = ReturnType<typeof sessionCookies>

/** @throws `TypeError` as `sessionCookie` does */
export const sessionCookies = (options: CookieOptions) => ({
  session: sessionCookie(options),
  /** `undefined` with `sameSite: 'none'`: browsers never withhold such a cookie. */
  crossSite: options.sameSite === 'none' ? undefined : crossSiteCookie(options),
})

const crossSiteCookie = (options: CookieOptions) => {
  const { cookieName = DEFAULT_NAME, sameSite } = options
  const cookieNamed = (suffix: string, sameSite: 'lax' | 'strict') =>
    sessionCookie({ ...options, cookieName: `${cookieName}-${suffix}`, sameSite, persistent: true })
  // `Lax`, so that the page to which the response redirects gets it.
  const token = cookieNamed('cross-site', 'lax')
  // Its presence shows that the browser sends `Strict` cookies, even without `Sec-Fetch-Site`.
  const strict = sameSite === 'strict' ? cookieNamed('cross-site-strict', 'strict') : undefined
  return {
    read: ({ cookieHeader, secure }: RequestInfo) => token.read(cookieHeader, secure)[0],
    /** The browser drops the cookie after `idleMs`. */
    serialize: (text: string, secure: boolean, idleMs: number): readonly string[] => [
      token.serialize(text, secure, idleMs),
      ...(strict === undefined ? [] : [strict.serialize('1', secure, idleMs)]),
    ],
    clear: (secure: boolean): readonly string[] =>
      [token, strict].flatMap((cookie) => cookie?.clear(secure) ?? []),
    /** Whether the browser withholds the session's cookie from this request. */
    isWithheld: (info: RequestInfo) => isWithheld(info, sameSite === 'strict'),
    /** Whether a request with a cross-site cookie would carry the session's cookie too. */
    carriesBoth: ({ cookieHeader, secure }: RequestInfo) =>
      strict === undefined || strict.read(cookieHeader, secure).length > 0,
  }
}

const isWithheld = (info: RequestInfo, isStrict: boolean): boolean => {
  const { request } = info
  if (request === undefined) return false
  const sender = senderOf(request, info)
  if (headerOf(request, 'sec-fetch-site') !== undefined) {
    // A whole page, not a frame or another part of one.
    const isPage =
      headerOf(request, 'sec-fetch-mode') === 'navigate' &&
      (headerOf(request, 'sec-fetch-dest') ?? 'document') === 'document'
    return sender === 'cross-site' && (isStrict || isUnsafe(request) || !isPage)
  }
  if (sender === 'same-origin') return false
  // Old browsers send no `Sec-Fetch-Site`; other clients send no `Origin` either.
  return isStrict || (isUnsafe(request) && headerOf(request, 'origin') !== undefined)
}
