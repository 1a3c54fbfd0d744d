// The door for `node:http`: request handlers with a current session, saved before the first byte goes out.

import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import * as O from 'fp-ts/lib/Option.js'
import type { SessionStore } from '../port/session-store.js'
import { type CookieOptions, sessionCookie } from './cookie.js'
import { answerFailure, type FailedRequest, type FailureAnswer, type OnFailure } from './failure.js'
import { holdResponse } from './held-response.js'
import { beginLife, conduct, type Visit } from './request-life.js'

export type { CookieOptions } from './cookie.js'
export { answerFailure, type FailedRequest, type FailureAnswer, type OnFailure } from './failure.js'

export interface SessionListenerOptions extends CookieOptions {
  readonly store: SessionStore
  /**
   * Whether the server stands behind a proxy that sets `X-Forwarded-Proto`, which then says whether the
   * client's connection is secure. Without such a proxy anybody could say so. Default: false.
   */
  readonly trustProxy?: boolean
  /** Answers and logs what failed. Default: `answerFailure`. */
  readonly onFailure?: OnFailure
}

/** A handler: plain or `async`, or one that gives a `TaskEither`, which is run. */
export type SessionHandler = (req: IncomingMessage, res: ServerResponse) => unknown

/**
 * A request listener that gives its handler a current session. The session is saved when the handler is
 * done, or as soon as its response is ended or begins to stream; only then does the first byte go out. A
 * handler that fails before that leaves nothing behind. A visitor for whom nothing is stored gets no cookie
 * and no row.
 *
 * @example
 * ```ts
 * import { createServer } from 'node:http'
 * import { sessionListener } from 'keyrow/node'
 * import { memoryStore } from 'keyrow/memory'
 * import { currentSession, sessionRef, sessionSet, updateCurrentSession } from 'keyrow/promise'
 *
 * const server = createServer(
 *   sessionListener({ store: memoryStore() })(async (_, res) => {
 *     const visits = Number(sessionRef('visits', 0)(await currentSession())) + 1
 *     await updateCurrentSession(sessionSet('visits', visits))
 *     res.end(`visit ${visits}`)
 *   }),
 * )
 * server.listen(0, () => server.close())
 * ```
 */
export const sessionListener = (
  options: SessionListenerOptions,
): ((handler: SessionHandler) => RequestListener) => {
  const begin = beginLife(options.store, sessionCookie(options))
  const onFailure = options.onFailure ?? answerFailure
  const visitOf = (req: IncomingMessage): Visit => ({
    cookieHeader: req.headers.cookie,
    secure: isSecure(req, options.trustProxy ?? false),
  })
  return (handler) => (req, res) => {
    const response = holdResponse(res, addCookie(res), (failure) =>
      answered(onFailure, failure, describe(req)),
    )
    conduct(begin(visitOf(req)), () => handler(req, res), response).catch((failure: unknown) =>
      response.fail(failure, O.none),
    )
  }
}

// A program's own `onFailure` may fail too; the client still gets an answer.
const answered = (onFailure: OnFailure, failure: unknown, request: FailedRequest): FailureAnswer => {
  try {
    return onFailure(failure, request)
  } catch (error) {
    return answerFailure(error, request)
  }
}

const addCookie = (res: ServerResponse) => (cookie: string) => {
  res.appendHeader('Set-Cookie', cookie)
  // Whoever stored this answer would give one visitor's session to the next.
  res.setHeader('Cache-Control', 'no-store')
}

const isSecure = (req: IncomingMessage, trustProxy: boolean): boolean => {
  if ('encrypted' in req.socket) return true
  const forwarded = trustProxy ? req.headers['x-forwarded-proto'] : undefined
  return String(forwarded).split(',')[0]?.trim().toLowerCase() === 'https'
}

const describe = (req: IncomingMessage): FailedRequest => ({
  method: req.method ?? 'GET',
  path: (req.url ?? '/').split('?')[0] ?? '/',
})
