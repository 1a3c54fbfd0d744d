// What all doors share: their options, how a request begins, and what it says of itself.

import type { IncomingMessage } from 'node:http'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import type { SessionStore } from '../port/session-store.js'
import type { KeyNames } from '../session/known.js'
import { sessionCookies } from './arrival.js'
import type { CookieOptions } from './cookie.js'
import {
  answerFailure,
  type FailedRequest,
  type FailureAnswer,
  giveStatuses,
  type OnFailure,
} from './failure.js'
import { addressOf, type Forwarded, forwardedBy, type TrustProxy } from './forwarded.js'
import type { TokenGuard } from './guard.js'
import { type CheckedRequest, headerOf } from './origin.js'
import { beginLife, type RequestLife, type Visit } from './request-life.js'
import type { Opening } from './shown.js'

/** The options of every door. */
export interface DoorOptions extends CookieOptions {
  readonly store: SessionStore
  /** Made by `tokenGuard`, it counts the tokens of each client that were never ours; adapters may share one. Default: none. */
  readonly guard?: TokenGuard
  /** The keys that every request needs; the others are there by `fetchCurrentSession`. Default: all. */
  readonly keys?: KeyNames
}

/** Of the doors that have no framework that says it. */
export interface ProxyOptions {
  /**
   * The proxies in front of the server whose word counts: `true` for one, a number of them, or their addresses and
   * networks (`['10.0.0.0/8', 'loopback']`). They say in `X-Forwarded-Proto`, `X-Forwarded-For` and `X-Forwarded-Host`,
   * or else in `Forwarded`, whether the client's connection is secure, where it comes from, and which host it asked
   * for. Without such a proxy anybody could say so. Default: false.
   */
  readonly trustProxy?: TrustProxy
}

/** Of the doors that have no framework that answers failures. */
export interface FailureOptions {
  /** Answers and logs what failed. Default: `answerFailure`. */
  readonly onFailure?: OnFailure
}

/**
 * Begins the life of a request. Throws a `TypeError` or `RangeError` for options that make no sense.
 */
export const openDoor = (
  options: DoorOptions & ProxyOptions,
): ((visit: Visit) => TE.TaskEither<StoreError, RequestLife>) => {
  giveStatuses()
  forwardedBy(options.trustProxy)
  return beginLife(openingOf(options))
}

export const openingOf = (options: DoorOptions): Opening => ({
  store: options.store,
  cookies: sessionCookies(options),
  guard: options.guard,
  options,
})

/** What a request to `node:http` says of itself. */
export const visitOf = (req: IncomingMessage, trustProxy: TrustProxy): Visit =>
  visitBy(req, 'encrypted' in req.socket, req.socket.remoteAddress, trustProxy)

/** The same of a `Request`; what it knows of its connection is its URL. */
export const visitOfRequest = (request: Request, trustProxy: TrustProxy, address?: string): Visit =>
  visitBy(request, request.url.startsWith('https:'), address, trustProxy)

const visitBy = (
  request: CheckedRequest,
  encrypted: boolean,
  peer: string | undefined,
  trustProxy: TrustProxy,
): Visit => {
  const { address = addressOf(peer), proto, host } = forwardedOf(request, trustProxy, peer)
  const secure = encrypted || proto === 'https'
  return { cookieHeader: headerOf(request, 'cookie'), secure, address, host, request }
}

/** What the trusted proxies say of a request. */
export const forwardedOf = (request: CheckedRequest, trustProxy: TrustProxy, peer?: string): Forwarded =>
  forwardedBy(trustProxy)((name) => headerOf(request, name), peer)

/** A program's own `onFailure` may fail too; the client still gets an answer. */
export const failureAnswer = (
  onFailure: OnFailure = answerFailure,
  failure: unknown,
  request: FailedRequest,
): FailureAnswer => {
  try {
    return onFailure(failure, request)
  } catch (error) {
    return answerFailure(error, request)
  }
}

export const describe = (method: string | undefined, url: string | undefined): FailedRequest => ({
  method: method ?? 'GET',
  path: (url ?? '/').split('?')[0] ?? '/',
})
