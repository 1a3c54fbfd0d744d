// What a door is made of, for whoever writes another one: docs/doors.md does.

export type { CookieOptions } from './cookie.js'
export { holdResponse } from './deferred-response.js'
export {
  answerFailure,
  type FailedRequest,
  type FailureAnswer,
  type OnFailure,
  ResponseRefused,
} from './errors.js'
export type { TrustProxy } from './forwarded.js'
export { type AnswerHeaders, type CacheHeaders, cacheHeaders } from './response-headers.js'
export {
  type Answered,
  answered,
  conduct,
  type DoorOptions,
  type FailureOptions,
  openDoor,
  type ProxyOptions,
  type RequestLife,
  type Visit,
  visitOf,
  visitOfRequest,
  type WaitingResponse,
} from './session-request.js'
