// Checks whether a request comes from one of the program's own pages. The check uses headers that browsers set, or else
// a token that only these pages have. `SameSite` alone is not enough. Browsers also send the cookie with requests from
// other hosts of the same site, and old browsers ignore `SameSite`.

import { timingSafeEqual } from 'node:crypto'
import type { NoCurrentSession, SessionClosed } from '../core/errors.js'
import { E, O, type TE } from '../core/prelude.cjs'
import { currentRequest } from '../request/scope.js'
import { csrfKey } from '../request/sign-in.js'
import { currentSession } from '../request/with-session.js'
import { RequestRejected } from './errors.js'

type HeaderRecord = Readonly<Record<string, string | readonly string[] | undefined>>

/** The members that a request has in every framework. */
export interface CheckedRequest {
  readonly method?: string | undefined
  readonly url?: string | undefined
  readonly headers: HeaderRecord | { readonly get: (name: string) => string | null }
}

/** The data that an adapter passes about a request. */
export interface RequestInfo {
  /** The requested host, as a trusted proxy reports it. Without this value, the host that the request names is used. */
  readonly host?: string | undefined
  /** Whether the client's connection is known to be secure. */
  readonly secure: boolean
  readonly cookieHeader: string | undefined
  readonly address?: string | undefined
  readonly request?: CheckedRequest | undefined
}

export const headerOf = ({ headers }: CheckedRequest, name: string): string | undefined => {
  const value = typeof headers.get === 'function' ? headers.get(name) : (headers as HeaderRecord)[name]
  return typeof value === 'string' ? value : undefined
}

/** Whether the method of a request may change something. */
export const isUnsafe = ({ method = '' }: CheckedRequest): boolean =>
  !/^(GET|HEAD|OPTIONS|TRACE)$/.test(method)

/** Returns the sender according to `Sec-Fetch-Site`. Without this header, a foreign `Origin` counts as `cross-site`. */
export const senderOf = (request: CheckedRequest, own: Pick<RequestInfo, 'host' | 'secure'>) => {
  const site = headerOf(request, 'sec-fetch-site')
  if (site !== undefined) return SENDERS.find((sender) => sender === site) ?? 'unknown'
  const origin = headerOf(request, 'origin')
  if (origin === undefined || origin === 'null') return 'unknown'
  return isOrigin(origin, own.host ?? requestedHost(request), own.secure) ? 'same-origin' : 'cross-site'
}

/** The possible senders of a request. `none` means that the user opened the page from the address bar or a bookmark. */
const SENDERS = ['same-origin', 'same-site', 'cross-site', 'none'] as const

/** Whether `Sec-Fetch-Site` or `Origin` shows another origin or hides it. Without both headers the result is false. */
export const isCrossSite = (request: CheckedRequest, own: RequestInfo): boolean => {
  const sender = senderOf(request, own)
  if (sender !== 'unknown') return sender !== 'same-origin' && sender !== 'none'
  return headerOf(request, 'sec-fetch-site') !== undefined || headerOf(request, 'origin') !== undefined
}

/** Whether `origin` is the origin of `host`. Default ports, case and the notation of IPv6 do not matter. */
const isOrigin = (origin: string, host: string | undefined, secure: boolean): boolean => {
  const url = parseUrl(origin)
  if (url === undefined || host === undefined || !/^[^\s/?#@\\]+$/.test(host)) return false
  if (!(url.protocol === 'https:' || (url.protocol === 'http:' && !secure))) return false
  // The scheme of `origin` is used for `host` too, because a proxy may terminate TLS without reporting it.
  return parseUrl(`${url.protocol}//${host}`)?.host === url.host
}

/** Returns the requested host. HTTP/2 has `:authority` instead of `Host`, and a `Request` has the host in its URL. */
const requestedHost = (request: CheckedRequest): string | undefined => {
  const { headers, url = '' } = request
  const authority = typeof headers.get === 'function' ? parseUrl(url)?.host : headerOf(request, ':authority')
  return headerOf(request, 'host') ?? authority
}

const parseUrl = (url: string): URL | undefined => (URL.canParse(url) ? new URL(url) : undefined)

/**
 * Whether the browser only prefetches or prerenders a page, according to `Sec-Purpose` or the older `Purpose`. The user
 * may never open the page. A prefetch keeps the flash messages that it reads, and does not extend the session's
 * expiration. keyrow does not prevent other effects of the handler. So call `isPrefetch` before you count a page view.
 *
 * @example
 * ```ts
 * import { isPrefetch } from 'keyrow/adapter'
 *
 * console.log(isPrefetch({ headers: { 'sec-purpose': 'prefetch;prerender' } })) // true
 * console.log(isPrefetch(new Request('http://shop.example/'))) // false
 * ```
 */
export const isPrefetch = (request: CheckedRequest): boolean =>
  /\b(prefetch|prerender)\b/i.test(headerOf(request, 'sec-purpose') ?? headerOf(request, 'purpose') ?? '')

/**
 * Checks that a request which may change something comes from a page of your own site. The header `Sec-Fetch-Site`
 * decides. Without it, `Origin` decides. A same-origin request passes, and a cross-site request is rejected. Any other
 * request must have the session's `csrfToken`, as `field` or in `X-CSRF-Token`. GET, HEAD, OPTIONS and TRACE pass.
 *
 * @throws `RequestRejected` (403) for a cross-site request, a missing or wrong token, and a session that is not stored
 * @throws `NoCurrentSession` if a token is needed outside of a session
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, csrfToken, verifyCsrf, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const own = { method: 'POST', headers: { host: 'shop.example', origin: 'https://shop.example' } }
 * console.log((await verifyCsrf(own)())._tag) // Right
 * const foreign = { method: 'POST', headers: { host: 'shop.example', origin: 'https://other.example' } }
 * console.log((await verifyCsrf(foreign)())._tag) // Left
 *
 * const unsaid = { method: 'POST', headers: { host: 'shop.example' } }
 * const form = withSession(buildSession(memoryStore()), () =>
 *   pipe(csrfToken, TE.chainW((token) => verifyCsrf(unsaid, token))),
 * )
 * console.log((await form())._tag) // Right
 * ```
 */
export const verifyCsrf =
  (
    request: CheckedRequest,
    field?: unknown,
  ): TE.TaskEither<RequestRejected | NoCurrentSession | SessionClosed, void> =>
  async () => {
    if (!isUnsafe(request)) return ACCEPTED
    const sender = senderOf(request, currentRequest()?.origin ?? { secure: false })
    if (sender === 'same-origin') return ACCEPTED
    if (sender === 'cross-site') return rejected('The request comes from another site.')
    const session = await currentSession()
    if (E.isLeft(session)) return session
    if (isTokenOf(csrfKey(session.right), field ?? headerOf(request, 'x-csrf-token'))) return ACCEPTED
    return O.isNone(session.right.snapshot)
      ? rejected(
          'The browser does not say which page sent this form, and sends no session whose token could.',
        )
      : rejected('The form is out of date: load it again.')
  }

const ACCEPTED = E.right(undefined)

const rejected = (message: string): E.Either<RequestRejected, never> =>
  E.left(new RequestRejected(403, message))

/** Whether `token` was made from `key`. A token has two halves: a random mask, and `key` XORed with this mask. */
const isTokenOf = (key: Buffer, token: unknown): boolean => {
  if (typeof token !== 'string' || !/^[\w-]{86}$/.test(token)) return false
  const bytes = Buffer.from(token, 'base64url')
  const unmasked = bytes.subarray(32).map((byte, index) => byte ^ (bytes[index] ?? 0))
  return unmasked.length === key.length && timingSafeEqual(unmasked, key)
}
