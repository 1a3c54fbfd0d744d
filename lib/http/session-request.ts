// What all doors share: their options, how a request begins, and what it says of itself.

import type { IncomingMessage } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionError, StoreError } from '../core/errors.js'
import { setImmediate } from '../core/process.js'
import type { KeyNames } from '../core/session.js'
import { ownLifetimeOf } from '../core/well-known-keys.js'
import { changesWithin, closeScope, dropScope, sessionOf } from '../request/current-scope.js'
import { chainOf, inScope, isInside, openScope, type Scope } from '../request/scope.js'
import { buildSession, sessionToken } from '../request/verbs.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type CookieOptions, type SessionCookies, sessionCookies } from './cookie.js'
import { type CheckedRequest, headerOf, type RequestInfo } from './csrf.js'
import {
  defaultErrorResponse,
  type ErrorRequest,
  type ErrorResponse,
  type OnError,
  setStatuses,
} from './errors.js'
import { addressOf, type Forwarded, forwardedBy, type TrustProxy } from './forwarded.js'
import {
  isAhead,
  type LoaderOptions,
  mergeCrossSite,
  noSessionHeaders,
  type Presented,
  presentedBy,
  type SessionHeaders,
  withCrossSite,
} from './response-headers.js'
import type { TokenGuard } from './token-guard.js'

export type { RequestInfo } from './csrf.js'

// A request's life, the same behind every door: find the session that the cookie opens, or a new one in
// memory; run the handler with it as the current one; save; and say which cookie the answer carries.

/** What a handler gives back: nothing, a value, a promise, or a task that is still to be run. */
export type Handled = unknown

export interface SessionRequest {
  /**
   * The session as it is now. A handler that asks for it has looked at it.
   * @throws `SessionClosed` once the request has ended or its response has begun.
   */
  readonly session: () => Session
  /** The same for the adapter itself, whose look does not count. */
  readonly peek: () => Session
  /** Whether what runs now was begun by the handler. */
  readonly isInside: () => boolean
  /** Calls `f` with the session as the current one, for it and all that it begins. */
  readonly enter: <A>(f: () => A) => A
  /** Runs the handler with the session as the current one. A `Left`, a throw and a rejection are a `Left`. */
  readonly run: (handler: () => Handled) => Promise<E.Either<unknown, unknown>>
  /** Fulfilled when no transaction is open in which the session was changed; the handler has then gone on from its end. */
  readonly finished: () => Promise<void>
  /** Saves, once; gives what the answer's head has to say. */
  readonly commit: TE.TaskEither<SessionError, SessionHeaders>
  /** Ends the life without saving; a secret that was rotated already is still given to the browser. */
  readonly drop: () => SessionHeaders
}

/** A response that waits. It is told once what becomes of it: let go, or failed. */
export interface PendingResponse {
  /** Settles when the response cannot wait for the handler any longer. */
  readonly mustFlush: Promise<void>
  /** Whether the client has left, so that there is nobody to answer. */
  readonly isAbandoned: () => boolean
  /** Whether what waits is the answer to a failure already, which goes out as it is; asked when it is pressed. */
  readonly isFailure: () => boolean
  readonly release: (headers: SessionHeaders) => void
  /**
   * Also told of a failure after the release, when it is too late for another answer. What `isHandler` says of
   * itself does not belong to the answer: a stream goes on after its request has failed.
   */
  readonly fail: (failure: unknown, headers: SessionHeaders, isHandler?: () => boolean) => void
}

const loadForRequest =
  (opening: LoaderOptions) =>
  (info: RequestInfo): TE.TaskEither<StoreError, SessionRequest> =>
  async () => {
    const found = await presentedBy(opening)(info)()
    if (E.isLeft(found)) return found
    const shown = found.right
    const request = { isPrefetch: isAhead(info), origin: info, looked: false }
    const session = O.getOrElse(() => buildSession(opening.store))(withCrossSite(shown))
    return E.right(
      sessionRequestOf(openScope(session, request), shown, cookiesGiven(opening.cookies, info, shown)),
    )
  }

type Given = (sessionScope: Scope, finished: boolean) => readonly string[]

const NOTHING_CAME = E.right(false)

const sessionRequestOf = (sessionScope: Scope, shown: Presented, given: Given): SessionRequest => {
  const scope = chainOf(sessionScope)
  const looked = (): boolean => sessionScope.request?.looked ?? false
  return {
    session: () => {
      const session = sessionOf(sessionScope)
      if (E.isLeft(session)) throw session.left
      return session.right
    },
    peek: () => sessionScope.session,
    isInside: () => isInside(sessionScope),
    enter: (f) => inScope(scope, f),
    run: (handler) => inScope(scope, () => attempt(handler)),
    finished: () => untilSettled(sessionScope),
    commit: async () => {
      const saved = await closeScope(sessionScope)()
      if (E.isLeft(saved)) return saved
      const { crossSite } = shown
      const finished =
        crossSite === undefined ? NOTHING_CAME : await mergeCrossSite(sessionScope, shown, crossSite)
      return E.isLeft(finished) ? finished : E.right({ cookies: given(sessionScope, finished.right), looked })
    },
    drop: () => {
      dropScope(sessionScope)
      return { cookies: given(sessionScope, false), looked }
    },
  }
}

const untilSettled = async (sessionScope: Scope): Promise<void> => {
  for (
    let changes = changesWithin(sessionScope);
    changes !== undefined;
    changes = changesWithin(sessionScope)
  ) {
    await changes
    // What a handler does right after (a throw, a last edit) still belongs to it.
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** From the first line to the last: begin, run the handler, save, answer. */
export const runRequest = async (
  begin: TE.TaskEither<unknown, SessionRequest>,
  handler: (sessionRequest: SessionRequest) => Handled,
  response: PendingResponse,
): Promise<void> => {
  const sessionRequest = await begin()
  if (E.isLeft(sessionRequest)) response.fail(sessionRequest.left, noSessionHeaders)
  // A handler that starts only now would never hear that its client has gone.
  else if (response.isAbandoned()) sessionRequest.right.drop()
  else await run(sessionRequest.right, () => handler(sessionRequest.right), response)
}

const run = async (
  sessionRequest: SessionRequest,
  handler: () => Handled,
  response: PendingResponse,
): Promise<void> => {
  const done = sessionRequest.run(handler)
  const outcome = await Promise.race([done, response.mustFlush.then(sessionRequest.finished)])
  if (outcome === undefined && response.isFailure()) {
    response.release(sessionRequest.drop())
    return
  }
  const failed = outcome !== undefined && E.isLeft(outcome) ? outcome : undefined
  const committed = failed ?? (await sessionRequest.commit())
  if (E.isLeft(committed)) {
    response.fail(committed.left, sessionRequest.drop(), sessionRequest.isInside)
    return
  }
  try {
    response.release(committed.right)
  } catch (error) {
    // What the handler wrote cannot be sent: a header that is not one, say.
    response.fail(error, committed.right, sessionRequest.isInside)
    return
  }
  const late = await done
  if (E.isLeft(late)) response.fail(late.left, committed.right, sessionRequest.isInside)
}

/** What became of a request whose handler gives its answer as a value. */
export interface HandledRequest<A> {
  readonly result: E.Either<unknown, A>
  /** What the answer's head has to say; `cacheHeaders` does half of it. */
  readonly headers: SessionHeaders
}

/** The same from begin to end where the answer is a value, of which nothing goes out before it is given. */
export const handle = async <A>(
  begin: TE.TaskEither<unknown, SessionRequest>,
  handler: (sessionRequest: SessionRequest) => Handled,
): Promise<HandledRequest<A>> => {
  const sessionRequest = (await attempt(begin)) as E.Either<unknown, SessionRequest>
  if (E.isLeft(sessionRequest)) return { result: sessionRequest, headers: noSessionHeaders }
  const { run, commit, drop } = sessionRequest.right
  const result = (await run(() => handler(sessionRequest.right))) as E.Either<unknown, A>
  if (E.isLeft(result)) return { result, headers: drop() }
  const committed = (await attempt(commit)) as E.Either<unknown, SessionHeaders>
  return E.isLeft(committed) ? { result: committed, headers: drop() } : { result, headers: committed.right }
}

// The token that a browser shows in vain is not taken away from it: another answer may just have given it
// a new one, by a rotation that overtook this request.
const cookiesGiven =
  (cookies: SessionCookies, { secure }: RequestInfo, { session: found, by, crossSite }: Presented): Given =>
  ({ session, state }, finished) => {
    const { absoluteMs, idleMs } = session.handle.lifetime
    const serialize = (token: string): readonly string[] =>
      by === 'session'
        ? [cookies.session.serialize(token, secure, absoluteMs, ownLifetimeOf(session.store)?.absoluteMs)]
        : (cookies.crossSite?.serialize(token, secure, idleMs) ?? [])
    const clearCrossSite = (): readonly string[] => cookies.crossSite?.clear(secure) ?? []
    const gone = finished ? clearCrossSite() : []
    if (state === 'destroyed' && by === 'crossSite') return O.isSome(found) ? clearCrossSite() : []
    if (state === 'destroyed') return O.isSome(found) ? [cookies.session.clear(secure), ...gone] : []
    const isNamedAnew = finished && crossSite?.id === session.id
    const known = O.isSome(found) && sessionToken(found.value) === sessionToken(session) && !isNamedAnew
    return known || state === 'gone' || O.isNone(session.snapshot)
      ? gone
      : [...serialize(sessionToken(session)), ...gone]
  }

export const attempt = async (handler: () => Handled): Promise<E.Either<unknown, unknown>> => {
  try {
    const handled: unknown = await handler()
    // A function is a task: plain handlers give values or promises, functional ones a `TaskEither`.
    const result: unknown = typeof handled === 'function' ? await (handled as () => unknown)() : handled
    return isEither(result) ? result : E.right(result)
  } catch (error) {
    return E.left(error)
  }
}

const isEither = (value: unknown): value is E.Either<unknown, unknown> =>
  typeof value === 'object' &&
  value !== null &&
  '_tag' in value &&
  ((value._tag === 'Left' && 'left' in value) || (value._tag === 'Right' && 'right' in value))

/** The options of every door. */
export interface AdapterOptions extends CookieOptions {
  readonly store: SessionStore
  /** Made by `tokenGuard`, it counts the tokens of each client that were never ours; adapters may share one. Default: none. */
  readonly guard?: TokenGuard
  /** The keys that every request needs; the others are there by `loadCurrentKeys`. Default: all. */
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
export interface ErrorOptions {
  /** Answers and logs what failed. Default: `defaultErrorResponse`. */
  readonly onError?: OnError
}

/**
 * Begins the life of a request. Throws a `TypeError` or `RangeError` for options that make no sense.
 */
export const createSessionLoader = (
  options: AdapterOptions & ProxyOptions,
): ((info: RequestInfo) => TE.TaskEither<StoreError, SessionRequest>) => {
  setStatuses()
  forwardedBy(options.trustProxy)
  return loadForRequest(loaderOptions(options))
}

export const loaderOptions = (options: AdapterOptions): LoaderOptions => ({
  store: options.store,
  cookies: sessionCookies(options),
  guard: options.guard,
  options,
})

/** What a request to `node:http` says of itself. */
export const requestInfo = (req: IncomingMessage, trustProxy: TrustProxy): RequestInfo =>
  requestInfoFrom(req, 'encrypted' in req.socket, req.socket.remoteAddress, trustProxy)

/** The same of a `Request`; what it knows of its connection is its URL. */
export const webRequestInfo = (request: Request, trustProxy: TrustProxy, address?: string): RequestInfo =>
  requestInfoFrom(request, request.url.startsWith('https:'), address, trustProxy)

const requestInfoFrom = (
  request: CheckedRequest,
  encrypted: boolean,
  peer: string | undefined,
  trustProxy: TrustProxy,
): RequestInfo => {
  const { address = addressOf(peer), proto, host } = forwardedOf(request, trustProxy, peer)
  const secure = encrypted || proto === 'https'
  return { cookieHeader: headerOf(request, 'cookie'), secure, address, host, request }
}

/** What the trusted proxies say of a request. */
export const forwardedOf = (request: CheckedRequest, trustProxy: TrustProxy, peer?: string): Forwarded =>
  forwardedBy(trustProxy)((name) => headerOf(request, name), peer)

/** A program's own `onError` may fail too; the client still gets an answer. */
export const errorResponse = (
  onError: OnError = defaultErrorResponse,
  failure: unknown,
  request: ErrorRequest,
): ErrorResponse => {
  try {
    return onError(failure, request)
  } catch (error) {
    return defaultErrorResponse(error, request)
  }
}

export const describe = (method: string | undefined, url: string | undefined): ErrorRequest => ({
  method: method ?? 'GET',
  path: (url ?? '/').split('?')[0] ?? '/',
})
