// The door for `node:http`: request handlers with a current session, saved before the first byte goes out.
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { deferResponse } from './deferred-response.js'
import { bindEvents } from './request-events.js'
import { noSessionHeaders } from './response-headers.js'
import {
  type AdapterOptions,
  createSessionLoader,
  describe,
  type ErrorOptions,
  errorResponse,
  type ProxyOptions,
  requestInfo,
  runRequest,
  type SessionRequest,
} from './session-request.js'

export type { CookieOptions } from './cookie.js'
export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'
export { sessionUpgrade, type UpgradeHandler, type UpgradeOptions } from './websocket.js'

export interface SessionListenerOptions extends AdapterOptions, ProxyOptions, ErrorOptions {}

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
  const begin = createSessionLoader(options)
  return (handler) => (req, res) => {
    const response = deferResponse(res, (failure) =>
      errorResponse(options.onError, failure, describe(req.method, req.url)),
    )
    const handle = (sessionRequest: SessionRequest): unknown => {
      bindEvents(sessionRequest, req, res)
      return handler(req, res)
    }
    runRequest(begin(requestInfo(req, options.trustProxy ?? false)), handle, response).catch(
      (failure: unknown) => response.fail(failure, noSessionHeaders),
    )
  }
}
