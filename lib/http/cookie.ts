// The session's cookie: its name, how it is read, and how it is written. `HttpOnly`, an explicit `SameSite`, and where
// the connection is secure `Secure` with the prefix `__Host-`, which demands the path `/` and no `Domain`; or, where the
// options have another path or a domain, `__Secure-`.
import { parseCookie, stringifySetCookie } from 'cookie'
import * as O from 'fp-ts/lib/Option.js'
import { Token } from '../core/token.js'
import { headerOf, isUnsafe, type RequestInfo, senderOf } from './csrf.js'

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

interface SessionCookie {
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
  readonly serialize: (token: string, secure: boolean, absoluteMs: number, ownMs?: number) => string
  /** The `Set-Cookie` header that takes it away. */
  readonly clear: (secure: boolean) => string
}

/** @throws `TypeError` for a name that cannot be a cookie's, and for options with which browsers drop the cookie */
const sessionCookie = (options: CookieOptions = {}): SessionCookie => {
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
    serialize: (token, secure, absoluteMs, ownMs = persistent ? absoluteMs : undefined) =>
      // Zero seconds would take it away.
      write(token, secure, ownMs === undefined ? undefined : Math.ceil(ownMs / 1000)),
    clear: (secure) => write('', secure, 0),
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

// Requests that cannot show their session. A browser keeps a `Lax` cookie back from a form that a page of another site
// posts (3-D Secure, SAML, OpenID Connect's `form_post`), and a `Strict` one from every link of another site, but takes
// a cookie from the answer, which would replace the session of a visitor who is signed in. What the handler of such
// a request stores goes into a session with a cookie of another name: an arrival. The first request that may show both
// makes one of them.

/** The cookies of a session, and of an arrival. */
export interface SessionCookies {
  readonly session: SessionCookie
  /** `undefined` with `sameSite: 'none'`: such a cookie is never kept back. */
  readonly crossSite: CrossSiteCookie | undefined
}

interface CrossSiteCookie {
  readonly read: (info: RequestInfo) => string | undefined
  /** The `Set-Cookie` headers that give it; the browser forgets it after `idleMs` milliseconds. */
  readonly serialize: (token: string, secure: boolean, idleMs: number) => readonly string[]
  readonly clear: (secure: boolean) => readonly string[]
  /** Whether the browser keeps the session's cookie back in this request, so that one may be there. */
  readonly isHidden: (info: RequestInfo) => boolean
  /** Whether a request that shows an arrival would show the session's cookie, too. */
  readonly showsBoth: (info: RequestInfo) => boolean
}

/** Throws a `TypeError` for a name that cannot be a cookie's. */
export const sessionCookies = (options: CookieOptions): SessionCookies => {
  const session = sessionCookie(options)
  return { session, crossSite: options.sameSite === 'none' ? undefined : crossSiteCookie(options) }
}

const crossSiteCookie = (options: CookieOptions): CrossSiteCookie => {
  const { cookieName = 'session', sameSite } = options
  const cookieNamed = (suffix: string, sameSite: 'lax' | 'strict'): SessionCookie =>
    sessionCookie({ ...options, cookieName: `${cookieName}-${suffix}`, sameSite, persistent: true })
  // `Lax`, so that the page to which the answer redirects has it.
  const token = cookieNamed('arrival', 'lax')
  // Comes only when a `Strict` cookie comes, whether the browser knows `Sec-Fetch-Site` or not.
  const siteCookie = sameSite === 'strict' ? cookieNamed('arrival-site', 'strict') : undefined
  const read = (cookie: SessionCookie, { cookieHeader, secure }: RequestInfo) =>
    cookie.read(cookieHeader, secure)[0]
  return {
    read: (info) => read(token, info),
    serialize: (text, secure, idleMs) => [
      token.serialize(text, secure, idleMs),
      ...(siteCookie === undefined ? [] : [siteCookie.serialize('1', secure, idleMs)]),
    ],
    clear: (secure) => [token, siteCookie].flatMap((cookie) => cookie?.clear(secure) ?? []),
    isHidden: (info) => isHidden(info, sameSite === 'strict'),
    showsBoth: (info) => siteCookie === undefined || read(siteCookie, info) !== undefined,
  }
}

const isHidden = (info: RequestInfo, isStrict: boolean): boolean => {
  const { request } = info
  if (request === undefined) return false
  const sender = senderOf(request, info)
  if (headerOf(request, 'sec-fetch-site') !== undefined)
    return sender === 'cross-site' && (isStrict || isUnsafe(request) || !isPage(info))
  if (sender === 'same-origin') return false
  // A browser that does not say it; or no browser, which sends no `Origin`.
  return isStrict || (isUnsafe(request) && headerOf(request, 'origin') !== undefined)
}

/** Whether a whole page is asked for, and not a part of another one. */
const isPage = ({ request }: RequestInfo): boolean =>
  request !== undefined &&
  headerOf(request, 'sec-fetch-mode') === 'navigate' &&
  (headerOf(request, 'sec-fetch-dest') ?? 'document') === 'document'
