// What a client is told when its request failed: decided here, in one place that a program can replace.

import { isSessionError } from '../base/errors.js'

/** An answer to a request that failed. */
export interface FailureAnswer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string
}

/** What is known of the request that failed. */
export interface FailedRequest {
  readonly method: string
  /** Without its query, which may hold what does not belong in a log. */
  readonly path: string
}

/**
 * Decides the answer to a failed request, and logs it. When the response had begun already the answer is
 * not used, and the connection is cut.
 */
export type OnFailure = (failure: unknown, request: FailedRequest) => FailureAnswer

/**
 * 503 when the store failed, 409 when the session ended or another request was first, 400 for a value that
 * cannot be stored (it most often comes from the client: U+0000 in a field, say), 500 for all else;
 * one line in the log, with the stack of what is not one of keyrow's own errors.
 */
export const answerFailure: OnFailure = (failure, { method, path }) => {
  const answer = answerTo(failure)
  const detail = isSessionError(failure) ? String(failure) : failure
  // Not "answered": a response that had begun is another one.
  console.error(`keyrow: ${method} ${path} failed (${String(answer.status)}):`, detail)
  return answer
}

const answerTo = (failure: unknown): FailureAnswer => {
  switch (isSessionError(failure) ? failure._tag : undefined) {
    case 'DriverError':
    case 'SchemaMismatch':
      return {
        status: 503,
        headers: { 'Retry-After': '5' },
        body: 'The service is not available at the moment.\n',
      }
    case 'EncodeError':
      return { status: 400, body: 'That cannot be stored.\n' }
    case 'SessionGone':
      return { status: 409, body: 'Your session has ended; nothing was stored.\n' }
    case 'SaveConflict':
      return { status: 409, body: 'Another request was first; nothing was stored.\n' }
    default:
      return { status: 500, body: 'Something went wrong.\n' }
  }
}
