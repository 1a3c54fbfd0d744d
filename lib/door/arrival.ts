// Requests that cannot show their session. A browser keeps a `Lax` cookie back from a form that a page of another site
// posts (3-D Secure, SAML, OpenID Connect's `form_post`), and a `Strict` one from every link of another site, but takes
// a cookie from the answer, which would replace the session of a visitor who is signed in. What the handler of such
// a request stores goes into a session with a cookie of another name: an arrival. The first request that may show both
// makes one of them.

import { type CookieOptions, type SessionCookie, sessionCookie } from './cookie.js'
import { headerOf, isUnsafe, senderOf, type Visit } from './origin.js'

/** The cookies of a session, and of an arrival. */
export interface SessionCookies {
  readonly session: SessionCookie
  /** `undefined` with `sameSite: 'none'`: such a cookie is never kept back. */
  readonly arrival: ArrivalCookie | undefined
}

interface ArrivalCookie {
  readonly read: (visit: Visit) => string | undefined
  /** The `Set-Cookie` headers that give it; the browser forgets it after `idleMs` milliseconds. */
  readonly give: (token: string, secure: boolean, idleMs: number) => readonly string[]
  readonly take: (secure: boolean) => readonly string[]
  /** Whether the browser keeps the session's cookie back in this request, so that one may be there. */
  readonly isHidden: (visit: Visit) => boolean
  /** Whether a request that shows an arrival would show the session's cookie, too. */
  readonly showsBoth: (visit: Visit) => boolean
}

/** Throws a `TypeError` for a name that cannot be a cookie's. */
export const sessionCookies = (options: CookieOptions): SessionCookies => {
  const session = sessionCookie(options)
  return { session, arrival: options.sameSite === 'none' ? undefined : arrivalCookie(options) }
}

const arrivalCookie = (options: CookieOptions): ArrivalCookie => {
  const { cookieName = 'session', sameSite } = options
  const named = (suffix: string, sameSite: 'lax' | 'strict'): SessionCookie =>
    sessionCookie({ ...options, cookieName: `${cookieName}-${suffix}`, sameSite, persistent: true })
  // `Lax`, so that the page to which the answer redirects has it.
  const token = named('arrival', 'lax')
  // Comes only when a `Strict` cookie comes, whether the browser knows `Sec-Fetch-Site` or not.
  const witness = sameSite === 'strict' ? named('arrival-site', 'strict') : undefined
  const read = (cookie: SessionCookie, { cookieHeader, secure }: Visit) =>
    cookie.read(cookieHeader, secure)[0]
  return {
    read: (visit) => read(token, visit),
    give: (text, secure, idleMs) => [
      token.give(text, secure, idleMs),
      ...(witness === undefined ? [] : [witness.give('1', secure, idleMs)]),
    ],
    take: (secure) => [token, witness].flatMap((cookie) => cookie?.take(secure) ?? []),
    isHidden: (visit) => isHidden(visit, sameSite === 'strict'),
    showsBoth: (visit) => witness === undefined || read(witness, visit) !== undefined,
  }
}

const isHidden = (visit: Visit, isStrict: boolean): boolean => {
  const { request } = visit
  if (request === undefined) return false
  const sender = senderOf(request, visit)
  if (headerOf(request, 'sec-fetch-site') !== undefined)
    return sender === 'cross-site' && (isStrict || isUnsafe(request) || !isPage(visit))
  if (sender === 'same-origin') return false
  // A browser that does not say it; or no browser, which sends no `Origin`.
  return isStrict || (isUnsafe(request) && headerOf(request, 'origin') !== undefined)
}

/** Whether a whole page is asked for, and not a part of another one. */
const isPage = ({ request }: Visit): boolean =>
  request !== undefined &&
  headerOf(request, 'sec-fetch-mode') === 'navigate' &&
  (headerOf(request, 'sec-fetch-dest') ?? 'document') === 'document'
