// Exports the parts from which authors build adapters for other frameworks. See docs/frameworks.md.

export type { BindingReply } from '../bound/endpoints.js'
export type { BoundOptions, UnprovenPolicy, UnprovenRequest } from './bound.js'
export type { CookieOptions } from './cookie.js'
export { type CheckedRequest, isPrefetch, type RequestInfo } from './csrf.js'
export { deferResponse } from './deferred-response.js'
export {
  defaultErrorResponse,
  type ErrorRequest,
  type ErrorResponse,
  type OnError,
  ResponseRejected,
} from './errors.js'
export type { TrustProxy } from './forwarded.js'
export { requestInfo, webRequestInfo } from './request-info.js'
export {
  type AdapterOptions,
  answeredBy,
  type CacheHeaders,
  cacheHeaders,
  createSessionLoader,
  type ErrorOptions,
  type HandledRequest,
  handle,
  type PendingResponse,
  type ProxyOptions,
  runRequest,
  type SessionHeaders,
  type SessionRequest,
} from './session-request.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './token-guard.js'
