// The adapter for Next.js 16 with the App Router. Route handlers and server actions change the session, and server
// components read it. Only these three modules of Next.js can be imported both by a bundler and by Node.js.

import { parseSetCookie } from 'cookie'
// @ts-expect-error Next.js is not installed here
import * as cacheModule from 'next/cache.js'
// @ts-expect-error Next.js is not installed here
import * as headersModule from 'next/headers.js'
// @ts-expect-error Next.js is not installed here
import * as serverModule from 'next/server.js'
import { given } from '../core/errors.js'
import { E, type TE } from '../core/prelude.cjs'
import { shared } from '../core/process.js'
import { isSameStore } from '../request/scope.js'
import { sessionHere } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import { webRequestInfo } from './request-info.js'
import {
  type AdapterOptions,
  attempt,
  createSessionLoader,
  type ErrorOptions,
  type HandledRequest,
  handle,
  type SessionHeaders,
  type SessionRequest,
} from './session-request.js'
import { checkResponse, webResponse } from './web-response.js'

export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'

interface CookieJar {
  getAll(): readonly { readonly name: string; readonly value: string }[]
  set(cookie: object): unknown
}

const { cookies, headers } = headersModule as {
  readonly cookies: () => Promise<CookieJar>
  readonly headers: () => Promise<Headers>
}
const { after } = serverModule as { readonly after: (task: () => unknown) => void }
const { refresh } = cacheModule as { readonly refresh: () => void }

export interface NextSessionsOptions extends Omit<AdapterOptions, 'store' | 'bound'>, ErrorOptions {
  /** The number of trusted proxies in front of the server, or `true` for one proxy. Default: false. */
  readonly trustProxy?: boolean | number
  /** Identifies the store in the process. A second store needs a name of its own. Default: `sessions`. */
  readonly name?: string
}

export interface NextSessions {
  /**
   * Returns the session for a server component, or a new session in memory if there is none. All components of a
   * request share one load. A component cannot change the current session. After the response the session's expiration
   * is extended, if the extension is due. In a route handler or an action, `session` returns the current session.
   *
   * @throws `StoreError`
   */
  readonly session: () => Promise<Session>
  /**
   * Wraps a route handler. It has a current session, which is saved before the response is sent. `redirect` and
   * `notFound` of Next.js are no failures, so the session is saved. For a failure `onError` makes the response.
   */
  readonly route: <I extends readonly unknown[]>(
    handler: (request: Request, ...rest: I) => unknown,
  ) => (request: Request, ...rest: I) => Promise<Response>
  /**
   * Wraps a server action. It has a current session, which is saved before Next.js answers. If the action fails,
   * nothing is saved, and Next.js gets the error. After an action that has changed the session, Next.js renders the
   * page again. The action may return a promise or a `TaskEither`.
   */
  readonly action: <I extends readonly unknown[], A>(
    body: (...input: I) => TE.TaskEither<unknown, A> | Promise<A> | A,
  ) => (...input: I) => Promise<A>
  /** Returns the store, for example for `sessionsOf`. */
  readonly store: () => SessionStore
}

/**
 * Connects sessions to Next.js. Next.js loads a module of the program up to four times. So keyrow keeps the store in the
 * process, and calls `makeStore` once, when a request first needs the store.
 *
 * @throws `TypeError` or `RangeError` for invalid options, at the first request
 *
 * @example
 * ```tsx
 * import { nextSessions } from 'keyrow/next'
 * import { postgresStore } from 'keyrow/postgres'
 * import { sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * export const sessions = nextSessions(() => postgresStore(process.env['DATABASE_URL'] ?? ''))
 *
 * export const visit = sessions.action(async () => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 * })
 * ```
 */
export const nextSessions = (
  makeStore: () => SessionStore,
  options: NextSessionsOptions = {},
): NextSessions => {
  const { name = 'sessions', onError } = options
  const store = (): SessionStore => shared(`next-store-${name}:1`, makeStore)
  const begin = beginWith(store, options)
  return {
    store,
    session: () => pageSession(name, store, begin),
    route:
      (handler) =>
      async (request, ...rest) => {
        const act = (): unknown => handler(request, ...rest)
        return webResponse(await run<Response>(begin, request.method, act, responseOf), onError, request)
      },
    action:
      <I extends readonly unknown[], A>(body: (...input: I) => unknown) =>
      async (...input: I): Promise<A> => {
        // An action that another action calls belongs to that action.
        if (sessionInside(store) !== undefined)
          return given((await attempt(() => body(...input))) as E.Either<Error, A>)
        const handled = await run<A>(begin, 'POST', () => body(...input), resultOf)
        await setCookies(handled.headers)
        return given(handled.result as E.Either<Error, A>)
      },
  }
}

/** Returns the current session of the running code, if it is a session of the store. */
const sessionInside = (store: () => SessionStore): Session | undefined => {
  const current = sessionHere()
  return E.isRight(current) && isSameStore(current.right.handle, store()) ? current.right : undefined
}

/** Loads the session of the running request. `method` is the method of the request, or `undefined` for a page. */
type Begin = (method?: string) => TE.TaskEither<unknown, SessionRequest>

const beginWith = (store: () => SessionStore, options: NextSessionsOptions): Begin => {
  let loader: ReturnType<typeof createSessionLoader> | undefined
  return (method) => async () => {
    loader ??= createSessionLoader({ ...options, store: store() })
    return loader(webRequestInfo(await requestHere(method), options.trustProxy ?? false))()
  }
}

// Returns the request as far as Next.js tells it to actions and components. Next.js trusts `X-Forwarded-Proto`, and sets
// it if the client has not set it. The header `cookie` does not have the cookies that an action has set. Next.js has
// decoded the values of its cookies. They are encoded again, so that no value can look like another cookie.
const requestHere = async (method: string | undefined): Promise<Request> => {
  // Without this call, Next.js may run a route handler already when the program is built.
  const jar = await cookies()
  const own = new Headers(await headers())
  // A component cannot set cookies, so it cannot merge a cross-site session. The next action or route does this.
  const isRead = (name: string): boolean => method !== undefined || !name.endsWith('-cross-site')
  const pairs = jar.getAll().filter(({ name, value }) => value !== '' && isRead(name))
  own.set('cookie', pairs.map(({ name, value }) => `${name}=${encodeURIComponent(value)}`).join('; '))
  const scheme = own.get('x-forwarded-proto')?.startsWith('https') === true ? 'https' : 'http'
  const url = `${scheme}://${own.get('host') ?? ''}/`
  return new Request(URL.canParse(url) ? url : `${scheme}://localhost/`, {
    method: method ?? 'GET',
    headers: own,
  })
}

/** The outcome of a handler that has called `redirect` or `notFound`. These functions of Next.js throw `error`. */
class Interruption {
  constructor(readonly error: unknown) {}
}

const INTERRUPTION = /^NEXT_(?:REDIRECT|HTTP_ERROR_FALLBACK;(\d{3})$)/

const digestOf = (error: unknown): string =>
  String((error as { readonly digest?: unknown } | null | undefined)?.digest)

/** Returns the result of the request from the result of the handler, or throws an error if it is no valid result. */
type Finish = (result: unknown, session: Session, before: Session) => unknown

/** Runs a handler or an action. After the save, it throws the error of `redirect` or `notFound`. */
const run = async <A>(
  begin: Begin,
  method: string,
  act: () => unknown,
  finish: Finish,
): Promise<HandledRequest<A>> => {
  const handled = await handle<A | Interruption>(begin(method), async (sessionRequest) => {
    const before = sessionRequest.peek()
    const outcome = await attempt(act)
    const isInterruption = E.isLeft(outcome) && INTERRUPTION.test(digestOf(outcome.left))
    const result = isInterruption ? E.right(new Interruption(outcome.left)) : outcome
    return E.isLeft(result) ? result : E.right(finish(result.right, sessionRequest.peek(), before))
  })
  pages.delete(await headers())
  const { result } = handled
  if (E.isLeft(result) || !(result.right instanceof Interruption)) return handled as HandledRequest<A>
  await setCookies(handled.headers)
  throw result.right.error
}

// With this call Next.js renders the page and its layouts again, although the action may have set no cookie. The call
// comes before the save. If the save fails, nothing is rendered.
const resultOf: Finish = (result, session, before) => {
  if (session !== before) refresh()
  return result
}

// Next.js itself would send the response of `notFound` in a route handler without the cookies.
const responseOf: Finish = (result, session) => {
  if (!(result instanceof Interruption)) {
    checkResponse(result, session)
    return result
  }
  const status = INTERRUPTION.exec(digestOf(result.error))?.[1]
  return status === undefined ? result : new Response(null, { status: Number(status) })
}

const setCookies = async ({ cookies: added }: SessionHeaders): Promise<void> => {
  if (added.length === 0) return
  const jar = await cookies()
  for (const cookie of added) jar.set(parseSetCookie(cookie))
}

// The sessions that the components of a page have loaded, by the headers of their request and by the store's name.
// Next.js has one object of headers for an action and for the page that is rendered after the action.
const pages = shared('next-pages:1', () => new WeakMap<Headers, Map<string, Promise<Session>>>())

const pageSession = async (name: string, store: () => SessionStore, begin: Begin): Promise<Session> => {
  const current = sessionInside(store)
  if (current !== undefined) return current
  const request = await headers()
  const sessions = pages.get(request) ?? new Map<string, Promise<Session>>()
  pages.set(request, sessions)
  const session = sessions.get(name) ?? loadPage(begin)
  sessions.set(name, session)
  return session
}

const loadPage = async (begin: Begin): Promise<Session> => {
  const { session, commit } = given((await begin()()) as E.Either<Error, SessionRequest>)
  after(commit)
  return session()
}
