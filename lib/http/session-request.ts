// Defines what all adapters share: the options, the steps of a request from load to save, and the response headers.

import type { BindingReply } from '../bound/endpoints.js'
import { given, type SessionError, type StoreError, started } from '../core/errors.js'
import { E, O, TE } from '../core/prelude.cjs'
import { setImmediate } from '../core/process.js'
import type { KeyNames } from '../core/session.js'
import { ownLifetimeOf } from '../core/well-known-keys.js'
import { changesWithin, closeScope, dropScope, sessionOf } from '../request/current-scope.js'
import {
  chainOf,
  inScope,
  isInside,
  makeUnproven,
  openScope,
  type Scope,
  type ScopeRequest,
} from '../request/scope.js'
import { buildSession, sessionToken } from '../request/verbs.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type BoundOptions, type BoundRequest, boundWith } from './bound.js'
import { type CookieOptions, type SessionCookies, sessionCookies } from './cookie.js'
import type { RequestInfo } from './csrf.js'
import type { OnError } from './errors.js'
import { endCrossSite, type FoundSession, findSession, isPrefetchOf, withCrossSite } from './find-session.js'
import { forwardedBy, type TrustProxy } from './forwarded.js'
import { deviceIn, webRequestInfo } from './request-info.js'
import type { TokenGuard } from './token-guard.js'

export interface AdapterOptions extends CookieOptions {
  readonly store: SessionStore
  /** A guard, made by `tokenGuard`. Several adapters may share one guard. Default: none. */
  readonly guard?: TokenGuard
  /** The keys to load for every request. `loadCurrentKeys` loads further keys. Default: all. */
  readonly keys?: KeyNames
  /** Binds sessions to the browsers of their users, so that a copied cookie soon changes nothing. Default: no session is bound. */
  readonly bound?: BoundOptions
}

/** Options of the adapters whose framework does not read forwarded headers itself. */
export interface ProxyOptions {
  /**
   * The trusted proxies in front of the server: `true` for one proxy, the number of proxies, or their addresses and
   * networks (`['10.0.0.0/8', 'loopback']`). The proxies report the client's scheme, address and host in
   * `X-Forwarded-Proto`, `-For` and `-Host`, or in `Forwarded`. A client that reaches the server without a proxy can
   * forge these headers. Default: false.
   */
  readonly trustProxy?: TrustProxy
}

/** Options of the adapters whose framework does not respond to failures itself. */
export interface ErrorOptions {
  /** Returns the response to a failed request, and logs the failure. Default: `defaultErrorResponse`. */
  readonly onError?: OnError
}

/** The result of a handler: nothing, a value, a promise, or a task that keyrow runs. */
export type Handled = unknown

export interface SessionRequest {
  /**
   * Returns the session. The call counts as a read by the handler. After a read, keyrow adds cache headers to the
   * response.
   * @throws `SessionClosed` once the request has ended or its response has begun.
   */
  readonly session: () => Session
  /** Returns the session for the adapter itself. The call does not count as a read. */
  readonly peek: () => Session
  /** Whether the running code was started by the handler. */
  readonly isInside: () => boolean
  /** Runs `f`. The session is the current session in `f` and in everything that `f` starts. */
  readonly enter: <A>(f: () => A) => A
  /**
   * Runs the handler with the session as the current session. If the handler fails, the result is a `Left`. A request that
   * needs a proof of its browser, and has none, fails with `ProofRequired` before the handler.
   */
  readonly run: (handler: () => Handled) => Promise<E.Either<unknown, unknown>>
  /** For a request with which a browser binds its session: the task that makes the response instead of the handler. */
  readonly answer: TE.TaskEither<SessionError, BindingReply> | undefined
  /**
   * Resolves when every transaction that changed the session has ended, and the handler has continued after each of
   * these transactions.
   */
  readonly finished: () => Promise<void>
  /** Saves the session. The result has the headers that the session adds to the response. */
  readonly commit: TE.TaskEither<SessionError, SessionHeaders>
  /** Ends the request without a save. If the session was already rotated, the headers still contain its new token. */
  readonly drop: () => SessionHeaders
}

/** Runs the handler of the program, unless keyrow answers the request itself. `send` sends the response of keyrow. */
export const answeredBy = (
  { answer }: Pick<SessionRequest, 'answer'>,
  send: (reply: BindingReply) => unknown,
  handler: () => Handled,
): Handled => (answer === undefined ? handler() : TE.map(send)(answer))

/** A response that waits for the save. After the save keyrow calls `release`. After a failure it calls `fail`. */
export interface PendingResponse {
  /** Resolves when the response cannot wait for the handler any longer. */
  readonly mustFlush: Promise<void>
  /** Whether the client has disconnected. */
  readonly isAbandoned: () => boolean
  /** Called after `mustFlush`. Returns whether the pending response is an error, which is sent without a save. */
  readonly isFailure: () => boolean
  readonly release: (headers: SessionHeaders) => void
  /**
   * Called for each failure, even after the release. Once the first byte was sent, no other response is possible.
   * `isHandler` returns whether the failed handler started the running code. The output of such code is discarded.
   */
  readonly fail: (failure: unknown, headers: SessionHeaders, isHandler?: () => boolean) => void
}

/** The headers that the session adds to a response. */
export interface SessionHeaders {
  /** The values of the `Set-Cookie` headers. Most responses have none. */
  readonly cookies: readonly string[]
  /** Other headers. Only responses to bound sessions, or to sessions that may be bound, have any. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** Whether the handler has read a session so far. */
  readonly looked: () => boolean
}

const noSessionHeaders: SessionHeaders = { cookies: [], headers: [], looked: () => false }

export interface CacheHeaders {
  readonly cacheControl: string | undefined
  readonly vary: string | undefined
}

/**
 * Returns the cache headers of a response. `own` are the response's own cache headers. A response with a session cookie
 * is `no-store`, because a cache could give the session to other clients. If the handler has read a session, the
 * response varies with the cookie. This response is also `no-store`, unless it has a `Cache-Control` of its own.
 */
export const cacheHeaders = (
  { cookies, looked }: Pick<SessionHeaders, 'cookies' | 'looked'>,
  own: CacheHeaders,
): CacheHeaders => {
  const vary = looked() ? varyByCookie(own.vary) : own.vary
  if (cookies.length > 0) return { cacheControl: 'no-store', vary }
  return { cacheControl: own.cacheControl ?? (looked() ? 'no-store' : undefined), vary }
}

/** Returns the headers to set on a response. `own` returns a header of the response by its name. */
export const changedHeaders = (added: SessionHeaders, own: (name: string) => string | undefined) => {
  const before = { cacheControl: own('Cache-Control'), vary: own('Vary') }
  const { cacheControl, vary } = cacheHeaders(added, before)
  const changed: (readonly [name: string, value: string])[] = [...added.headers]
  if (cacheControl !== undefined && cacheControl !== before.cacheControl)
    changed.push(['Cache-Control', cacheControl])
  if (vary !== undefined && vary !== before.vary) changed.push(['Vary', vary])
  return changed
}

const varyByCookie = (vary: string | undefined): string => {
  if (vary === undefined || vary.trim() === '') return 'Cookie'
  const names = vary.split(',').map((name) => name.trim().toLowerCase())
  return names.includes('*') || names.includes('cookie') ? vary : `${vary}, Cookie`
}

/**
 * Returns a function that loads the session of a request. If there is none, the function makes a session in memory.
 *
 * @throws `TypeError` or `RangeError` for invalid options
 */
export const createSessionLoader = (options: AdapterOptions & ProxyOptions) => {
  const loader = loaderOptions(options)
  return (info: RequestInfo): TE.TaskEither<StoreError, SessionRequest> =>
    async () => {
      const found = await findSession(loader)(info)()
      if (E.isLeft(found)) return found
      const bound = loader.bound?.(info, found.right)
      const permitted = bound?.found ?? found.right
      const session = O.getOrElse(() => buildSession(loader.store))(withCrossSite(permitted))
      if (bound?.readOnly !== undefined) makeUnproven(session)
      const request = scopeRequestOf(info, bound)
      const scope = openScope(session, request)
      const looked = (): boolean => request.looked
      const cookies = cookiesFor(loader.cookies, info, permitted)
      const headers = (endsCrossSite: boolean): SessionHeaders => {
        const own = cookies(scope, endsCrossSite)
        if (bound === undefined) return { cookies: own, headers: [], looked }
        const added = bound.headersOf(scope, looked())
        return { cookies: [...own, ...added.cookies], headers: added.headers, looked }
      }
      return E.right(sessionRequestOf(scope, permitted, headers, bound))
    }
}

const scopeRequestOf = (info: RequestInfo, bound: BoundRequest | undefined): ScopeRequest => ({
  isPassive: isPrefetchOf(info) || bound?.isPassive === true,
  proof: bound?.proof,
  readOnly: bound?.readOnly,
  device: () => deviceIn(info),
  origin: info,
  looked: false,
})

export const loaderOptions = (options: AdapterOptions & ProxyOptions) => {
  forwardedBy(options.trustProxy)
  const cookies = sessionCookies(options)
  const bound = options.bound && boundWith(options.bound, options, cookies.bound)
  return { store: options.store, cookies, bound, guard: options.guard, options }
}

const sessionRequestOf = (
  scope: Scope,
  found: FoundSession,
  headers: (endsCrossSite: boolean) => SessionHeaders,
  bound: BoundRequest | undefined,
) => {
  const chain = chainOf(scope)
  return {
    session: () => given(sessionOf(scope)),
    peek: () => scope.session,
    isInside: () => isInside(scope),
    enter: <A>(f: () => A): A => inScope(chain, f),
    run: (handler: () => Handled) => inScope(chain, () => attempt(bound?.refused ?? handler)),
    answer: bound?.answer,
    finished: () => finished(scope),
    commit: async () => {
      const saved = await closeScope(scope)()
      if (E.isLeft(saved)) return saved
      // Most requests have no cross-site session, and each awaited promise costs time.
      const ended = found.crossSite === undefined ? E.right(false) : await endCrossSite(scope, found)()
      return E.map(headers)(ended)
    },
    drop: () => {
      dropScope(scope)
      return headers(false)
    },
  }
}

const finished = async (scope: Scope): Promise<void> => {
  for (let changes = changesWithin(scope); changes !== undefined; changes = changesWithin(scope)) {
    await changes
    // This pause lets the handler continue after its transaction. The handler may then throw or edit the session.
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Whether the session was replaced by a new one that is not stored. */
const isReset = ({ id, snapshot }: Session, { session }: FoundSession): boolean =>
  O.isNone(snapshot) && O.isSome(session) && session.value.id !== id

// Returns the cookies of a response. A cookie whose token opens no session is not deleted, because a concurrent
// response may have replaced that cookie.
const cookiesFor =
  (cookies: SessionCookies, { secure }: RequestInfo, found: FoundSession) =>
  ({ session, state }: Scope, endsCrossSite: boolean): readonly string[] => {
    const { absoluteMs, idleMs } = session.handle.lifetime
    const isCrossSite = found.cookie === 'crossSite'
    const clearCrossSite = (): readonly string[] => cookies.crossSite?.clear(secure) ?? []
    const cleared = endsCrossSite ? clearCrossSite() : []
    if (state === 'destroyed' || isReset(session, found)) {
      if (O.isNone(found.session)) return []
      return isCrossSite ? clearCrossSite() : [cookies.session.clear(secure), ...cleared]
    }
    const token = sessionToken(session)
    const becomesRegular = endsCrossSite && found.crossSite?.id === session.id
    const isSent = O.isSome(found.session) && sessionToken(found.session.value) === token && !becomesRegular
    if (isSent || state === 'gone' || O.isNone(session.snapshot)) return cleared
    const set = isCrossSite
      ? (cookies.crossSite?.serialize(token, secure, idleMs) ?? [])
      : [cookies.session.serialize(token, secure, absoluteMs, ownLifetimeOf(session.store)?.absoluteMs)]
    return [...set, ...cleared]
  }

/**
 * Loads the session, runs the handler, saves, and releases the response. keyrow calls `defer` while the session is
 * loading. Rejects only if `defer` or `response.fail` throws.
 */
export const runRequest = async (
  begin: TE.TaskEither<unknown, SessionRequest>,
  handler: (sessionRequest: SessionRequest) => Handled,
  defer: () => PendingResponse,
): Promise<void> => {
  const loading = started(begin)
  // A driver may send the load only after this turn of the event loop. The response is deferred while the database works.
  await Promise.resolve()
  const response = defer()
  try {
    const sessionRequest = await loading
    if (E.isLeft(sessionRequest)) response.fail(sessionRequest.left, noSessionHeaders)
    // The handler does not start after a disconnection, because it would miss the event `close`.
    else if (response.isAbandoned()) sessionRequest.right.drop()
    else await run(sessionRequest.right, () => handler(sessionRequest.right), response)
  } catch (failure) {
    response.fail(failure, noSessionHeaders)
  }
}

const run = async (sessionRequest: SessionRequest, handler: () => Handled, response: PendingResponse) => {
  const done = sessionRequest.run(handler)
  const outcome = await Promise.race([done, response.mustFlush.then(sessionRequest.finished)])
  if (outcome === undefined && response.isFailure()) {
    response.release(sessionRequest.drop())
    return
  }
  const hasFailed = outcome !== undefined && E.isLeft(outcome)
  const committed = hasFailed ? outcome : await sessionRequest.commit()
  if (E.isLeft(committed)) {
    response.fail(committed.left, sessionRequest.drop(), sessionRequest.isInside)
    return
  }
  // The release fails if, for instance, the handler's response has an invalid header.
  const released = E.tryCatch(
    () => response.release(committed.right),
    (error) => error,
  )
  const late = E.isLeft(released) ? released : await done
  if (E.isLeft(late)) response.fail(late.left, committed.right, sessionRequest.isInside)
}

/** The outcome of a request whose handler returns the response. */
export interface HandledRequest<A> {
  readonly result: E.Either<unknown, A>
  /** The session's additions to the response's headers. `cacheHeaders` derives the cache headers from this value. */
  readonly headers: SessionHeaders
}

/** Loads the session, runs a handler that returns the response, and saves the session. */
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

type Check = (result: unknown, session: Session) => void

const replied = ({ body, ...init }: BindingReply): Response => new Response(body, init)

/** Returns a function that handles a `Request`. `check` checks the handler's result before the save. */
export const webHandler = (options: AdapterOptions & ProxyOptions, check: Check) => {
  const begin = createSessionLoader(options)
  return <A>(
    request: Request,
    address: string | undefined,
    handler: (sessionRequest: SessionRequest) => Handled,
  ) =>
    handle<A>(
      begin(webRequestInfo(request, options.trustProxy ?? false, address)),
      async (sessionRequest) => {
        const outcome = await attempt(() =>
          answeredBy(sessionRequest, replied, () => handler(sessionRequest)),
        )
        if (E.isRight(outcome)) check(outcome.right, sessionRequest.peek())
        return outcome
      },
    )
}

/** Runs a handler, which may return a value, a promise or a `TaskEither`. An error that it throws becomes a `Left`. */
export const attempt = async (handler: () => Handled): Promise<E.Either<unknown, unknown>> => {
  try {
    const handled: unknown = await handler()
    // A returned function is a task.
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
