// Reads what the adapters need to know of a request: its connection, its address, and the device of its user.

import type { IncomingMessage } from 'node:http'
import type { Device } from '../core/well-known-keys.js'
import { type CheckedRequest, headerOf, type RequestInfo } from './csrf.js'
import { addressOf, type Forwarded, forwardedBy, sharedNetworkOf, type TrustProxy } from './forwarded.js'

export const requestInfo = (req: IncomingMessage, trustProxy: TrustProxy): RequestInfo =>
  new ConnectionInfo(req, 'encrypted' in req.socket, req.socket.remoteAddress, trustProxy)

/** Returns the `RequestInfo` of a `Request`. `address` is the client's address, if the server passes it. */
export const webRequestInfo = (request: Request, trustProxy: TrustProxy, address?: string): RequestInfo =>
  new ConnectionInfo(request, request.url.startsWith('https:'), address, trustProxy)

// An accessor in an object literal would keep each request in memory until the next full collection, since V8 puts the
// accessor into the old generation.
class ConnectionInfo implements RequestInfo {
  readonly cookieHeader: string | undefined
  readonly secure: boolean
  readonly host: string | undefined
  readonly #forwarded: Forwarded
  readonly #peer: string | undefined

  constructor(
    readonly request: CheckedRequest,
    encrypted: boolean,
    peer: string | undefined,
    trustProxy: TrustProxy,
  ) {
    this.#peer = peer
    this.#forwarded = forwardedOf(request, trustProxy, peer)
    this.cookieHeader = headerOf(request, 'cookie')
    this.secure = encrypted || this.#forwarded.proto === 'https'
    this.host = this.#forwarded.host
  }

  /** Parses the address at each read, because most adapters have no token guard. */
  get address(): string | undefined {
    return this.#forwarded.address ?? addressOf(this.#peer)
  }
}

export const forwardedOf = (request: CheckedRequest, trustProxy: TrustProxy, peer?: string): Forwarded =>
  forwardedBy(trustProxy)((name) => headerOf(request, name), peer)

/** The maximum length of a stored `User-Agent`. */
const MAX_USER_AGENT = 500

export const deviceIn = ({ request, address }: RequestInfo): Device => ({
  userAgent: request && headerOf(request, 'user-agent')?.slice(0, MAX_USER_AGENT),
  network: sharedNetworkOf(address),
})
