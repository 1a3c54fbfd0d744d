// The door for Hono 4: a middleware.
import * as E from 'fp-ts/lib/Either.js'
import type { MiddlewareHandler } from 'hono'
import type { Session } from '../store/contract.js'
import { bindEvents } from './request-events.js'
import {
  type AdapterOptions,
  createSessionLoader,
  handle,
  type ProxyOptions,
  webRequestInfo,
} from './session-request.js'
import { addHeaders, canCarry, cannotCarry, checkAnswer } from './web-response.js'

export interface SessionMiddlewareOptions extends AdapterOptions, ProxyOptions {}

declare module 'hono' {
  interface ContextVariableMap {
    /** The current session as it is now. @throws `SessionClosed` once the response has begun. */
    currentSession: () => Session
  }
}

/** What `@hono/node-server` tells of the connection. */
interface NodeBindings {
  readonly incoming?: { readonly socket?: { readonly remoteAddress?: string }; readonly emit?: unknown }
  readonly outgoing?: { readonly emit?: unknown }
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
  const begin = createSessionLoader(options)
  return async (c, next) => {
    const { incoming, outgoing } = (c.env as NodeBindings | undefined) ?? {}
    const address = incoming?.socket?.remoteAddress
    const info = webRequestInfo(c.req.raw, options.trustProxy ?? false, address)
    const { result, headers } = await handle(begin(info), async (sessionRequest) => {
      bindEvents(sessionRequest, ...[incoming, outgoing].filter(isEmitter))
      c.set('currentSession', sessionRequest.session)
      await next()
      // Hono has caught and answered it already.
      if (c.error !== undefined) throw c.error
      checkAnswer(c.res, sessionRequest.peek())
    })
    const unanswered = E.isLeft(result) && result.left !== c.error
    const given = unanswered ? new Response() : c.res
    // Hono would add the headers of the answer that was there to the next one: none stays of one that does not go
    // out, and of one that does, ours replace them.
    if (headers.cookies.length > 0 && !canCarry(given)) {
      c.res = undefined
      throw cannotCarry('the browser goes on with the cookie that it has')
    }
    const own = addHeaders(given, headers)
    if (unanswered || own !== given) c.res = undefined
    if (own !== given) c.res = own
    if (unanswered) throw result.left
  }
}

const isEmitter = (of: { readonly emit?: unknown } | undefined): of is { readonly emit: unknown } =>
  typeof of?.emit === 'function'
