// The adapter for Fastify 4 and 5: a plugin.

import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
// The alias is needed, because @fastify/session declares another `Session` in Fastify's types.
import type { Session as CurrentSession } from '../store/contract.js'
import { deferResponse } from './deferred-response.js'
import { runWithEvents } from './request-events.js'
import { type AdapterOptions, createSessionLoader, type SessionRequest } from './session-request.js'

export type { AdapterOptions } from './session-request.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** Returns the current session. @throws `SessionClosed` once the response has begun. */
    currentSession: () => CurrentSession
  }
}

// A member, and not a `WeakMap`, for the reason that express.ts gives.
const SESSION_REQUEST = Symbol('session request of keyrow')

interface SessionMember {
  readonly [SESSION_REQUEST]?: SessionRequest
}

/**
 * A plugin for Fastify. All handlers and hooks after this plugin have a current session. The session is saved before
 * the first byte of the reply is sent, even if the reply is a stream or was hijacked. Nothing is saved if the status of
 * the reply is at least 500, or if a handler or a hook has failed and the status is at least 400. If the save fails,
 * Fastify's error handling gets the error. Behind a proxy, set Fastify's `trustProxy`.
 *
 * @throws `TypeError` for invalid options
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
  const erred = new WeakSet<FastifyRequest>()
  instance.decorateRequest('currentSession')
  instance.addHook('onRequest', (request, reply, done) => {
    const isFailure = (status = 500): boolean => status >= (erred.has(request) ? 400 : 500)
    const defer = () => deferResponse(reply.raw, errorReply(reply), isFailure)
    const { raw, headers, protocol, ip: address, host } = request
    const info = { cookieHeader: headers.cookie, secure: protocol === 'https', address, host, request }
    void runWithEvents([raw, reply.raw], begin(info), defer, (sessionRequest) => {
      Object.assign(request, { [SESSION_REQUEST]: sessionRequest })
      request.currentSession = sessionRequest.session
      done()
      // keyrow cannot see when the handlers end, so this promise never resolves. The reply starts the save.
      return new Promise(() => undefined)
    })
  })
  // A hook may have replaced the request's body with another stream, such as a decompressing stream. The listeners of
  // the new stream would run without the current session, so keyrow enters the scope again.
  instance.addHook('preValidation', (request: FastifyRequest & SessionMember, _, done) => {
    const sessionRequest = request[SESSION_REQUEST]
    if (sessionRequest === undefined) done()
    else sessionRequest.enter(done)
  })
  instance.addHook('onError', (request, _reply, _error, done) => {
    erred.add(request)
    done()
  })
  registered()
}

// With `skip-override` the hooks also apply to the instance that registers the plugin, as in Fastify's own plugins.
Object.assign(sessionPlugin, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: 'keyrow',
})

/** Makes the argument `answer` of `deferResponse`. Fastify responds to a failure, without the handler's headers. */
const errorReply = (reply: FastifyReply) => {
  const before = new Set(Object.keys(reply.getHeaders()))
  return (failure: unknown) => () => {
    for (const name of Object.keys(reply.getHeaders())) if (!before.has(name)) reply.removeHeader(name)
    reply.send(failure)
  }
}
