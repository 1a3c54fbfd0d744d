// Checks a handler's `Response`, and adds the session's headers.
import { E, O } from '../core/prelude.cjs'
import type { Session } from '../store/contract.js'
import { errorResponse, type OnError, ResponseRejected } from './errors.js'
import { changedHeaders, type HandledRequest, type SessionHeaders } from './session-request.js'

/**
 * Checks a handler's result before the session is saved. `result` is `undefined` for an upgraded connection.
 *
 * @throws `ResponseRejected` for a non-response or `Response.error()`, and if a new session's cookie cannot be added
 */
export const checkResponse = (result: unknown, session: Session): void => {
  if (result !== undefined && !isResponse(result))
    throw new ResponseRejected(`the handler returned a ${typeof result}, not a response`)
  if (result !== undefined && result.status === 0)
    throw new ResponseRejected('the handler returned Response.error(), which no server can send')
  const isNew = O.isNone(session.snapshot) && !session.edits.isEmpty()
  if (isNew && !canCarry(result)) throw cannotCarry('nothing was stored')
}

const cannotCarry = (what: string): ResponseRejected =>
  new ResponseRejected(
    `a response that upgrades its connection cannot carry the session's cookie: ${what}. Change the session in an earlier request`,
  )

// The class is not checked, because frameworks and packages have `Response` classes of their own.
const isResponse = (result: unknown): result is Response =>
  typeof result === 'object' && result !== null && 'status' in result && 'headers' in result

/** Whether a cookie can be added. A 101 response cannot be copied, and some runtimes forbid changing its headers. */
const canCarry = (response: Response | undefined): boolean => {
  if (response === undefined) return false
  if (isCopyable(response)) return true
  try {
    response.headers.delete('Set-Cookie-Probe')
    return true
  } catch {
    return false
  }
}

const isCopyable = ({ status }: Response): boolean => status >= 200 && status <= 599

/** Whether the runtime, like Bun, keeps content types outside the headers. Only `clone` copies such a content type. */
const HIDES_TYPES = typeof Response === 'function' && !new Response('text').headers.has('Content-Type')

/**
 * Returns a copy of the response with the session's headers. A copy is needed, because a program may return the same
 * response to several clients. A response that needs no change is returned itself.
 */
export const addHeaders = (
  response: Response,
  added: SessionHeaders,
): E.Either<ResponseRejected, Response> => {
  const hasCookies = added.cookies.length > 0
  if (!canCarry(response))
    return hasCookies ? E.left(cannotCarry('the browser keeps the cookie that it has')) : E.right(response)
  const set = changedHeaders(added, (name) => response.headers.get(name) ?? undefined)
  if (!hasCookies && set.length === 0) return E.right(response)
  const changed = isCopyable(response) ? copyOf(response) : response
  for (const cookie of added.cookies) changed.headers.append('Set-Cookie', cookie)
  for (const [name, value] of set) changed.headers.set(name, value)
  return E.right(changed)
}

const copyOf = (response: Response): Response => {
  if (HIDES_TYPES && !response.headers.has('Content-Type') && !response.bodyUsed) {
    const copy = response.clone()
    // Without this call the original response would buffer everything that the server reads from the copy.
    response.body?.cancel().catch(() => undefined)
    return copy
  }
  const { body, status, statusText, headers } = response
  return new Response(body, { status, statusText, headers: new Headers(headers) })
}

/** Returns the response to a request, with the session's headers. For a failure, `onError` makes the response. */
export const webResponse = (
  { result, headers }: HandledRequest<Response>,
  onError: OnError | undefined,
  request: Request,
): Response => {
  const response = E.isRight(result) ? result.right : errorTo(onError, result.left, request)
  const own = addHeaders(response, headers)
  return E.isRight(own) ? own.right : errorTo(onError, own.left, request)
}

const errorTo = (onError: OnError | undefined, failure: unknown, request: Request): Response => {
  const { pathname } = new URL(request.url)
  const { status, headers, body } = errorResponse(onError, failure, { method: request.method, url: pathname })
  const common = { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' }
  return new Response(body, { status, headers: { ...common, ...headers } })
}
