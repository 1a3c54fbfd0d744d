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
export interface Visit extends OwnOrigin {
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
  return isOrigin(origin, own.host ?? hostAsked(request), own.secure) ? 'same-origin' : 'cross-site'
}

const SENDERS = ['same-origin', 'same-site', 'cross-site', 'none'] as const

/**
 * Whether a browser says that a page of another origin made the request, or hides which one did. One that says
 * nothing is not foreign: it is no browser, or an old one.
 */
export const isForeign = (request: CheckedRequest, own: OwnOrigin): boolean => {
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
const hostAsked = (request: CheckedRequest): string | undefined => {
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
 * import { isPrefetch } from 'keyrow'
 *
 * console.log(isPrefetch({ headers: { 'sec-purpose': 'prefetch;prerender' } })) // true
 * console.log(isPrefetch(new Request('http://shop.example/'))) // false
 * ```
 */
export const isPrefetch = (request: CheckedRequest): boolean =>
  /\b(prefetch|prerender)\b/i.test(headerOf(request, 'sec-purpose') ?? headerOf(request, 'purpose') ?? '')
