// What a client is told when its request failed: decided here, in one place that a program can replace.
import { brandErrors, DriverError, eachErrorPrototype, isSessionError } from '../core/errors.js'

// What a door refuses by itself: a request, whatever its handler would have done; an answer.

/** Refused, with the status 403: it may be forged. */
export class RequestRejected extends Error {
  readonly _tag = 'RequestRejected'

  constructor(
    readonly status: 403,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }

  override get name(): string {
    return this._tag
  }
}

/** An answer that an adapter refuses, since it could not be sent, or not with the session's cookie. */
export class ResponseRejected extends Error {
  readonly _tag = 'ResponseRejected'

  override get name(): string {
    return this._tag
  }
}

brandErrors(RequestRejected, 'RequestRejected', {})
brandErrors(ResponseRejected, 'ResponseRejected', {})

/** An answer to a request that failed. */
export interface ErrorResponse {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string
}

/** What is known of the request that failed. */
export interface ErrorRequest {
  readonly method: string
  /** Without its query, which may hold what does not belong in a log. */
  readonly path: string
}

/**
 * Decides the answer to a failed request, and logs it. When the response had begun already the answer is
 * not used, and the connection is cut.
 */
export type OnError = (failure: unknown, request: ErrorRequest) => ErrorResponse

const logged: Readonly<Record<string, (failure: unknown) => unknown>> = {
  status: (failure) => answerTo(failure).status,
  statusCode: (failure) => answerTo(failure).status,
  headers: (failure) => answerTo(failure).headers,
  expose: () => false,
  getResponse: (failure) => () => {
    const { status, headers = {}, body } = answerTo(failure)
    return new Response(body, { status, headers })
  },
}

/**
 * From now on keyrow's errors, of all its copies in this process, say their status, by the names that frameworks look for (`status`, `statusCode`,
 * `headers`, `expose`, `getResponse`), so that a framework's own answer to them has it.
 */
export const setStatuses = (): void => {
  if (!given) eachErrorPrototype(giveStatus)
  given = true
}

let given = false

const giveStatus = (prototype: object): void => {
  for (const [name, get] of Object.entries(logged))
    if (!Object.hasOwn(prototype, name))
      Object.defineProperty(prototype, name, {
        get(this: unknown) {
          return get(this)
        },
        // A framework may note there what it has answered.
        set(this: object, value: unknown) {
          Object.defineProperty(this, name, { value, writable: true, configurable: true })
        },
        configurable: true,
      })
}

/**
 * 503 when the database is not available or a later try may succeed, 409 when the session ended or another request was first, 400 for a value that
 * cannot be stored (it most often comes from the client: U+0000 in a field, say), 500 for all else;
 * one line in the log, with the stack of what is not one of keyrow's own errors.
 */
export const defaultErrorResponse: OnError = (failure, { method, path }) => {
  const answer = answerTo(failure)
  const detail = isSessionError(failure) || failure instanceof RequestRejected ? String(failure) : failure
  // A path with `%c` in it would swallow the detail. Not "answered": a response that had begun is another one.
  const plain = path.replaceAll('%', '%%')
  console.error(`keyrow: ${method} ${plain} failed (${String(answer.status)}):`, detail)
  return answer
}

const unavailable: ErrorResponse = {
  status: 503,
  headers: { 'Retry-After': '5' },
  body: 'The service is not available at the moment.\n',
}

/** A statement that the server refused (a duplicate key, an error in the program's SQL) is the program's fault: 500. */
const answerTo = (failure: unknown): ErrorResponse => {
  if (failure instanceof RequestRejected)
    return { status: failure.status, headers: failure.headers, body: `${failure.message}\n` }
  if (failure instanceof DriverError && (failure.retryable || failure.kind === 'unavailable'))
    return unavailable
  switch (isSessionError(failure) ? failure._tag : undefined) {
    case 'SchemaMismatch':
      return unavailable
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
