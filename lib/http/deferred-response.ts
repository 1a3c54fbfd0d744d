// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added.
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { nextTick, setImmediate } from '../core/process.js'
import type { ErrorResponse } from './errors.js'
import { cacheHeaders, type SessionHeaders } from './response-headers.js'
import { deferStream, install, type OverStream } from './response-methods.js'
import {
  appendHeader,
  type Call,
  callReal,
  type Deferred,
  forgetMessage,
  newDeferred,
  sendErrorResponse,
} from './response-state.js'
import type { PendingResponse } from './session-request.js'

export interface DeferredResponse extends PendingResponse {
  /** Takes back what was written, while nothing of it went out. */
  readonly reset: () => void
}

/**
 * Holds `res`. `isFailure` is asked of the status that is to go out. `answer` says what a client gets instead of
 * a response that failed; or it is a function that has a framework answer, to which the response is given back
 * as it was. One that has begun by then is cut, so that it is not taken for a whole one; one that has ended stays.
 */
export const deferResponse = (
  res: ServerResponse,
  answer: (failure: unknown) => ErrorResponse | (() => void),
  isFailure: (status: number | undefined) => boolean = () => false,
): DeferredResponse => {
  const deferral = defer(res)
  return {
    mustFlush: new Promise((resolve) => {
      // Not at once: what a handler does right after (a throw, a last edit) still belongs to it.
      deferral.deferred.pressSoon = () => void setImmediate(resolve)
    }),
    isAbandoned: () => isGone(res),
    isFailure: () => isFailure(deferral.deferred.status),
    reset: () => {
      if (deferral.deferred.state === 'deferring' && deferral.deferred.headWritten) reset(deferral)
    },
    release: (cookie) => release(deferral, addCookie(res, cookie)),
    fail: (failure, cookie, isHandler = () => false) => {
      const instead = answer(failure)
      const addIt = addCookie(res, cookie)
      if (typeof instead !== 'function') cutShort(res, deferral.deferred, instead, addIt)
      else if (deferral.deferred.state === 'released' && res.headersSent) cut(res, deferral.deferred)
      else {
        reset(deferral)
        // A stream goes on; its parts are not the answer's.
        Object.assign(deferral.deferred, { state: 'released', addCookie: addIt, isStale: isHandler })
        instead()
      }
    },
  }
}

interface Deferral {
  readonly res: ServerResponse
  /** As it was when it began to be held. */
  readonly before: {
    readonly status: number
    readonly headers: OutgoingHttpHeaders
    readonly on: unknown
  }
  deferred: Deferred
  /** The method in its place, under whatever wraps it. */
  writeHead: Call
}

const defer = (res: ServerResponse): Deferral => {
  const before = { status: res.statusCode, headers: res.getHeaders(), on: Reflect.get(res, 'on') as unknown }
  const deferred = newDeferred(res)
  const deferral: Deferral = { res, before, deferred, writeHead: install(res, deferred) }
  deferStream(res, () => deferral.deferred.state === 'deferring')
  return deferral
}

/**
 * Takes back what was written. Whatever kept or wrapped a method for that answer has had its turn: a compressing
 * stream, say, may still write the rest of it, and would not write another answer. Its methods lead nowhere from now
 * on, and others are in their place.
 */
const reset = (deferral: Deferral): void => {
  const { res, deferred, before } = deferral
  if (deferred.headWritten) {
    deferred.state = 'failed'
    deferral.deferred = { ...newDeferred(res), real: deferred.real, pressSoon: deferred.pressSoon }
    deferral.writeHead = install(res, deferral.deferred)
  }
  deferred.calls.splice(0)
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  for (const [name, value] of Object.entries(before.headers))
    if (value !== undefined) res.setHeader(name, value)
  res.statusCode = before.status
  if (Reflect.get(res, 'on') !== before.on) Reflect.set(res, 'on', before.on)
  forgetMessage(res)
}

const addCookie = (res: ServerResponse, added: SessionHeaders) => (): void => {
  for (const cookie of added.cookies) appendHeader(res, 'Set-Cookie', cookie)
  const own = { cacheControl: textOf(res, 'Cache-Control'), vary: textOf(res, 'Vary') }
  const { cacheControl, vary } = cacheHeaders(added, own)
  if (cacheControl !== undefined && cacheControl !== own.cacheControl)
    res.setHeader('Cache-Control', cacheControl)
  if (vary !== undefined && vary !== own.vary) res.setHeader('Vary', vary)
}

const textOf = (res: ServerResponse, name: string): string | undefined => {
  const value = res.getHeader(name)
  return value === undefined ? undefined : String(value)
}

const release = (deferral: Deferral, cookie: () => void): void => {
  const { res, deferred } = deferral
  deferred.state = 'released'
  res.statusCode = deferred.status ?? res.statusCode
  deferred.addCookie = cookie
  replay(deferral)
  // Node tells of the drain by itself when what was written just now did not fit either.
  if (deferred.rejected && !res.writableNeedDrain && !res.writableEnded) nextTick(() => res.emit('drain'))
}

/** What wraps `writeHead` has had its turn when the head was made for the first time. */
const replay = ({ res, deferred, writeHead }: Deferral): void => {
  const wrapped: unknown = Reflect.get(res, 'writeHead')
  Reflect.set(res, 'writeHead', writeHead)
  try {
    for (const call of deferred.calls.splice(0)) call()
  } finally {
    Reflect.set(res, 'writeHead', wrapped)
  }
}

const cutShort = (
  res: ServerResponse,
  deferred: Deferred,
  instead: ErrorResponse,
  cookie: () => void,
): void => {
  deferred.state = 'failed'
  if (res.headersSent) {
    cut(res, deferred)
    return
  }
  // Over HTTP/2 `end` calls `write`.
  deferred.state = 'released'
  const real = {
    writeHead: (status: number) => callReal(deferred, 'writeHead', [status]),
    end: (body: string) => callReal(deferred, 'end', [body]),
  }
  sendErrorResponse(res, real, instead, cookie)
  deferred.state = 'failed'
}

const cut = (res: ServerResponse, deferred: Deferred): void => {
  deferred.state = 'failed'
  if (!res.writableEnded) res.destroy()
}

/** A response of HTTP/2 tells it of its stream. */
const isGone = (res: ServerResponse & OverStream): boolean => res.stream?.destroyed ?? res.destroyed
