// The adapter for Koa 2 and 3: a middleware.

import * as O from 'fp-ts/lib/Option.js'
import type { Middleware } from 'koa'
import type { Session } from '../port/session-store.js'
import { type DoorOptions, openDoor } from './door.js'
import { holdResponse } from './held-response.js'
import { conduct } from './request-life.js'

export type { DoorOptions } from './door.js'

declare module 'koa' {
  interface ExtendableContext {
    /** The current session as it is now. */
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
export const sessionMiddleware = (options: DoorOptions): Middleware => {
  const begin = openDoor(options)
  return async (ctx, next) => {
    const failures: unknown[] = []
    const response = holdResponse(ctx.res, (failure) => {
      failures.push(failure)
      return () => undefined
    })
    const visit = { cookieHeader: ctx.req.headers.cookie, secure: ctx.secure, address: ctx.ip }
    await conduct(
      begin(visit),
      ({ session }) => {
        ctx.currentSession = session
        return next()
      },
      response,
    ).catch((failure: unknown) => response.fail(failure, O.none))
    // Koa answers it, or whoever catches it on the way.
    for (const failure of failures) throw failure
  }
}
