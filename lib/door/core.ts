// What a door is made of, for whoever writes another one: docs/doors.md does.

export { type AnswerHeaders, type CacheHeaders, cacheHeaders } from './answer-headers.js'
export type { CookieOptions } from './cookie.js'
export {
  type DoorOptions,
  type FailureOptions,
  openDoor,
  type ProxyOptions,
  visitOf,
  visitOfRequest,
} from './door.js'
export { answerFailure, type FailedRequest, type FailureAnswer, type OnFailure } from './failure.js'
export type { TrustProxy } from './forwarded.js'
export { holdResponse } from './held-response.js'
export { ResponseRefused } from './refused.js'
export {
  type Answered,
  answered,
  conduct,
  type RequestLife,
  type Visit,
  type WaitingResponse,
} from './request-life.js'
