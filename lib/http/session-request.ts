// What all doors share: their options, how a request begins, and what it says of itself.

import type { IncomingMessage } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionError, StoreError } from '../core/errors.js'
import { setImmediate } from '../core/process.js'
import type { KeyNames } from '../core/session.js'
import { ownLifetimeOf } from '../core/well-known-keys.js'
import { changesWithin, closeFrame, dropFrame, sessionHeldBy } from '../request/current-scope.js'
import { type Frame, inScope, isInside, openFrame, scopeOf } from '../request/scope.js'
import { buildSession, sessionToken } from '../request/verbs.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type CookieOptions, type SessionCookies, sessionCookies } from './cookie.js'
import { type CheckedRequest, headerOf, type Visit } from './csrf.js'
import {
  answerFailure,
  type FailedRequest,
  type FailureAnswer,
  giveStatuses,
  type OnFailure,
} from './errors.js'
import { addressOf, type Forwarded, forwardedBy, type TrustProxy } from './forwarded.js'
import {
  type AnswerHeaders,
  isAhead,
  nothingAdded,
  type Opening,
  type Shown,
  settleArrival,
  shownBy,
  withArrival,
} from './response-headers.js'
import type { TokenGuard } from './token-guard.js'

export type { Visit } from './csrf.js'

// A request's life, the same behind every door: find the session that the cookie opens, or a new one in
// memory; run the handler with it as the current one; save; and say which cookie the answer carries.

/** What a handler gives back: nothing, a value, a promise, or a task that is still to be run. */
export type Handled = unknown

export interface RequestLife {
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
  readonly settled: () => Promise<void>
  /** Saves, once; gives what the answer's head has to say. */
  readonly commit: TE.TaskEither<SessionError, AnswerHeaders>
  /** Ends the life without saving; a secret that was rotated already is still given to the browser. */
  readonly drop: () => AnswerHeaders
}

/** A response that waits. It is told once what becomes of it: let go, or failed. */
export interface WaitingResponse {
  /** Settles when the response cannot wait for the handler any longer. */
  readonly pressed: Promise<void>
  /** Whether the client has left, so that there is nobody to answer. */
  readonly isAbandoned: () => boolean
  /** Whether what waits is the answer to a failure already, which goes out as it is; asked when it is pressed. */
  readonly isFailure: () => boolean
  readonly release: (headers: AnswerHeaders) => void
  /**
   * Also told of a failure after the release, when it is too late for another answer. What `isHandler` says of
   * itself does not belong to the answer: a stream goes on after its request has failed.
   */
  readonly fail: (failure: unknown, headers: AnswerHeaders, isHandler?: () => boolean) => void
}

const beginLife =
  (opening: Opening) =>
  (visit: Visit): TE.TaskEither<StoreError, RequestLife> =>
  async () => {
    const found = await shownBy(opening)(visit)()
    if (E.isLeft(found)) return found
    const shown = found.right
    const request = { isPrefetch: isAhead(visit), origin: visit, looked: false }
    const session = O.getOrElse(() => buildSession(opening.store))(withArrival(shown))
    return E.right(lifeOf(openFrame(session, request), shown, cookiesGiven(opening.cookies, visit, shown)))
  }

type Given = (frame: Frame, settled: boolean) => readonly string[]

const NOTHING_CAME = E.right(false)

const lifeOf = (frame: Frame, shown: Shown, given: Given): RequestLife => {
  const scope = scopeOf(frame)
  const looked = (): boolean => frame.request?.looked ?? false
  return {
    session: () => {
      const session = sessionHeldBy(frame)
      if (E.isLeft(session)) throw session.left
      return session.right
    },
    peek: () => frame.session,
    isInside: () => isInside(frame),
    enter: (f) => inScope(scope, f),
    run: (handler) => inScope(scope, () => attempt(handler)),
    settled: () => untilSettled(frame),
    commit: async () => {
      const saved = await closeFrame(frame)()
      if (E.isLeft(saved)) return saved
      const { arrival } = shown
      const settled = arrival === undefined ? NOTHING_CAME : await settleArrival(frame, shown, arrival)
      return E.isLeft(settled) ? settled : E.right({ cookies: given(frame, settled.right), looked })
    },
    drop: () => {
      dropFrame(frame)
      return { cookies: given(frame, false), looked }
    },
  }
}

const untilSettled = async (frame: Frame): Promise<void> => {
  for (let changes = changesWithin(frame); changes !== undefined; changes = changesWithin(frame)) {
    await changes
    // What a handler does right after (a throw, a last edit) still belongs to it.
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** From the first line to the last: begin, run the handler, save, answer. */
export const conduct = async (
  begin: TE.TaskEither<unknown, RequestLife>,
  handler: (life: RequestLife) => Handled,
  response: WaitingResponse,
): Promise<void> => {
  const life = await begin()
  if (E.isLeft(life)) response.fail(life.left, nothingAdded)
  // A handler that starts only now would never hear that its client has gone.
  else if (response.isAbandoned()) life.right.drop()
  else await live(life.right, () => handler(life.right), response)
}

const live = async (life: RequestLife, handler: () => Handled, response: WaitingResponse): Promise<void> => {
  const done = life.run(handler)
  const outcome = await Promise.race([done, response.pressed.then(life.settled)])
  if (outcome === undefined && response.isFailure()) {
    response.release(life.drop())
    return
  }
  const failed = outcome !== undefined && E.isLeft(outcome) ? outcome : undefined
  const committed = failed ?? (await life.commit())
  if (E.isLeft(committed)) {
    response.fail(committed.left, life.drop(), life.isInside)
    return
  }
  try {
    response.release(committed.right)
  } catch (error) {
    // What the handler wrote cannot be sent: a header that is not one, say.
    response.fail(error, committed.right, life.isInside)
    return
  }
  const late = await done
  if (E.isLeft(late)) response.fail(late.left, committed.right, life.isInside)
}

/** What became of a request whose handler gives its answer as a value. */
export interface Answered<A> {
  readonly result: E.Either<unknown, A>
  /** What the answer's head has to say; `cacheHeaders` does half of it. */
  readonly headers: AnswerHeaders
}

/** The same from begin to end where the answer is a value, of which nothing goes out before it is given. */
export const answered = async <A>(
  begin: TE.TaskEither<unknown, RequestLife>,
  handler: (life: RequestLife) => Handled,
): Promise<Answered<A>> => {
  const life = (await attempt(begin)) as E.Either<unknown, RequestLife>
  if (E.isLeft(life)) return { result: life, headers: nothingAdded }
  const { run, commit, drop } = life.right
  const result = (await run(() => handler(life.right))) as E.Either<unknown, A>
  if (E.isLeft(result)) return { result, headers: drop() }
  const committed = (await attempt(commit)) as E.Either<unknown, AnswerHeaders>
  return E.isLeft(committed) ? { result: committed, headers: drop() } : { result, headers: committed.right }
}

// The token that a browser shows in vain is not taken away from it: another answer may just have given it
// a new one, by a rotation that overtook this request.
const cookiesGiven =
  (cookies: SessionCookies, { secure }: Visit, { session: found, by, arrival }: Shown): Given =>
  ({ session, state }, settled) => {
    const { absoluteMs, idleMs } = session.handle.lifetime
    const give = (token: string): readonly string[] =>
      by === 'session'
        ? [cookies.session.give(token, secure, absoluteMs, ownLifetimeOf(session.store)?.absoluteMs)]
        : (cookies.arrival?.give(token, secure, idleMs) ?? [])
    const takeArrival = (): readonly string[] => cookies.arrival?.take(secure) ?? []
    const gone = settled ? takeArrival() : []
    if (state === 'destroyed' && by === 'arrival') return O.isSome(found) ? takeArrival() : []
    if (state === 'destroyed') return O.isSome(found) ? [cookies.session.take(secure), ...gone] : []
    const isNamedAnew = settled && arrival?.id === session.id
    const known = O.isSome(found) && sessionToken(found.value) === sessionToken(session) && !isNamedAnew
    return known || state === 'gone' || O.isNone(session.snapshot)
      ? gone
      : [...give(sessionToken(session)), ...gone]
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
