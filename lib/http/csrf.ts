// Whether a request was made by one of our own pages: by what the browser says of it, and where it says nothing by
// a token that only our pages can show. `SameSite` alone does not tell: other hosts of the same site, and browsers
// that do not know it, send the cookie along.
import { timingSafeEqual } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { NoCurrentSession, SessionClosed } from '../core/errors.js'
import { currentRequest } from '../request/scope.js'
import { csrfKey } from '../request/sign-in.js'
import { currentSession } from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import { RequestRejected } from './errors.js'

// What a browser says of a request: which page made it, and whether it is only fetched ahead. The page is known by
// `Sec-Fetch-Site`, or else by `Origin`, which is compared with the origin that the request was sent to.

type HeaderRecord = Readonly<Record<string, string | readonly string[] | undefined>>

/** A request of any framework: all have these. */
export interface CheckedRequest {
  readonly method?: string | undefined
  readonly url?: string | undefined
  readonly headers: HeaderRecord | { readonly get: (name: string) => string | null }
}

/** What is known of the origin that a request was sent to, beside what the request itself says. */
export interface OwnOrigin {
  /** The host that a trusted proxy says the client asked for; without it the request's own counts. */
  readonly host?: string | undefined
  /** Whether the client's connection is known to be secure. */
  readonly secure: boolean
}

/** What a request says of itself. */
export interface RequestInfo extends OwnOrigin {
  readonly cookieHeader: string | undefined
  /** The client's address, where it is known. */
  readonly address?: string | undefined
  /** Its method and its headers, in which the browser says what kind of a request it is. */
  readonly request?: CheckedRequest | undefined
}

/** Where a request comes from. `none`: from the user, by the address bar or a bookmark. */
export type Sender = 'same-origin' | 'same-site' | 'cross-site' | 'none' | 'unknown'

export const headerOf = ({ headers }: CheckedRequest, name: string): string | undefined => {
  const value = typeof headers.get === 'function' ? headers.get(name) : (headers as HeaderRecord)[name]
  return typeof value === 'string' ? value : undefined
}

/** Whether a request may change something. */
export const isUnsafe = ({ method = '' }: CheckedRequest): boolean =>
  !/^(GET|HEAD|OPTIONS|TRACE)$/.test(method)

/** What the browser says. An `Origin` of another host of the same site counts as `cross-site`. */
export const senderOf = (request: CheckedRequest, own: OwnOrigin): Sender => {
  const site = headerOf(request, 'sec-fetch-site')
  if (site !== undefined) return SENDERS.find((sender) => sender === site) ?? 'unknown'
  const origin = headerOf(request, 'origin')
  if (origin === undefined || origin === 'null') return 'unknown'
  return isOrigin(origin, own.host ?? requestedHost(request), own.secure) ? 'same-origin' : 'cross-site'
}

const SENDERS = ['same-origin', 'same-site', 'cross-site', 'none'] as const

/**
 * Whether a browser says that a page of another origin made the request, or hides which one did. One that says
 * nothing is not foreign: it is no browser, or an old one.
 */
export const isCrossSite = (request: CheckedRequest, own: OwnOrigin): boolean => {
  const sender = senderOf(request, own)
  if (sender !== 'unknown') return sender !== 'same-origin' && sender !== 'none'
  return headerOf(request, 'sec-fetch-site') !== undefined || headerOf(request, 'origin') !== undefined
}

/** Whether `origin` is this host's. A default port, the letters' case and the form of an IPv6 address do not matter. */
const isOrigin = (origin: string, host: string | undefined, secure: boolean): boolean => {
  const url = URL.canParse(origin) ? new URL(origin) : undefined
  if (url === undefined || host === undefined || !/^[^\s/?#@\\]+$/.test(host)) return false
  if (!(url.protocol === 'https:' || (url.protocol === 'http:' && !secure))) return false
  // The scheme is not known behind a proxy that ends TLS and does not say so: the browser's is taken.
  const own = `${url.protocol}//${host}`
  return URL.canParse(own) && new URL(own).host === url.host
}

/** The host that a request asks for. Over HTTP/2 there is no header `Host`, and a `Request` has it in its URL. */
const requestedHost = (request: CheckedRequest): string | undefined => {
  const { headers, url = '' } = request
  const authority = typeof headers.get === 'function' ? hostOf(url) : headerOf(request, ':authority')
  return headerOf(request, 'host') ?? authority
}

const hostOf = (url: string): string | undefined => (URL.canParse(url) ? new URL(url).host : undefined)

/**
 * Whether the browser fetches the page ahead (a prefetch or a prerender: `Sec-Purpose`, or the older `Purpose`), so that
 * perhaps nobody ever sees it. keyrow keeps the messages that such a request shows, and moves no expiration. What else
 * its handler does is done: a handler asks this before it counts a visit, say.
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
 * Checks that a request which changes something comes from a page of ours. One that the browser itself calls
 * same-origin does (`Sec-Fetch-Site`, or without that an `Origin` which is the request's own); one that it calls
 * cross-site is a `RequestRejected` (403). Where the browser says neither, the request has to show the current session's
 * `csrfToken`, as the header `X-CSRF-Token` or as `field`. GET, HEAD, OPTIONS and TRACE are let through: they should
 * change nothing.
 *
 * @throws `RequestRejected` (403), also where a token is asked for and there is no stored session; `NoCurrentSession`
 * where a token is asked for outside of a session.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, verifyCsrf, csrfToken, saveSession, sessionSet, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const own = { method: 'POST', headers: { host: 'shop.example', origin: 'https://shop.example' } }
 * console.log((await verifyCsrf(own)())._tag) // Right
 * const foreign = { method: 'POST', headers: { host: 'shop.example', origin: 'https://other.example' } }
 * console.log((await verifyCsrf(foreign)())._tag) // Left
 *
 * const unsaid = { method: 'POST', headers: { host: 'shop.example' } }
 * const session = pipe(buildSession(memoryStore()), sessionSet('basket', ['tea']), saveSession)
 * const form = pipe(
 *   session,
 *   TE.chainW((stored) => withSession(stored, () => pipe(csrfToken, TE.chainW((token) => verifyCsrf(unsaid, token))))),
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
    return E.isLeft(session) ? session : checkToken(session.right, field ?? headerOf(request, 'x-csrf-token'))
  }

const ACCEPTED = E.right(undefined)

const checkToken = (session: Session, token: unknown): E.Either<RequestRejected, void> => {
  if (isTokenOf(csrfKey(session), token)) return ACCEPTED
  return O.isNone(session.snapshot)
    ? rejected('The browser does not say which page sent this form, and shows no session whose token could.')
    : rejected('The form is out of date: load it again.')
}

const rejected = (message: string): E.Either<RequestRejected, never> =>
  E.left(new RequestRejected(403, message))

/** In a time that does not tell how much of it was right. */
const isTokenOf = (key: Buffer, token: unknown): boolean => {
  if (typeof token !== 'string' || !/^[\w-]{86}$/.test(token)) return false
  const bytes = Buffer.from(token, 'base64url')
  const shown = bytes.subarray(32).map((byte, index) => byte ^ (bytes[index] ?? 0))
  return shown.length === key.length && timingSafeEqual(shown, key)
}
