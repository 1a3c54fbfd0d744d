// Defers a response, so that its first byte waits for the save. The handler's calls are kept in order until the
// response is released or reset. The status and the headers are sent at the release, with the headers of the session.
import type { ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import { nextTick, setImmediate } from '../core/process.js'
import { type ErrorResponse, ResponseRejected } from './errors.js'
import type { Call } from './request-events.js'
import { appendHeader, callReal, clearStatusMessage, DeferredState, headersSent } from './response-methods.js'
import { changedHeaders, type PendingResponse, type SessionHeaders } from './session-request.js'

export interface DeferredResponse extends PendingResponse {
  /** Discards what the handler has written, if nothing was sent yet. */
  readonly reset: () => void
}

// Defers `res`. `isFailure` decides by the status whether a pending response is an error. `answer` returns the response
// to a failure, or a function that makes the framework respond after a reset of `res`. If the first byte was sent but
// the response has not ended, a failure cuts the connection, so that the client sees an incomplete response.
export const deferResponse = (
  res: ServerResponse,
  answer: (failure: unknown) => ErrorResponse | (() => void),
  isFailure: (status: number | undefined) => boolean = () => false,
): DeferredResponse => {
  let state = new DeferredState(res)
  deferStream(res, () => state.phase === 'deferring')
  return {
    mustFlush: new Promise((resolve) => {
      // The handler may still throw or edit the session right after its output, so the promise resolves a little later.
      const flush = (): void => void setImmediate(resolve)
      state.onFlush = flush
    }),
    // For HTTP/2, the stream of the response shows whether the client has disconnected.
    isAbandoned: () => (res as OverHttp2).stream?.destroyed ?? res.destroyed,
    isFailure: () => isFailure(state.status),
    reset: () => {
      if (state.phase === 'deferring' && state.headWritten) state = reset(state)
    },
    release: (headers) => release(state, addHeaders(res, headers)),
    fail: (failure, headers, isHandler = () => false) => {
      const instead = answer(failure)
      if (typeof instead !== 'function') replaceResponse(state, instead, addHeaders(res, headers))
      else if (state.phase === 'released' && res.headersSent) cut(state)
      else {
        state = reset(state)
        // A failed handler may still pipe a stream into `res`. This output must not get into the framework's response.
        Object.assign(state, { phase: 'released', addHeaders: addHeaders(res, headers), isStale: isHandler })
        instead()
      }
    },
  }
}

// Discards what the handler has written. Middleware may have kept or wrapped the old methods. For instance, a
// compressing stream may still write data. So new methods are installed, and the old methods discard further output.
const reset = (state: DeferredState): DeferredState => {
  const { res, before } = state
  if (state.headWritten) state.phase = 'failed'
  const next = state.headWritten ? new DeferredState(res, state) : state
  state.calls.splice(0)
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  for (const [name, value] of Object.entries(before.headers))
    if (value !== undefined) res.setHeader(name, value)
  res.statusCode = before.status
  if (Reflect.get(res, 'on') !== before.on) Reflect.set(res, 'on', before.on)
  clearStatusMessage(res)
  return next
}

const addHeaders = (res: ServerResponse, added: SessionHeaders) => (): void => {
  for (const cookie of added.cookies) appendHeader(res, 'Set-Cookie', cookie)
  const changed = changedHeaders(added, (name) => res.getHeader(name)?.toString())
  for (const [name, value] of changed) res.setHeader(name, value)
}

const release = (state: DeferredState, addHeaders: () => void): void => {
  const { res } = state
  state.phase = 'released'
  state.addHeaders = addHeaders
  res.statusCode = state.status ?? res.statusCode
  // The wrappers of `writeHead` already ran when the handler wrote the head. They must not run again.
  const wrapped: unknown = Reflect.get(res, 'writeHead')
  Reflect.set(res, 'writeHead', state.writeHead)
  try {
    for (const call of state.calls.splice(0)) call()
  } finally {
    Reflect.set(res, 'writeHead', wrapped)
  }
  // If a deferred `write` has returned false, the handler may wait for `drain`. If all data has fitted into the buffer
  // of Node.js, Node.js emits no `drain`, so keyrow emits it.
  if (state.needsDrain && !res.writableNeedDrain && !res.writableEnded) nextTick(() => res.emit('drain'))
}

const replaceResponse = (state: DeferredState, instead: ErrorResponse, addHeaders: () => void): void => {
  // The phase changes first, because `headersSent` reads it. Over HTTP/2 the methods that `end` calls read it, too.
  state.phase = 'released'
  if (!state.res.headersSent) sendErrorResponse(state, instead, addHeaders)
  else if (!state.res.writableEnded) state.res.destroy()
  state.phase = 'failed'
}

const cut = (state: DeferredState): void => {
  state.phase = 'failed'
  if (!state.res.writableEnded) state.res.destroy()
}

// Sends an error response as plain text. If `response` is invalid, a plain 500 is sent.
const sendErrorResponse = (state: DeferredState, response: ErrorResponse, addHeaders: () => void): void => {
  const { res } = state
  const fallback: ErrorResponse = { status: 500, body: 'Something went wrong.\n' }
  for (const { status, headers = {}, body } of [response, fallback])
    try {
      for (const name of res.getHeaderNames()) res.removeHeader(name)
      res.setHeader('Content-Type', 'text/plain; charset=utf-8')
      res.setHeader('Cache-Control', 'no-store')
      for (const [name, value] of Object.entries(headers)) res.setHeader(name, value)
      addHeaders()
      res.setHeader('Content-Length', Buffer.byteLength(body))
      clearStatusMessage(res)
      callReal(state, [status], 'writeHead')
      callReal(state, [body], 'end')
      return
    } catch {
      // The loop sends the fallback next. If the fallback fails too, the connection is cut.
    }
  res.destroy()
}

// A program can also write to the stream of an HTTP/2 response. While the response is deferred, the stream's methods
// call the methods of the response. So nothing is sent before the save, and the response gets its cookie.

type OverHttp2 = ServerResponse & { readonly stream?: ServerHttp2Stream }

type StreamMethods = Record<'respond' | 'respondWithFD' | 'respondWithFile' | 'write' | 'end', Call>

/** Replaces the stream's methods for as long as `isPending` returns true. */
const deferStream = (res: OverHttp2, isPending: () => boolean): void => {
  const { stream } = res
  if (stream === undefined) return
  const methods = stream as unknown as StreamMethods
  const response = res as unknown as StreamMethods
  const end: Call = methods.end.bind(stream)
  const replacements: StreamMethods = {
    respond: respond(res) as Call,
    write: (...args) => response.write(...args),
    // When a client has disconnected, Node.js itself ends the stream.
    end: (...args) => (stream.aborted || stream.destroyed ? end(...args) : response.end(...args)),
    respondWithFD: rejectFile('respondWithFD'),
    respondWithFile: rejectFile('respondWithFile'),
  }
  for (const [key, replacement] of Object.entries(replacements)) {
    const name = key as keyof StreamMethods
    const real: Call = methods[name].bind(stream)
    const method: Call = (...args) => (isPending() ? replacement(...args) : real(...args))
    methods[name] = method
  }
}

const rejectFile = (name: string) => () => {
  throw new ResponseRejected(
    `stream.${name} would respond before the session is saved: pipe the file to the response`,
  )
}

const respond =
  (res: ServerResponse): ServerHttp2Stream['respond'] =>
  (headers = {}, options = {}) => {
    if (options.waitForTrailers === true)
      throw new ResponseRejected('stream.respond: add trailers with the method addTrailers of the response')
    if (res.headersSent) throw headersSent(res, 'respond')
    const { ':status': status = 200, ...fields } = headers
    for (const [name, value] of Object.entries(fields))
      if (value !== undefined && !name.startsWith(':')) appendHeader(res, name, [value].flat().map(String))
    res.statusCode = Number(status)
    if (options.endStream === true) res.end()
    else res.flushHeaders()
  }
