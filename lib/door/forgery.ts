// Whether a request was made by one of our own pages. `SameSite` keeps most forged requests from having the
// cookie, but not those of other hosts of the same site, nor old browsers': so a form shows the session's token.

import { timingSafeEqual } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { NoCurrentSession, SessionClosed } from '../base/errors.js'
import { currentSession } from '../current/current-session.js'
import { forgeryKey } from '../current/sign-in.js'
import { RequestRefused } from './refused.js'

type HeaderRecord = Readonly<Record<string, string | readonly string[] | undefined>>

/** A request of any framework: all have these. */
export interface CheckedRequest {
  readonly method?: string | undefined
  readonly url?: string | undefined
  readonly headers: HeaderRecord | { readonly get: (name: string) => string | null }
}

const headerOf = ({ headers }: CheckedRequest, name: string): string | undefined => {
  const value = typeof headers.get === 'function' ? headers.get(name) : (headers as HeaderRecord)[name]
  return typeof value === 'string' ? value : undefined
}

/** Whether a browser says that a page of another origin made the request. One that says nothing is not foreign. */
export const isForeign = (request: CheckedRequest): boolean => {
  const site = headerOf(request, 'sec-fetch-site')
  if (site !== undefined) return site !== 'same-origin' && site !== 'none'
  const origin = headerOf(request, 'origin')
  return origin !== undefined && hostOf(origin) !== hostAsked(request)?.toLowerCase()
}

/** Over HTTP/2 there is no header `Host`: Node.js has another one, and a `Request` has it in its URL. */
const hostAsked = (request: CheckedRequest): string | undefined => {
  const { headers, url = '' } = request
  const authority = typeof headers.get === 'function' ? hostOf(url) : headerOf(request, ':authority')
  return headerOf(request, 'host') ?? authority
}

const hostOf = (origin: string): string | undefined =>
  URL.canParse(origin) ? new URL(origin).host : undefined

/**
 * Checks that a request which changes something comes from a page of ours: it is not of another origin, and it
 * shows the current session's `csrfToken`, as the header `X-CSRF-Token` or as `field`. Otherwise it is a
 * `RequestRefused` (403). GET, HEAD, OPTIONS and TRACE are let through: they should change nothing.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, checkForgery, csrfToken, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const post = { method: 'POST', headers: { host: 'shop.example', origin: 'https://shop.example' } }
 * const request = withSession(buildSession(memoryStore()), () =>
 *   pipe(csrfToken, TE.chainW((token) => checkForgery(post, token))),
 * )
 * console.log((await request())._tag) // Right
 * const forged = withSession(buildSession(memoryStore()), () => checkForgery(post, 'a guess'))
 * console.log((await forged())._tag) // Left
 * ```
 */
export const checkForgery = (
  request: CheckedRequest,
  field?: unknown,
): TE.TaskEither<RequestRefused | NoCurrentSession | SessionClosed, void> =>
  pipe(
    currentSession,
    TE.chainEitherKW((session) => {
      if (/^(GET|HEAD|OPTIONS|TRACE)$/.test(request.method ?? '')) return E.right(undefined)
      if (isForeign(request)) return E.left(refused('The request comes from another site.'))
      return isTokenOf(forgeryKey(session), field ?? headerOf(request, 'x-csrf-token'))
        ? E.right(undefined)
        : E.left(refused('The form is out of date: load it again.'))
    }),
  )

const refused = (message: string): RequestRefused => new RequestRefused(403, message)

/** In a time that does not tell how much of it was right. */
const isTokenOf = (key: Buffer, token: unknown): boolean => {
  if (typeof token !== 'string' || !/^[\w-]{86}$/.test(token)) return false
  const bytes = Buffer.from(token, 'base64url')
  const shown = bytes.subarray(32).map((byte, index) => byte ^ (bytes[index] ?? 0))
  return shown.length === key.length && timingSafeEqual(shown, key)
}
