// The adapter for Fastify 4 and 5: a plugin.

import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
// Beside @fastify/session there is another `Session` in Fastify's own types.
import type { Session as CurrentSession } from '../store/contract.js'
import { deferResponse } from './deferred-response.js'
import { bindEvents } from './request-events.js'
import { noSessionHeaders } from './response-headers.js'
import {
  type AdapterOptions,
  createSessionLoader,
  type RequestInfo,
  runRequest,
  type SessionRequest,
} from './session-request.js'

export type { AdapterOptions } from './session-request.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The current session as it is now. @throws `SessionClosed` once the response has begun. */
    currentSession: () => CurrentSession
  }
}

/**
 * A plugin for Fastify that gives all handlers and hooks after it a current session. It is saved before the first
 * byte of the reply goes out, a stream's or a hijacked one's too. A request that was handle with an error (a
 * status from 500 on; or from 400 on, when Fastify's error handling had it) leaves nothing behind; a save that
 * fails goes to the error handler. Behind a proxy, say so to Fastify (`trustProxy`).
 *
 * @example
 * ```ts
 * import { fastify } from 'fastify'
 * import { sessionPlugin } from 'keyrow/fastify'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const app = fastify()
 * app.register(sessionPlugin, { store: memoryStore() })
 * app.get('/', async (request) => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   return `visit ${sessionRef('visits')(request.currentSession())}`
 * })
 * ```
 */
export const sessionPlugin: FastifyPluginCallback<AdapterOptions> = (instance, options, registered) => {
  const begin = createSessionLoader(options)
  const isAnswered = new WeakMap<FastifyRequest, SessionRequest>()
  const erred = new WeakSet<FastifyRequest>()
  instance.decorateRequest('currentSession')
  instance.addHook('onRequest', (request, reply, done) => {
    const isFailure = (status = 500): boolean => status >= (erred.has(request) ? 400 : 500)
    const response = deferResponse(reply.raw, answering(reply), isFailure)
    const handle = (sessionRequest: SessionRequest): Promise<never> => {
      isAnswered.set(request, sessionRequest)
      bindEvents(sessionRequest, request.raw, reply.raw)
      request.currentSession = sessionRequest.session
      done()
      // The handler is done when it has handle.
      return new Promise(() => undefined)
    }
    runRequest(begin(requestInfo(request)), handle, response).catch((failure: unknown) =>
      response.fail(failure, noSessionHeaders),
    )
  })
  // A body that a hook replaced by another stream (decompressed, say) comes from elsewhere: the scope is entered again.
  instance.addHook('preValidation', (request, _, done) => {
    const sessionRequest = isAnswered.get(request)
    if (sessionRequest === undefined) done()
    else sessionRequest.enter(done)
  })
  instance.addHook('onError', (request, _reply, _error, done) => {
    erred.add(request)
    done()
  })
  registered()
}

const requestInfo = (request: FastifyRequest): RequestInfo => ({
  cookieHeader: request.headers.cookie,
  secure: request.protocol === 'https',
  address: request.ip,
  host: request.host,
  request,
})

// As Fastify's own plugins do: what it adds is not for its own children only.
Object.assign(sessionPlugin, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: 'keyrow',
})

/** Has Fastify answer a failure, without the headers that the handler has set since. */
const answering = (reply: FastifyReply) => {
  const before = new Set(Object.keys(reply.getHeaders()))
  return (failure: unknown) => () => {
    for (const name of Object.keys(reply.getHeaders())) if (!before.has(name)) reply.removeHeader(name)
    reply.send(failure)
  }
}
