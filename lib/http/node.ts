// The adapter for `node:http`: a request listener, and a listener for the upgrade requests of WebSockets.

import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { registrationOf } from '../bound/binding.js'
import { E, O, pipe } from '../core/prelude.cjs'
import { makeReadOnly } from '../request/scope.js'
import type { Session } from '../store/contract.js'
import { isCrossSite, type RequestInfo } from './csrf.js'
import { deferResponse } from './deferred-response.js'
import { type ErrorResponse, errorResponse } from './errors.js'
import { type FoundSession, findSession, withCrossSite } from './find-session.js'
import { runWithEvents } from './request-events.js'
import { requestInfo } from './request-info.js'
import {
  type AdapterOptions,
  createSessionLoader,
  type ErrorOptions,
  loaderOptions,
  type ProxyOptions,
} from './session-request.js'

export type { CookieOptions } from './cookie.js'
export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'

export interface SessionListenerOptions extends AdapterOptions, ProxyOptions, ErrorOptions {}

/** Handles a request. The handler may return a plain value, a promise, or a `TaskEither` to run. */
export type SessionHandler = (req: IncomingMessage, res: ServerResponse) => unknown

/**
 * Makes a request listener whose handler has a current session. The session is saved when the handler is done, or when
 * the response ends or begins to stream. The first byte is sent after the save. Nothing is saved if the handler fails
 * before the save. If a new session has no values, keyrow stores no row and sends no cookie.
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
export const sessionListener = (options: SessionListenerOptions) => {
  const begin = createSessionLoader(options)
  return (handler: SessionHandler): RequestListener =>
    (req, res) => {
      const defer = () => deferResponse(res, (failure) => errorResponse(options.onError, failure, req))
      const info = requestInfo(req, options.trustProxy ?? false)
      void runWithEvents([req, res], begin(info), defer, () => handler(req, res))
    }
}

export interface UpgradeOptions extends AdapterOptions, ProxyOptions, ErrorOptions {}

/** Handles an upgrade request. The handler may return a promise. Without a session, `session` is `undefined`. */
export type UpgradeHandler = (
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  session: Session | undefined,
) => unknown

/**
 * Makes a listener for a server's `upgrade` event. The listener works with every adapter. The listener's handler gets
 * the session that the request's cookie opens. The handler can read and destroy the session. A save, a rotation or a
 * refresh of the session fails with `SessionClosed`. A request from a page of another origin gets no session, unless
 * `sameSite` is `none`. If the store fails, the handler does not run, and the socket gets an error response and is
 * closed. If the handler fails, the socket is closed too.
 *
 * @throws `TypeError` or `RangeError` for invalid options
 *
 * @example
 * ```ts
 * import { createServer } from 'node:http'
 * import { sessionUpgrade } from 'keyrow/node'
 * import { memoryStore } from 'keyrow/memory'
 * import { WebSocketServer } from 'ws'
 *
 * const webSockets = new WebSocketServer({ noServer: true })
 * const server = createServer()
 * server.on(
 *   'upgrade',
 *   sessionUpgrade({ store: memoryStore() })((req, socket, head, session) => {
 *     if (session === undefined) socket.end('HTTP/1.1 401 Unauthorized\r\n\r\n')
 *     else webSockets.handleUpgrade(req, socket, head, (opened) => webSockets.emit('connection', opened, session))
 *   }),
 * )
 * ```
 */
export const sessionUpgrade = (options: UpgradeOptions) => {
  const { onError, sameSite, trustProxy = false } = options
  const loader = loaderOptions(options)
  const find = findSession(loader)
  const load = async (req: IncomingMessage): Promise<Session | undefined> => {
    const info = requestInfo(req, trustProxy)
    if (sameSite !== 'none' && isCrossSite(req, info)) return undefined
    const found = await find(info)()
    if (E.isLeft(found)) throw found.left
    // The session is read-only, because it outlives the request, and no response could carry a new cookie. The
    // cross-site session is merged only in memory. A later request stores the merged session.
    return pipe(provenOnly(loader, info, found.right), withCrossSite, O.map(makeReadOnly), O.toUndefined)
  }
  return (handler: UpgradeHandler) =>
    (req: IncomingMessage, socket: Duplex, head: Buffer): void => {
      // Until the handler gets the socket, an `error` event without a listener would end the process.
      const destroy = (): void => void socket.destroy()
      socket.on('error', destroy)
      const before = writtenTo(socket)
      load(req)
        .then((session) => {
          socket.off('error', destroy)
          return socket.destroyed ? undefined : handler(req, socket, head, session)
        })
        .catch((failure: unknown) => {
          socket.on('error', destroy)
          const response = errorResponse(onError, failure, req)
          // A socket that already speaks another protocol cannot get an HTTP response.
          if (writtenTo(socket) === before) reject(socket, response)
          else socket.destroy()
        })
    }
}

/** A WebSocket can change things, although its request is a GET. So an unproven request has no session. */
const provenOnly = (
  { bound }: ReturnType<typeof loaderOptions>,
  info: RequestInfo,
  found: FoundSession,
): FoundSession => {
  const checked = bound?.(info, found)
  const isBound = O.isSome(found.session) && registrationOf(found.session.value) !== undefined
  const isProven = checked?.proof?.isProven ?? !isBound
  return isProven ? (checked?.found ?? found) : { session: O.none, cookie: found.cookie }
}

const writtenTo = (socket: Duplex & { readonly bytesWritten?: number }): number => socket.bytesWritten ?? 0

const reject = (socket: Duplex, { status, body }: ErrorResponse): void => {
  // The socket is destroyed, because the client might not close its side of the connection.
  socket.once('finish', () => socket.destroy())
  socket.end(
    `HTTP/1.1 ${String(status)} \r\nConnection: close\r\nContent-Length: ${String(Buffer.byteLength(body))}\r\n\r\n${body}`,
  )
}
