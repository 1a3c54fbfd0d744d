// The adapter for Koa 2 and 3: a middleware.
import type { Middleware } from 'koa'
import type { Session } from '../store/contract.js'
import { deferResponse } from './deferred-response.js'
import { runWithEvents } from './request-events.js'
import { forwardedOf } from './request-info.js'
import { type AdapterOptions, createSessionLoader } from './session-request.js'

export type { AdapterOptions } from './session-request.js'

declare module 'koa' {
  interface ExtendableContext {
    /** Returns the current session. @throws `SessionClosed` once the response has begun. */
    currentSession: () => Session
  }
}

/**
 * A middleware for Koa. The middleware after this one has a current session, which is saved before Koa sends the
 * response. Nothing is saved if that middleware throws. Koa gets the error of that middleware or of the save. Behind a
 * proxy, set `app.proxy = true`.
 *
 * @throws `TypeError` for invalid options
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
    const { req, res, secure, ip: address } = ctx
    const { host } = forwardedOf(req, ctx.app.proxy)
    const info = { cookieHeader: req.headers.cookie, secure, address, host, request: req }
    const failures: unknown[] = []
    const defer = () =>
      deferResponse(res, (failure) => {
        failures.push(failure)
        return () => undefined
      })
    await runWithEvents([req, res], begin(info), defer, ({ session }) => {
      ctx.currentSession = session
      return next()
    })
    // An outer middleware or Koa itself responds to the failure.
    for (const failure of failures) throw failure
  }
}
