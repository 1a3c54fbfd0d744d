// The adapter for Hono 4: a middleware.

import type { MiddlewareHandler } from 'hono'
import { E } from '../core/prelude.cjs'
import type { Session } from '../store/contract.js'
import { bindEvents } from './request-events.js'
import { type AdapterOptions, type ProxyOptions, webHandler } from './session-request.js'
import { addHeaders, checkResponse } from './web-response.js'

export interface SessionMiddlewareOptions extends AdapterOptions, ProxyOptions {}

declare module 'hono' {
  interface ContextVariableMap {
    /** Returns the current session. @throws `SessionClosed` once the response has begun. */
    currentSession: () => Session
  }
}

/** The Node.js objects that `@hono/node-server` passes. */
interface NodeBindings {
  readonly incoming?: { readonly socket?: { readonly remoteAddress?: string }; readonly emit?: unknown }
  readonly outgoing?: { readonly emit?: unknown }
}

/**
 * A middleware for Hono. The handlers after this middleware have a current session, which is saved before Hono sends
 * the response. The body of the response may be a stream that continues after the save. Nothing is saved if a handler
 * throws. Hono's `onError` gets the error of the handler or of the save.
 *
 * @throws `TypeError` or `RangeError` for invalid options
 *
 * @example
 * ```ts
 * import { Hono } from 'hono'
 * import { sessionMiddleware } from 'keyrow/hono'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const app = new Hono()
 * app.use(sessionMiddleware({ store: memoryStore() }))
 * app.get('/', async (c) => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   return c.text(`visit ${sessionRef('visits')(c.var.currentSession())}`)
 * })
 * console.log(await (await app.request('/')).text()) // visit 1
 * ```
 */
export const sessionMiddleware = (options: SessionMiddlewareOptions): MiddlewareHandler => {
  const handle = webHandler(options, checkResponse)
  return async (c, next) => {
    const { incoming, outgoing } = (c.env as NodeBindings | undefined) ?? {}
    const address = incoming?.socket?.remoteAddress
    const { result, headers } = await handle(c.req.raw, address, async (sessionRequest) => {
      const emitters = [incoming, outgoing].flatMap((one) => (typeof one?.emit === 'function' ? [one] : []))
      bindEvents(sessionRequest, emitters)
      c.set('currentSession', sessionRequest.session)
      await next()
      // If a handler has failed, Hono has caught the error as `c.error`, and Hono's `onError` has made `c.res`.
      if (c.error !== undefined) throw c.error
      return c.res
    })
    const isUnhandled = E.isLeft(result) && result.left !== c.error
    if (E.isRight(result) && result.right !== c.res) {
      // keyrow itself has answered the request.
      c.res = undefined
      c.res = result.right as Response
    }
    const response = isUnhandled ? new Response() : c.res
    // Hono would copy the headers of the previous `c.res` to the next. The assignment of `undefined` prevents the copy.
    const own = addHeaders(response, headers)
    if (isUnhandled || E.isLeft(own) || own.right !== response) c.res = undefined
    if (E.isLeft(own)) throw own.left
    if (own.right !== response) c.res = own.right
    if (isUnhandled) throw result.left
  }
}
