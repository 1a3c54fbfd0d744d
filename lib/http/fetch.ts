// The door for servers of the fetch kind: a function from `Request` to `Response`, as Bun, Deno, workers and
// route handlers have it.

import * as E from 'fp-ts/lib/Either.js'
import {
  type AdapterOptions,
  attempt,
  createSessionLoader,
  describe,
  type ErrorOptions,
  errorResponse,
  handle,
  type ProxyOptions,
  webRequestInfo,
} from './session-request.js'
import { addHeaders, canCarry, cannotCarry, checkAnswer } from './web-response.js'

export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'

export interface FetchHandlerOptions extends AdapterOptions, ProxyOptions, ErrorOptions {
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
 * import { fetchHandler } from 'keyrow/fetch'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const handle = fetchHandler({ store: memoryStore() })(async () => {
 *   const session = await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   return new Response(`visit ${sessionRef('visits')(session)}`)
 * })
 * console.log(await (await handle(new Request('https://shop.example/'))).text()) // visit 1
 * ```
 */
export const fetchHandler = (options: FetchHandlerOptions) => {
  const begin = createSessionLoader(options)
  const { addressOf, onError, trustProxy = false } = options
  return <R extends readonly unknown[]>(handler: FetchHandler<R>) =>
    async (request: Request, ...rest: R): Promise<Response> => {
      const info = webRequestInfo(request, trustProxy, addressOf?.(request))
      const { result, headers } = await handle<Response>(begin(info), async (sessionRequest) => {
        const given = await attempt(() => handler(request, ...rest))
        if (E.isRight(given)) checkAnswer(given.right, sessionRequest.peek())
        return given
      })
      const response = E.isRight(result) ? result.right : answerOf(onError, result.left, request)
      return headers.cookies.length > 0 && !canCarry(response)
        ? answerOf(onError, cannotCarry(LOST), request)
        : addHeaders(response, headers)
    }
}

const LOST = 'the browser goes on with the cookie that it has'

const answerOf = (onError: ErrorOptions['onError'], failure: unknown, request: Request): Response => {
  const { pathname } = new URL(request.url)
  const { status, headers, body } = errorResponse(onError, failure, describe(request.method, pathname))
  const common = { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' }
  return new Response(body, { status, headers: { ...common, ...headers } })
}
