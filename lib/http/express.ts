// The adapter for Express 4 and 5: a middleware.
import { subscribe } from 'node:diagnostics_channel'
import type { IncomingMessage, ServerResponse } from 'node:http'
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

// How the middleware for Express learns of errors as soon as they happen, before an error handler sees them. The router
// of Express 5.3 publishes them on a channel. Those of Express 4 and of earlier 5 do not: there the methods by which a
// router calls its handlers are wrapped, once for each copy of Express, and for the requests that are followed alone.

type Method = (this: unknown, ...args: readonly unknown[]) => unknown
type Methods = Record<string, Method | undefined>

interface Followed {
  readonly onError: readonly (() => void)[]
  /** The errors that were told of already. */
  readonly seen: Set<unknown>
}

const followed = new WeakMap<object, Followed>()
const wrapped = new WeakSet()
let isSubscribed = false

/** Calls `onError` for each error that is thrown, rejected or passed to `next` in this request from now on. */
const followErrors = (req: object & { readonly app?: unknown }, onError: () => void): void => {
  const { onError: outer = [], seen = new Set() } = followed.get(req) ?? {}
  followed.set(req, { onError: [onError, ...outer], seen })
  const router = routerOf(req.app)
  if (router === undefined || wrapped.has(router)) return
  wrapped.add(router)
  wrapLayers(router)
}

/** The channel is to be known before the first request is routed. */
const subscribeOnce = (): void => {
  if (!isSubscribed)
    subscribe('tracing:express.router.request:error', (message) => {
      const { req, error } = message as { readonly req: object; readonly error: unknown }
      note(req, error)
    })
  isSubscribed = true
}

/** An error is reported once, where it happens, not again as it leaves one router after another. */
const note = (req: unknown, error: unknown): void => {
  const request = followed.get(req as object)
  // The two texts are how a handler leaves its route or its router.
  if (request === undefined || !error || error === 'route' || error === 'router') return
  if (request.seen.has(error)) return
  request.seen.add(error)
  for (const onError of request.onError) onError()
}

interface Router {
  readonly stack?: readonly object[]
}

/** The router of an application: `_router` in Express 4, where `router` throws; `router` in Express 5. */
const routerOf = (app: unknown): Router | undefined => {
  if (typeof app !== 'function') return undefined
  const { _router: old } = app as { readonly _router?: Router }
  return old ?? (app as { readonly router?: Router }).router
}

const wrapLayers = (router: Router): void => {
  const [layer] = router.stack ?? []
  if (layer === undefined) return
  const layers = Object.getPrototypeOf(layer) as Methods & object
  const routers = Object.getPrototypeOf(router) as Methods & object
  for (const name of ['handle_request', 'handleRequest']) wrap(layers, name, { req: 0, next: 2 })
  for (const name of ['handle_error', 'handleError']) wrap(layers, name, { error: 0, req: 1, next: 3 })
  // The callbacks of parameters; those of Express 5 cannot be reached by way of its router.
  wrap(routers, 'process_params', { req: 2, next: 4 })
}

/** Where in a method's parameters the request, the next handler and an error stand. */
interface Places {
  readonly req: number
  readonly next: number
  readonly error?: number
}

const wrap = (owner: Methods & object, name: string, { req, next, error }: Places): void => {
  const method = owner[name]
  if (method === undefined || wrapped.has(method)) return
  const noting: Method = function (this: unknown, ...args) {
    const request = args[req]
    if (!followed.has(request as object)) return Reflect.apply(method, this, args)
    if (error !== undefined) note(request, args[error])
    const passOn = args[next] as Method
    const noted = (...passed: readonly unknown[]): unknown => {
      note(request, passed[0])
      return passOn(...passed)
    }
    return Reflect.apply(method, this, args.with(next, noted))
  }
  wrapped.add(noting)
  owner[name] = noting
}

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- the place that Express's types have for it
  namespace Express {
    interface Request {
      /** The current session as it is now. @throws `SessionClosed` once the response has begun. */
      currentSession: () => Session
    }
  }
}

/** What the middleware knows of Express's request; `trust proxy` decides on `secure`, `ip` and the host. */
export interface ExpressRequest extends IncomingMessage {
  readonly secure?: boolean
  readonly ip?: string | undefined
  readonly app?: { readonly get: (setting: 'trust proxy fn') => unknown }
  currentSession?: () => Session
}

/**
 * A middleware for Express that gives what comes after it a current session. It is saved before the first byte
 * of the response goes out. A request that was answered with an error (a status from 500 on; or from 400 on, when
 * an error was thrown, rejected or passed to `next`) leaves nothing behind; a save that fails is passed to `next`.
 *
 * @example
 * ```ts
 * import express from 'express'
 * import { sessionMiddleware } from 'keyrow/express'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const app = express()
 * app.use(sessionMiddleware({ store: memoryStore() }))
 * app.get('/', async (req, res) => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   res.send(`visit ${sessionRef('visits')(req.currentSession())}`)
 * })
 * ```
 */
export const sessionMiddleware = (options: AdapterOptions) => {
  const begin = createSessionLoader(options)
  subscribeOnce()
  return (req: ExpressRequest, res: ServerResponse, next: (error?: unknown) => void): void => {
    let hasErred = false
    const response = deferResponse(
      res,
      (failure) => () => next(failure),
      (status = 500) => status >= 500 || (hasErred && status >= 400),
    )
    followErrors(req, () => {
      hasErred = true
      // A handler that answers and then fails has failed: Express's error handling can still answer instead.
      response.reset()
    })
    runRequest(
      begin(requestInfo(req)),
      (sessionRequest) => {
        bindEvents(sessionRequest, req, res)
        req.currentSession = sessionRequest.session
        next()
        // The handler is done when it has answered.
        return new Promise(() => undefined)
      },
      response,
    ).catch((failure: unknown) => response.fail(failure, noSessionHeaders))
  }
}

const requestInfo = (req: ExpressRequest): RequestInfo => ({
  cookieHeader: req.headers.cookie,
  secure: req.secure ?? false,
  address: req.ip,
  host: forwardedOf(req, isTrusted(req)).host,
  request: req,
})

/** Whether the proxy that sent the request is trusted. (`req.host` is without its port in Express 4.) */
const isTrusted = ({ app, socket }: ExpressRequest): boolean => {
  const trusts = app?.get('trust proxy fn') as TrustProxyFunction | undefined
  return trusts?.(socket.remoteAddress, 0) ?? false
}

type TrustProxyFunction = (address: string | undefined, hop: number) => boolean
