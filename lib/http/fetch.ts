// The adapter for servers that pass a `Request` to a function and send its `Response`, such as Bun, Deno and workers.
import { type AdapterOptions, type ErrorOptions, type ProxyOptions, webHandler } from './session-request.js'
import { checkResponse, webResponse } from './web-response.js'

export { defaultErrorResponse, type ErrorRequest, type ErrorResponse, type OnError } from './errors.js'

export interface FetchHandlerOptions extends AdapterOptions, ProxyOptions, ErrorOptions {
  /** Returns the address from which the connection comes. The guard and `trustProxy` use this address. */
  readonly addressOf?: (request: Request) => string | undefined
}

/** Returns a response, a promise or `TaskEither` of a response, or `undefined` if Bun has upgraded the connection. */
export type FetchHandler<R extends readonly unknown[]> = (request: Request, ...rest: R) => unknown

/**
 * Wraps a `fetch` handler. Your handler has a current session, which is saved before the response is sent. The body may
 * be a stream that continues after the save. Nothing is saved if your handler fails, or returns `Response.error()` or a
 * value other than a response or `undefined`. If the server passes further arguments, your handler gets them too.
 *
 * @throws `TypeError` or `RangeError` for invalid options
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
  const handle = webHandler(options, checkResponse)
  const { addressOf, onError } = options
  return <R extends readonly unknown[]>(handler: FetchHandler<R>) =>
    async (request: Request, ...rest: R): Promise<Response> => {
      const run = (): unknown => handler(request, ...rest)
      return webResponse(await handle<Response>(request, addressOf?.(request), run), onError, request)
    }
}
