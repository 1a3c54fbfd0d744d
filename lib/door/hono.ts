// The door for Hono 4: a middleware.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { MiddlewareHandler } from 'hono'
import type { Session } from '../port/session-store.js'
import { type DoorOptions, openDoor, type ProxyOptions, visitOfRequest } from './door.js'
import { answered } from './request-life.js'
import { addCookie, cannotCarry, checkAnswer } from './web-response.js'

export interface SessionMiddlewareOptions extends DoorOptions, ProxyOptions {}

declare module 'hono' {
  interface ContextVariableMap {
    /** The current session as it is now. */
    currentSession: () => Session
  }
}

/** What `@hono/node-server` tells of the connection. */
interface NodeBindings {
  readonly incoming?: { readonly socket?: { readonly remoteAddress?: string } }
}

/**
 * A middleware for Hono that gives what comes after it a current session. It is saved when that is done, before
 * Hono answers; a body that is a stream follows later. A handler that throws leaves nothing behind, and `onError`
 * answers, as it does when a save fails.
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
  const begin = openDoor(options)
  return async (c, next) => {
    const address = (c.env as NodeBindings | undefined)?.incoming?.socket?.remoteAddress
    const visit = visitOfRequest(c.req.raw, options.trustProxy ?? false, address)
    const { result, cookie } = await answered(begin(visit), async ({ session }) => {
      c.set('currentSession', session)
      await next()
      // Hono has caught and answered it already.
      if (c.error !== undefined) throw c.error
      checkAnswer(c.res, session())
    })
    const unanswered = E.isLeft(result) && result.left !== c.error
    const given = unanswered ? new Response() : c.res
    // Hono would add the headers of the answer that was there to the next one: none stays of one that does not go
    // out, and of one that does, ours replace them.
    if (unanswered || O.isSome(cookie)) c.res = undefined
    if (O.isSome(cookie)) {
      const carrying = addCookie(given, cookie.value)
      if (carrying === undefined) throw cannotCarry('the browser goes on with the cookie that it has')
      c.res = carrying
    }
    if (unanswered) throw result.left
  }
}
