// The door for `node:http`: request handlers with a current session, saved before the first byte goes out.

import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { SessionStore } from '../port/session-store.js'
import { type CookieOptions, sessionCookie } from './cookie.js'
import { answerFailure, type FailedRequest, type OnFailure } from './failure.js'
import { holdResponse } from './held-response.js'
import { beginLife, type Visit } from './request-life.js'

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
 *   sessionListener({ store: memoryStore() })(async (req, res) => {
 *     const visits = Number(sessionRef('visits', 0)(await currentSession())) + 1
 *     await updateCurrentSession(sessionSet('visits', visits))
 *     res.end(`visit ${visits}`)
 *   }),
 * )
 * server.listen(0, () => server.close())
 * ```
 */
export const sessionListener = (options: SessionListenerOptions): ((handler: SessionHandler) => RequestListener) => {
  const begin = beginLife(options.store, sessionCookie(options))
  const onFailure = options.onFailure ?? answerFailure
  const visitOf = (req: IncomingMessage): Visit => ({
    cookieHeader: req.headers.cookie,
    secure: isSecure(req, options.trustProxy ?? false),
  })
  return (handler) => (req, res) => {
    let cookie: O.Option<string> = O.none
    const held = holdResponse(res, () => addCookie(res, cookie))
    const failed = (failure: unknown): void => held.replace(onFailure(failure, describe(req)))
    const serve = async (): Promise<void> => {
      const life = await begin(visitOf(req))()
      if (E.isLeft(life)) return failed(life.left)
      const done = life.right.run(() => handler(req, res))
      const outcome = await Promise.race([done, held.pressed])
      if (outcome !== undefined && E.isLeft(outcome)) {
        life.right.drop()
        return failed(outcome.left)
      }
      const committed = await life.right.commit()
      if (E.isLeft(committed)) return failed(committed.left)
      cookie = committed.right
      held.release()
      const late = await done
      if (E.isLeft(late)) failed(late.left)
    }
    serve().catch(failed)
  }
}

const addCookie = (res: ServerResponse, cookie: O.Option<string>): void => {
  if (O.isNone(cookie)) return
  res.appendHeader('Set-Cookie', cookie.value)
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
