// How the middleware for Express learns of errors as soon as they happen, before an error handler sees them. The router
// of Express 5.3 publishes them on a channel. Those of Express 4 and of earlier 5 do not: there the methods by which a
// router calls its handlers are wrapped, once for each copy of Express, and for the requests that are followed alone.

import { subscribe } from 'node:diagnostics_channel'

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
export const followErrors = (req: object & { readonly app?: unknown }, onError: () => void): void => {
  const { onError: outer = [], seen = new Set() } = followed.get(req) ?? {}
  followed.set(req, { onError: [onError, ...outer], seen })
  const router = routerOf(req.app)
  if (router === undefined || wrapped.has(router)) return
  wrapped.add(router)
  wrapLayers(router)
}

/** The channel is to be known before the first request is routed. */
export const subscribeOnce = (): void => {
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
