// The adapter for `node:http`: a request listener.
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { deferResponse } from './deferred-response.js'
import { errorResponse } from './errors.js'
import { bindEvents } from './request-events.js'
import {
  type AdapterOptions,
  createSessionLoader,
  type ErrorOptions,
  type ProxyOptions,
  requestInfo,
  runRequest,
  type SessionRequest,
} from './session-request.js'

export type { CookieOptions } from './cookie.js'
export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'
export { sessionUpgrade, type UpgradeHandler, type UpgradeOptions } from './websocket.js'

export interface SessionListenerOptions extends AdapterOptions, ProxyOptions, ErrorOptions {}

/** A handler: plain, `async`, or one that returns a `TaskEither`, which is run. */
export type SessionHandler = (req: IncomingMessage, res: ServerResponse) => unknown

/**
 * A request listener whose handler has a current session. The session is saved when the handler is done, or when its
 * response ends or begins to stream. The first byte is sent after the save. Nothing is saved if the handler fails before
 * that. A client for whom nothing is stored gets no cookie and no row.
 *
 * @throws `TypeError` or `RangeError` for invalid options
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
    const response = deferResponse(res, (failure) => errorResponse(options.onError, failure, req))
    const handle = (sessionRequest: SessionRequest): unknown => {
      bindEvents(sessionRequest, req, res)
      return handler(req, res)
    }
    void runRequest(begin(requestInfo(req, options.trustProxy ?? false)), handle, response)
  }
}
