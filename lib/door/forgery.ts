// Whether a request was made by one of our own pages: by what the browser says of it, and where it says nothing by
// a token that only our pages can show. `SameSite` alone does not tell: other hosts of the same site, and browsers
// that do not know it, send the cookie along.

import { timingSafeEqual } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { NoCurrentSession, SessionClosed } from '../base/errors.js'
import { currentSession } from '../current/current-session.js'
import { currentRequest } from '../current/frame.js'
import { forgeryKey } from '../current/sign-in.js'
import type { Session } from '../port/session-store.js'
import { type CheckedRequest, headerOf, isUnsafe, senderOf } from './origin.js'
import { RequestRefused } from './refused.js'

/**
 * Checks that a request which changes something comes from a page of ours. One that the browser itself calls
 * same-origin does (`Sec-Fetch-Site`, or without that an `Origin` which is the request's own); one that it calls
 * cross-site is a `RequestRefused` (403). Where the browser says neither, the request has to show the current session's
 * `csrfToken`, as the header `X-CSRF-Token` or as `field`. GET, HEAD, OPTIONS and TRACE are let through: they should
 * change nothing.
 *
 * @throws `RequestRefused` (403), also where a token is asked for and there is no stored session; `NoCurrentSession`
 * where a token is asked for outside of a session.
 *
 * @example
 * ```ts
 * import { pipe } from 'fp-ts/lib/function.js'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { buildSession, checkForgery, csrfToken, saveSession, sessionSet, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const own = { method: 'POST', headers: { host: 'shop.example', origin: 'https://shop.example' } }
 * console.log((await checkForgery(own)())._tag) // Right
 * const foreign = { method: 'POST', headers: { host: 'shop.example', origin: 'https://other.example' } }
 * console.log((await checkForgery(foreign)())._tag) // Left
 *
 * const unsaid = { method: 'POST', headers: { host: 'shop.example' } }
 * const session = pipe(buildSession(memoryStore()), sessionSet('basket', ['tea']), saveSession)
 * const form = pipe(
 *   session,
 *   TE.chainW((stored) => withSession(stored, () => pipe(csrfToken, TE.chainW((token) => checkForgery(unsaid, token))))),
 * )
 * console.log((await form())._tag) // Right
 * ```
 */
export const checkForgery =
  (
    request: CheckedRequest,
    field?: unknown,
  ): TE.TaskEither<RequestRefused | NoCurrentSession | SessionClosed, void> =>
  async () => {
    if (!isUnsafe(request)) return ACCEPTED
    const sender = senderOf(request, currentRequest()?.origin ?? { secure: false })
    if (sender === 'same-origin') return ACCEPTED
    if (sender === 'cross-site') return refused('The request comes from another site.')
    const session = await currentSession()
    return E.isLeft(session) ? session : checkToken(session.right, field ?? headerOf(request, 'x-csrf-token'))
  }

const ACCEPTED = E.right(undefined)

const checkToken = (session: Session, token: unknown): E.Either<RequestRefused, void> => {
  if (isTokenOf(forgeryKey(session), token)) return ACCEPTED
  return O.isNone(session.snapshot)
    ? refused('The browser does not say which page sent this form, and shows no session whose token could.')
    : refused('The form is out of date: load it again.')
}

const refused = (message: string): E.Either<RequestRefused, never> => E.left(new RequestRefused(403, message))

/** In a time that does not tell how much of it was right. */
const isTokenOf = (key: Buffer, token: unknown): boolean => {
  if (typeof token !== 'string' || !/^[\w-]{86}$/.test(token)) return false
  const bytes = Buffer.from(token, 'base64url')
  const shown = bytes.subarray(32).map((byte, index) => byte ^ (bytes[index] ?? 0))
  return shown.length === key.length && timingSafeEqual(shown, key)
}
