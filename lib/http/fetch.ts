// The door for servers of the fetch kind: a function from `Request` to `Response`, as Bun, Deno, workers and
// route handlers have it.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { Session } from '../store/contract.js'
import { ResponseRefused } from './errors.js'
import { type AnswerHeaders, cacheHeaders } from './response-headers.js'
import {
  answered,
  attempt,
  type DoorOptions,
  describe,
  type FailureOptions,
  failureAnswer,
  openDoor,
  type ProxyOptions,
  visitOfRequest,
} from './session-request.js'

export { answerFailure, type FailedRequest, type FailureAnswer, type OnFailure } from './errors.js'

// The answer of a handler that gives a `Response`: whether it is one, and the session's cookie on it.

/**
 * Looks at what a handler gave, before its session is saved. `undefined` is the answer of one that has upgraded its
 * connection. Throws a `ResponseRefused` for what is no response, for `Response.error()`, and where a new session
 * would be stored whose cookie cannot be sent.
 */
export const checkAnswer = (given: unknown, session: Session): void => {
  if (given !== undefined && !isResponse(given))
    throw new ResponseRefused(`the handler gave no response but ${typeof given}`)
  if (given !== undefined && given.status === 0)
    throw new ResponseRefused('the handler gave Response.error(), which no server can send')
  const isNew = O.isNone(session.snapshot) && !session.edits.isEmpty()
  if (isNew && !canCarry(given)) throw cannotCarry('nothing was stored')
}

export const cannotCarry = (what: string): ResponseRefused =>
  new ResponseRefused(
    `an answer that upgrades its connection cannot carry the session's cookie: ${what}. Store in a session, sign in and sign out in a request before it`,
  )

// Not by its class: a framework, or a package, may have one of its own.
const isResponse = (given: unknown): given is Response =>
  typeof given === 'object' && given !== null && 'status' in given && 'headers' in given

/** One that cannot be made anew (of an upgrade: 101) has to be changed itself, which some runtimes do not allow. */
export const canCarry = (response: Response | undefined): boolean => {
  if (response === undefined) return false
  if (canBeMade(response)) return true
  try {
    response.headers.delete('Set-Cookie-Probe')
    return true
  } catch {
    return false
  }
}

const canBeMade = ({ status }: Response): boolean => status >= 200 && status <= 599

/**
 * Bun keeps the type of a text body, and of a file, beside the headers, where only `clone` takes it along; a response
 * that is made anew from its body is sent as `application/octet-stream`.
 */
const HIDES_TYPES = typeof Response === 'function' && !new Response('text').headers.has('Content-Type')

/**
 * The response with the session's headers: another one, since a program may give the same response to every visitor,
 * and the next would get this one's session. One that has them already is given back, and so is one that cannot be
 * changed.
 */
export const addHeaders = (response: Response, added: AnswerHeaders): Response => {
  if (!canCarry(response)) return response
  const own = { cacheControl: headerOf(response, 'Cache-Control'), vary: headerOf(response, 'Vary') }
  const { cacheControl, vary } = cacheHeaders(added, own)
  if (added.cookies.length === 0 && cacheControl === own.cacheControl && vary === own.vary) return response
  const changed = canBeMade(response) ? another(response) : response
  const { headers } = changed
  for (const cookie of added.cookies) headers.append('Set-Cookie', cookie)
  if (cacheControl !== undefined) headers.set('Cache-Control', cacheControl)
  if (vary !== undefined) headers.set('Vary', vary)
  return changed
}

const headerOf = ({ headers }: Response, name: string): string | undefined => headers.get(name) ?? undefined

const another = (response: Response): Response => {
  if (HIDES_TYPES && !response.headers.has('Content-Type') && !response.bodyUsed) {
    const twin = response.clone()
    // Else what the twin's reader reads would be kept for this one too.
    response.body?.cancel().catch(() => undefined)
    return twin
  }
  const { body, status, statusText, headers } = response
  return new Response(body, { status, statusText, headers: new Headers(headers) })
}

export interface SessionFetchOptions extends DoorOptions, ProxyOptions, FailureOptions {
  /** The client's address, for the guard: what your server knows of the connection. */
  readonly addressOf?: (request: Request) => string | undefined
}

/**
 * A handler: it gives a response, a promise of one, or a `TaskEither`, which is run. One that has upgraded its
 * connection, as Bun does it, gives `undefined`.
 */
export type FetchHandler<R extends readonly unknown[]> = (request: Request, ...rest: R) => unknown

/**
 * A `fetch` handler that gives yours a current session. It is saved when yours has given its response, before
 * that goes out; a body that is a stream follows later. One that fails leaves nothing behind, and so
 * does one that gives no response, or `Response.error()`. What a server passes beside the request is passed on.
 *
 * @example
 * ```ts
 * import { sessionFetch } from 'keyrow/fetch'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const handle = sessionFetch({ store: memoryStore() })(async () => {
 *   const session = await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   return new Response(`visit ${sessionRef('visits')(session)}`)
 * })
 * console.log(await (await handle(new Request('https://shop.example/'))).text()) // visit 1
 * ```
 */
export const sessionFetch = (options: SessionFetchOptions) => {
  const begin = openDoor(options)
  const { addressOf, onFailure, trustProxy = false } = options
  return <R extends readonly unknown[]>(handler: FetchHandler<R>) =>
    async (request: Request, ...rest: R): Promise<Response> => {
      const visit = visitOfRequest(request, trustProxy, addressOf?.(request))
      const { result, headers } = await answered<Response>(begin(visit), async (life) => {
        const given = await attempt(() => handler(request, ...rest))
        if (E.isRight(given)) checkAnswer(given.right, life.peek())
        return given
      })
      const response = E.isRight(result) ? result.right : answerOf(onFailure, result.left, request)
      return headers.cookies.length > 0 && !canCarry(response)
        ? answerOf(onFailure, cannotCarry(LOST), request)
        : addHeaders(response, headers)
    }
}

const LOST = 'the browser goes on with the cookie that it has'

const answerOf = (onFailure: FailureOptions['onFailure'], failure: unknown, request: Request): Response => {
  const { pathname } = new URL(request.url)
  const { status, headers, body } = failureAnswer(onFailure, failure, describe(request.method, pathname))
  const common = { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' }
  return new Response(body, { status, headers: { ...common, ...headers } })
}
