// WebSockets: the session of an upgrade request, to be read. It outlives any request, so it cannot be changed:
// what is written here could not be saved before an answer, nor could a cookie be given.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import { makeReadOnly } from '../request/current-scope.js'
import type { Session } from '../store/contract.js'
import { isCrossSite } from './csrf.js'
import type { ErrorResponse } from './errors.js'
import { presentedBy, withCrossSite } from './response-headers.js'
import {
  type AdapterOptions,
  describe,
  type ErrorOptions,
  errorResponse,
  loaderOptions,
  type ProxyOptions,
  requestInfo,
} from './session-request.js'

export interface UpgradeOptions extends AdapterOptions, ProxyOptions, ErrorOptions {}

/** What is done with an upgrade request, plain or `async`; `session` is `undefined` for a visitor without one. */
export type UpgradeHandler = (
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  session: Session | undefined,
) => unknown

/**
 * A listener for a server's `upgrade` event, whichever door serves its requests, with the session that the
 * request's cookie opens. The session can be read, and destroyed; saving, rotating or refreshing it fails with
 * `SessionClosed`. A page of another origin gets no session (with `sameSite: 'none'` it does). When the store
 * fails the socket is answered and closed, and the handler does not run; one that fails is closed too.
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
export const sessionUpgrade = (
  options: UpgradeOptions,
): ((handler: UpgradeHandler) => (req: IncomingMessage, socket: Duplex, head: Buffer) => void) => {
  const { onError, sameSite, trustProxy = false } = options
  const shown = presentedBy(loaderOptions(options))
  const load = async (req: IncomingMessage): Promise<Session | undefined> => {
    const info = requestInfo(req, trustProxy)
    if (sameSite !== 'none' && isCrossSite(req, info)) return undefined
    const found = await shown(info)()
    if (E.isLeft(found)) throw found.left
    // What arrived is shown, and left to a request that can store it.
    return pipe(found.right, withCrossSite, O.map(makeReadOnly), O.toUndefined)
  }
  return (handler) => (req, socket, head) => {
    // Until the handler has it, nobody else hears of a connection that is lost.
    const lost = (): void => void socket.destroy()
    socket.on('error', lost)
    const before = writtenTo(socket)
    load(req)
      .then((session) => {
        socket.off('error', lost)
        return socket.destroyed ? undefined : handler(req, socket, head, session)
      })
      .catch((failure: unknown) => {
        socket.on('error', lost)
        const answer = errorResponse(onError, failure, describe(req.method, req.url))
        // What has begun to speak another protocol understands no answer.
        if (writtenTo(socket) === before) reject(socket, answer)
        else socket.destroy()
      })
  }
}

const writtenTo = (socket: Duplex & { readonly bytesWritten?: number }): number => socket.bytesWritten ?? 0

const reject = (socket: Duplex, { status, body }: ErrorResponse): void => {
  // A client that does not close its side would keep the socket open.
  socket.once('finish', () => socket.destroy())
  socket.end(
    `HTTP/1.1 ${String(status)} \r\nConnection: close\r\nContent-Length: ${String(Buffer.byteLength(body))}\r\n\r\n${body}`,
  )
}
