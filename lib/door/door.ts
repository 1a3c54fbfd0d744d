// What all doors share: their options, how a request begins, and what it says of itself.

import type { IncomingMessage } from 'node:http'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionStore, StoreError } from '../port/session-store.js'
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
import type { TokenGuard } from './guard.js'
import { type CheckedRequest, forwardedOf } from './origin.js'
import type { RequestRefused } from './refused.js'
import { beginLife, type RequestLife, type Visit } from './request-life.js'
import type { Opening } from './shown.js'

/** The options of every door. */
export interface DoorOptions extends CookieOptions {
  readonly store: SessionStore
  /** Counts the bad tokens of each client, made by `tokenGuard`; several doors may share one. Default: none. */
  readonly guard?: TokenGuard
  /** The keys that every request needs; the others are there by `fetchCurrentSession`. Default: all. */
  readonly keys?: KeyNames
}

/** Of the doors that have no framework that says it. */
export interface ProxyOptions {
  /**
   * Whether the server stands behind a proxy that sets `X-Forwarded-Proto`, which then says whether the
   * client's connection is secure, and that adds the client's address to `X-Forwarded-For`. Where the proxy does not
   * pass on the header `Host`, it says the host in `X-Forwarded-Host`. `Forwarded` counts where those are missing.
   * Without such a proxy anybody could say so. Default: false.
   */
  readonly trustProxy?: boolean
}

/** Of the doors that have no framework that answers failures. */
export interface FailureOptions {
  /** Answers and logs what failed. Default: `answerFailure`. */
  readonly onFailure?: OnFailure
}

/** Begins the life of a visit to this door. Throws a `TypeError` for a name that cannot be a cookie's. */
export const openDoor = (
  options: DoorOptions,
): ((visit: Visit) => TE.TaskEither<StoreError | RequestRefused, RequestLife>) => {
  giveStatuses()
  return beginLife(openingOf(options))
}

export const openingOf = (options: DoorOptions): Opening => ({
  store: options.store,
  cookies: sessionCookies(options),
  guard: options.guard,
  options,
})

/** What a request to `node:http` says of itself. */
export const visitOf = (req: IncomingMessage, trustProxy: boolean): Visit => {
  const { cookie, 'x-forwarded-for': chain } = req.headers
  return {
    cookieHeader: cookie,
    secure: 'encrypted' in req.socket || (trustProxy && saysHttps(req)),
    address: (trustProxy ? lastOf(chain) : undefined) ?? req.socket.remoteAddress,
    host: trustProxy ? forwardedOf(req, 'host') : undefined,
    request: req,
  }
}

/** The same of a `Request`; what it knows of its connection is its URL. */
export const visitOfRequest = (request: Request, trustProxy: boolean, address?: string): Visit => {
  const header = (name: string): string | undefined => request.headers.get(name) ?? undefined
  return {
    cookieHeader: header('cookie'),
    secure: request.url.startsWith('https:') || (trustProxy && saysHttps(request)),
    address: (trustProxy ? lastOf(header('x-forwarded-for')) : undefined) ?? address,
    host: trustProxy ? forwardedOf(request, 'host') : undefined,
    request,
  }
}

const saysHttps = (request: CheckedRequest): boolean =>
  forwardedOf(request, 'proto')?.toLowerCase() === 'https'

/** The address that the nearest proxy saw: what comes before it was said by the client. */
const lastOf = (header: string | readonly string[] | undefined): string | undefined =>
  header === undefined ? undefined : String(header).split(',').at(-1)?.trim()

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
