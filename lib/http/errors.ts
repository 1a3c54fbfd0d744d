// Chooses the response to a failed request. A program can replace this choice with the option `onError`.
import { brandErrors, ErrorWithStatus, isSessionError, responseBody } from '../core/errors.js'

/** The request was rejected, because it may be forged. The status of the response is 403. */
export class RequestRejected extends ErrorWithStatus {
  readonly _tag = 'RequestRejected'

  constructor(
    readonly status: 403,
    message: string,
    override readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }
}

/** The adapter cannot send the handler's response, or cannot add the session's cookie to it. */
export class ResponseRejected extends ErrorWithStatus {
  readonly _tag = 'ResponseRejected'
  readonly status = 500
}

brandErrors(RequestRejected, 'RequestRejected', {})
brandErrors(ResponseRejected, 'ResponseRejected', {})

export interface ErrorResponse {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string
}

/** The request that failed. */
export interface ErrorRequest {
  readonly method: string
  /** The path without its query. A query may contain secrets, which must not appear in a log. */
  readonly path: string
}

/**
 * Returns the response to a failed request, and logs the failure. If a response has already begun, the returned
 * response is not sent, and the connection is cut.
 */
export type OnError = (failure: unknown, request: ErrorRequest) => ErrorResponse

/**
 * The default `onError`. An error of keyrow has a status of its own, and any other error gets 500. The status is 503 if
 * the database is not available or a retry may succeed. It is 409 if the session has ended or another request made a
 * conflicting change first. It is 400 for a value that cannot be stored, such as U+0000 in a form, and 403 for a
 * `RequestRejected`. The errors of flows have statuses of their own too. `defaultErrorResponse` logs one line, and the
 * stack of an error that is not keyrow's.
 */
export const defaultErrorResponse: OnError = (failure, { method, path }) => {
  const error = isSessionError(failure) || failure instanceof ErrorWithStatus ? failure : undefined
  const { status = 500, headers = {} } = error ?? {}
  // `console.error` must not read a `%c` in the path as a format. The line says "failed" and not "responded", because a
  // client whose response has already begun gets no error response.
  console.error(
    `keyrow: ${method} ${path.replaceAll('%', '%%')} failed (${String(status)}):`,
    error ? String(error) : failure,
  )
  return { status, headers, body: error ? responseBody(error) : 'Something went wrong.\n' }
}

/** Returns the response of the program's `onError`, or the default response if `onError` itself throws. */
export const errorResponse = (
  onError: OnError = defaultErrorResponse,
  failure: unknown,
  { method = 'GET', url = '/' }: { readonly method?: string | undefined; readonly url?: string | undefined },
): ErrorResponse => {
  const request = { method, path: url.split('?')[0] ?? '/' }
  try {
    return onError(failure, request)
  } catch (error) {
    return defaultErrorResponse(error, request)
  }
}
