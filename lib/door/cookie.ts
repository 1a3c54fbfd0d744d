// The session's cookie: its name, how it is read, and how it is written. `__Host-` and `Secure` where the
// connection is secure, `HttpOnly`, an explicit `SameSite`, the path `/` and never a `Domain`.

import { parseCookie, stringifySetCookie } from 'cookie'

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
  /** The token in a request's `Cookie` header, whatever it may be worth; `undefined` without one. */
  readonly read: (header: string | undefined, secure: boolean) => string | undefined
  /**
   * The `Set-Cookie` header that gives the browser this token. `absoluteMs` is the store's, `ownMs` that of a session
   * with times of its own, whose cookie always outlives the browser.
   */
  readonly give: (token: string, secure: boolean, absoluteMs: number, ownMs?: number) => string
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
    read: (header, secure) => parseCookie(header ?? '')[nameFor(secure)],
    give: (token, secure, absoluteMs, ownMs = persistent ? absoluteMs : undefined) =>
      // Zero seconds would take it away.
      write(token, secure, ownMs === undefined ? undefined : Math.ceil(ownMs / 1000)),
    take: (secure) => write('', secure, 0),
  }
}
