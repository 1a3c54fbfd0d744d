// The adapter for Koa 2 and 3: a middleware.
import type { Middleware, ParameterizedContext } from 'koa'
import type { Session } from '../store/contract.js'
import { deferResponse } from './deferred-response.js'
import { bindEvents } from './request-events.js'
import { noSessionHeaders } from './response-headers.js'
import {
  type AdapterOptions,
  createSessionLoader,
  forwardedOf,
  type RequestInfo,
  runRequest,
} from './session-request.js'

export type { AdapterOptions } from './session-request.js'

declare module 'koa' {
  interface ExtendableContext {
    /** The current session as it is now. @throws `SessionClosed` once the response has begun. */
    currentSession: () => Session
  }
}

/**
 * A middleware for Koa that gives what comes after it a current session. It is saved when that is done, before
 * Koa answers. What it throws leaves nothing behind and goes on to Koa, and so does a save that fails. Behind a
 * proxy, say so to Koa (`app.proxy = true`).
 *
 * @example
 * ```ts
 * import Koa from 'koa'
 * import { sessionMiddleware } from 'keyrow/koa'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const app = new Koa()
 * app.use(sessionMiddleware({ store: memoryStore() }))
 * app.use(async (ctx) => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   ctx.body = `visit ${sessionRef('visits')(ctx.currentSession())}`
 * })
 * ```
 */
export const sessionMiddleware = (options: AdapterOptions): Middleware => {
  const begin = createSessionLoader(options)
  return async (ctx, next) => {
    const failures: unknown[] = []
    const response = deferResponse(ctx.res, (failure) => {
      failures.push(failure)
      return () => undefined
    })
    await runRequest(
      begin(requestInfo(ctx)),
      (sessionRequest) => {
        bindEvents(sessionRequest, ctx.req, ctx.res)
        ctx.currentSession = sessionRequest.session
        return next()
      },
      response,
    ).catch((failure: unknown) => response.fail(failure, noSessionHeaders))
    // Koa answers it, or whoever catches it on the way.
    for (const failure of failures) throw failure
  }
}

const requestInfo = (ctx: ParameterizedContext): RequestInfo => ({
  cookieHeader: ctx.req.headers.cookie,
  secure: ctx.secure,
  address: ctx.ip,
  host: forwardedOf(ctx.req, ctx.app.proxy).host,
  request: ctx.req,
})
