// Reads what the adapters need to know of a request: its connection, its address, and the device of its user.

import type { IncomingMessage } from 'node:http'
import type { Device } from '../core/well-known-keys.js'
import { type CheckedRequest, headerOf, type RequestInfo } from './csrf.js'
import { addressOf, type Forwarded, forwardedBy, sharedNetworkOf, type TrustProxy } from './forwarded.js'

export const requestInfo = (req: IncomingMessage, trustProxy: TrustProxy): RequestInfo =>
  requestInfoFrom(req, 'encrypted' in req.socket, req.socket.remoteAddress, trustProxy)

/** Returns the `RequestInfo` of a `Request`. `address` is the client's address, if the server passes it. */
export const webRequestInfo = (request: Request, trustProxy: TrustProxy, address?: string): RequestInfo =>
  requestInfoFrom(request, request.url.startsWith('https:'), address, trustProxy)

const requestInfoFrom = (
  request: CheckedRequest,
  encrypted: boolean,
  peer: string | undefined,
  trustProxy: TrustProxy,
): RequestInfo => {
  const forwarded = forwardedOf(request, trustProxy, peer)
  return {
    cookieHeader: headerOf(request, 'cookie'),
    secure: encrypted || forwarded.proto === 'https',
    // The address is parsed only when it is read, because most adapters have no token guard.
    get address() {
      return forwarded.address ?? addressOf(peer)
    },
    host: forwarded.host,
    request,
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
