// What a door is made of, for whoever writes another one: docs/frameworks.md does.

export type { CookieOptions } from './cookie.js'
export { type CheckedRequest, isPrefetch } from './csrf.js'
export { deferResponse } from './deferred-response.js'
export {
  defaultErrorResponse,
  type ErrorRequest,
  type ErrorResponse,
  type OnError,
  ResponseRejected,
} from './errors.js'
export type { TrustProxy } from './forwarded.js'
export { type CacheHeaders, cacheHeaders, type SessionHeaders } from './response-headers.js'
export {
  type AdapterOptions,
  createSessionLoader,
  type ErrorOptions,
  type HandledRequest,
  handle,
  type PendingResponse,
  type ProxyOptions,
  type RequestInfo,
  requestInfo,
  runRequest,
  type SessionRequest,
  webRequestInfo,
} from './session-request.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './token-guard.js'
