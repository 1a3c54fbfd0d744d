// Reads and writes the session's cookie, the cross-site cookie and the bound cookie. All are `HttpOnly` with an explicit
// `SameSite`. Over a secure connection they are `Secure`, and their names begin with `__Host-` or `__Secure-`.
// Browsers accept `__Host-` only with the path `/` and without a `Domain`.

import { parseCookie, stringifySetCookie } from 'cookie'
import { O } from '../core/prelude.cjs'
import { Token } from '../core/token.js'
import { headerOf, isUnsafe, type RequestInfo, senderOf } from './csrf.js'

const DEFAULT_NAME = 'session'

export interface CookieOptions {
  /**
   * The cookie's name. Over TLS the name gets the prefix `__Host-`. With a `domain`, or a `path` other than `/`, the
   * prefix is `__Secure-`. Default: `session`.
   */
  readonly cookieName?: string
  /** Decides which requests from other sites carry the cookie. Browsers accept `none` only over TLS. Default: `lax`. */
  readonly sameSite?: 'lax' | 'strict' | 'none'
  /** Whether the cookie stays for the store's `absoluteMs`, even after the browser is closed. Default: false. */
  readonly persistent?: boolean
  /**
   * Whether the browser keeps a separate cookie for each site that embeds your site in a frame (CHIPS). In frames some
   * browsers accept only partitioned cookies. The option needs `sameSite: 'none'`. Default: false.
   */
  readonly partitioned?: boolean
  /** A domain, such as `shop.example`. All its hosts get the cookie and can set it. Default: only your host. */
  readonly domain?: string
  /** The browser sends the cookie only to this path and below. The path is no security boundary. Default: `/`. */
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
  // This call makes an invalid option throw now, instead of at the first `serialize`.
  for (const secure of [true, false]) write('', secure)
  return {
    read: (header = '', secure: boolean) => tokensIn(header, nameFor(secure)),
    /** `ownMs` is the `absoluteMs` of the session's own lifetime. With `ownMs` the cookie is always persistent. */
    serialize: (token: string, secure: boolean, absoluteMs: number, ownMs?: number): string => {
      const lifetimeMs = ownMs ?? (persistent ? absoluteMs : undefined)
      // The lifetime is rounded up, because zero seconds would delete the cookie.
      return write(token, secure, lifetimeMs === undefined ? undefined : Math.ceil(lifetimeMs / 1000))
    },
    /** Returns the `Set-Cookie` header that deletes the cookie. */
    clear: (secure: boolean): string => write('', secure, 0),
    /** The name and the attributes of the cookie over TLS, without its lifetime. */
    description: () => ({ name: nameFor(true), attributes: write('', true).replace(/^.*?; /, '') }),
  }
}

// Matches a domain of two or more labels, the last of which begins with a letter. So it matches no IP address or port.
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

/** The maximum number of tokens that are tried for one request. Each attempt costs a load. */
const MAX_TOKENS = 3

let [lastHeader, lastCookies] = ['', parseCookie('')]

/** Parses the header. Several cookies are read from the header of a request, which is parsed only once. */
const parsed = (header: string): typeof lastCookies => {
  if (header !== lastHeader) [lastHeader, lastCookies] = [header, parseCookie(header)]
  return lastCookies
}

// A browser sends several cookies of one name if they were set for different paths or domains. In that case each value
// that is a well-formed token is tried.
const tokensIn = (header: string, name: string): readonly string[] => {
  const first = parsed(header)[name]
  if (first === undefined) return []
  if (header.indexOf(`${name}=`) === header.lastIndexOf(`${name}=`)) return [first]
  const all = new Set(header.split(';').flatMap((pair) => parseCookie(pair)[name] ?? []))
  const wellFormed = [...all].filter((value) => O.isSome(Token.parse(value)))
  return wellFormed.length === 0 ? [first] : wellFormed.slice(0, MAX_TOKENS)
}

// Implements the cross-site cookie. A browser withholds a `Lax` cookie from a form that another site's page posts (3-D
// Secure, SAML, OpenID Connect's `form_post`), and a `Strict` cookie from any link of another site. But the browser
// accepts cookies in the response, and would replace the cookie of a signed-in user. So the edits of such a request go
// to a second session with the cookie `session-cross-site`. find-session.ts merges the two sessions later.

export type SessionCookies = ReturnType<typeof sessionCookies>

/** @throws `TypeError` for the same options as `sessionCookie` */
export const sessionCookies = (options: CookieOptions) => ({
  session: sessionCookie(options),
  /** The bound cookie of bound.ts. */
  bound: sessionCookie({ ...options, cookieName: `${options.cookieName ?? DEFAULT_NAME}-bound` }),
  /** With `sameSite: 'none'` there is no cross-site cookie, because browsers never withhold the session's cookie. */
  crossSite: options.sameSite === 'none' ? undefined : crossSiteCookie(options),
})

const crossSiteCookie = (options: CookieOptions) => {
  const { cookieName = DEFAULT_NAME, sameSite } = options
  const cookieNamed = (suffix: string, sameSite: 'lax' | 'strict') =>
    sessionCookie({ ...options, cookieName: `${cookieName}-${suffix}`, sameSite, persistent: true })
  // The cross-site cookie is `Lax`, so that the browser sends it to the page to which the response redirects.
  const token = cookieNamed('cross-site', 'lax')
  // A browser that sends this cookie would also send the session's `Strict` cookie. So keyrow can tell whether the
  // session's cookie was withheld, even without `Sec-Fetch-Site`.
  const strict = sameSite === 'strict' ? cookieNamed('cross-site-strict', 'strict') : undefined
  return {
    read: ({ cookieHeader, secure }: RequestInfo) => token.read(cookieHeader, secure)[0],
    /** Returns the `Set-Cookie` headers. The browser deletes the cookies after `idleMs`. */
    serialize: (text: string, secure: boolean, idleMs: number): readonly string[] => [
      token.serialize(text, secure, idleMs),
      ...(strict === undefined ? [] : [strict.serialize('1', secure, idleMs)]),
    ],
    clear: (secure: boolean): readonly string[] =>
      [token, strict].flatMap((cookie) => cookie?.clear(secure) ?? []),
    /** Whether the browser withholds the session's cookie from this request. */
    isWithheld: (info: RequestInfo) => isWithheld(info, sameSite === 'strict'),
    /** For a request with the cross-site cookie: whether the browser could also send the session's cookie. */
    carriesBoth: ({ cookieHeader, secure }: RequestInfo) =>
      strict === undefined || strict.read(cookieHeader, secure).length > 0,
  }
}

const isWithheld = (info: RequestInfo, isStrict: boolean): boolean => {
  const { request } = info
  if (request === undefined) return false
  const sender = senderOf(request, info)
  if (headerOf(request, 'sec-fetch-site') !== undefined) {
    // `isPage` is true for the request of a whole page, and false for a frame or another part of a page.
    const isPage =
      headerOf(request, 'sec-fetch-mode') === 'navigate' &&
      (headerOf(request, 'sec-fetch-dest') ?? 'document') === 'document'
    return sender === 'cross-site' && (isStrict || isUnsafe(request) || !isPage)
  }
  if (sender === 'same-origin') return false
  // An old browser sends no `Sec-Fetch-Site`. A program that is no browser sends no `Origin` either.
  return isStrict || (isUnsafe(request) && headerOf(request, 'origin') !== undefined)
}
