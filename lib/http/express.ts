// The adapter for Express 4 and 5: a middleware.
import { subscribe } from 'node:diagnostics_channel'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Session } from '../store/contract.js'
import type { RequestInfo } from './csrf.js'
import { deferResponse } from './deferred-response.js'
import { addMember, type Call, runWithEvents } from './request-events.js'
import { forwardedOf } from './request-info.js'
import { type AdapterOptions, createSessionLoader, type PendingResponse } from './session-request.js'

export type { AdapterOptions } from './session-request.js'

// keyrow records an error when it occurs, before an error handler gets it. The router of Express 5.3 publishes errors
// on a diagnostics channel. For older versions, keyrow wraps the methods with which a router calls its handlers. Each
// copy of Express is wrapped only once. Only errors of requests that have passed this middleware are recorded.

// A member of the request and no `WeakMap`: V8 collects a value of a `WeakMap` that refers to its key only in full
// collections, so each request would outlive all quick ones.
const FOLLOWED = Symbol('followed by keyrow')

/** A followed request: the functions to call for an error, and the errors that were already reported. */
interface Followed {
  readonly [FOLLOWED]?: { readonly onError: readonly (() => void)[]; readonly seen: Set<unknown> }
}

const wrapped = new WeakSet()
let isSubscribed = false

/** Calls `onError` for each later error of a handler of this request, whether thrown, rejected or passed to `next`. */
const followErrors = (req: Followed & { readonly app?: unknown }, onError: () => void): void => {
  const { onError: outer = [], seen = new Set() } = req[FOLLOWED] ?? {}
  addMember(req, FOLLOWED, { onError: [onError, ...outer], seen })
  const router = routerOf(req.app)
  if (router === undefined || wrapped.has(router)) return
  wrapped.add(router)
  wrapLayers(router)
}

/** Subscribes to the channel once. The subscription must exist before the router gets the first request. */
const subscribeOnce = (): void => {
  if (!isSubscribed)
    subscribe('tracing:express.router.request:error', (message) => {
      const { req, error } = message as { readonly req: object; readonly error: unknown }
      note(req, error)
    })
  isSubscribed = true
}

/** Reports an error only once, although the error passes through one router after another. */
const note = (req: unknown, error: unknown): void => {
  const request = (req as Followed | undefined)?.[FOLLOWED]
  // A handler passes 'route' or 'router' to `next` to leave its route or its router. These strings are not errors.
  if (request === undefined || !error || error === 'route' || error === 'router') return
  if (request.seen.has(error)) return
  request.seen.add(error)
  for (const onError of request.onError) onError()
}

type Router = { readonly stack?: readonly object[] }
type Methods = Record<string, Call | undefined>

/** Returns the router: `_router` in Express 4, where reading `router` throws, and `router` in Express 5. */
const routerOf = (app: unknown): Router | undefined => {
  if (typeof app !== 'function') return undefined
  const { _router: old } = app as { readonly _router?: Router }
  return old ?? (app as { readonly router?: Router }).router
}

const wrapLayers = (router: Router): void => {
  const [layer] = router.stack ?? []
  if (layer === undefined) return
  const layers = Object.getPrototypeOf(layer) as Methods
  const routers = Object.getPrototypeOf(router) as Methods
  for (const name of ['handle_request', 'handleRequest']) wrap(layers, name, { req: 0, next: 2 })
  for (const name of ['handle_error', 'handleError']) wrap(layers, name, { error: 0, req: 1, next: 3 })
  // This method calls the callbacks of `app.param`. Only the router of Express 4 has it.
  wrap(routers, 'process_params', { req: 2, next: 4 })
}

/** The positions of `req`, `next` and the error among the parameters of a wrapped method. */
type Positions = { readonly req: number; readonly next: number; readonly error?: number }

const wrap = (owner: Methods, name: string, { req, next, error }: Positions): void => {
  const method = owner[name]
  if (method === undefined || wrapped.has(method)) return
  const noting: Call = function (this: unknown, ...args) {
    const request = args[req] as Followed | undefined
    if (request?.[FOLLOWED] === undefined) return Reflect.apply(method, this, args)
    if (error !== undefined) note(request, args[error])
    const passOn = args[next] as Call
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
  // eslint-disable-next-line @typescript-eslint/no-namespace -- Express's types are extended here
  namespace Express {
    interface Request {
      /** Returns the current session. @throws `SessionClosed` once the response has begun. */
      currentSession: () => Session
    }
  }
}

/** The members of Express's request that keyrow uses. `trust proxy` determines `secure`, `ip` and the host. */
export interface ExpressRequest extends IncomingMessage {
  readonly secure?: boolean
  readonly ip?: string | undefined
  readonly app?: { readonly get: (setting: 'trust proxy fn') => unknown }
  currentSession?: () => Session
}

/**
 * A middleware for Express. The handlers after this middleware have a current session, which is saved before the first
 * byte of the response is sent. Nothing is saved if the response is an error. A response is an error if its status is
 * at least 500. A status of at least 400 is also an error if a handler threw, rejected or passed an error to `next`. A
 * failure of the save is passed to `next`.
 *
 * @throws `TypeError` for invalid options
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
    const defer = (): PendingResponse => {
      let hasErred = false
      const response = deferResponse(
        res,
        (failure) => () => next(failure),
        (status = 500) => status >= 500 || (hasErred && status >= 400),
      )
      followErrors(req, () => {
        hasErred = true
        // If a handler responds and then fails, its response is discarded, so that Express's error handling can respond.
        response.reset()
      })
      return response
    }
    void runWithEvents([req, res], begin(new ExpressInfo(req)), defer, ({ session }) => {
      req.currentSession = session
      next()
      // keyrow cannot see when the handlers end, so this promise never resolves. The response starts the save.
      return new Promise(() => undefined)
    })
  }
}

// A class, for the reason that request-info.ts gives.
class ExpressInfo implements RequestInfo {
  readonly cookieHeader: string | undefined
  readonly secure: boolean
  readonly host: string | undefined

  constructor(readonly request: ExpressRequest) {
    const { secure = false, headers, socket, app } = request
    this.cookieHeader = headers.cookie
    this.secure = secure
    // This function of Express decides whether the sender is a trusted proxy. keyrow does not use `req.host`, because
    // this host has no port in Express 4.
    const trusts = app?.get('trust proxy fn') as TrustProxyFunction | undefined
    this.host = forwardedOf(request, trusts?.(socket.remoteAddress, 0) ?? false).host
  }

  /** Express parses headers at each read of `ip`, and most adapters have no token guard. */
  get address(): string | undefined {
    return this.request.ip
  }
}

type TrustProxyFunction = (address: string | undefined, hop: number) => boolean
