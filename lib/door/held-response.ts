// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added.

import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { type AnswerHeaders, cacheHeaders } from './answer-headers.js'
import type { FailureAnswer } from './failure.js'
import { appendHeader, forgetMessage } from './headers.js'
import { install } from './held-methods.js'
import { callReal, type Held, newHeld } from './holding.js'
import { sendAnswer } from './plain-answer.js'
import type { WaitingResponse } from './request-life.js'

export interface HeldResponse extends WaitingResponse {
  /** Takes back what was written, while nothing of it went out. */
  readonly retract: () => void
}

/**
 * Holds `res`. `isFailure` is asked of the status that is to go out. `answer` says what a client gets instead of
 * a response that failed; or it is a function that has a framework answer, to which the response is given back
 * as it was. One that has begun by then is cut, so that it is not taken for a whole one; one that has ended stays.
 */
export const holdResponse = (
  res: ServerResponse,
  answer: (failure: unknown) => FailureAnswer | (() => void),
  isFailure: (status: number | undefined) => boolean = () => false,
): HeldResponse => {
  const before = { status: res.statusCode, headers: res.getHeaders() }
  const held = newHeld(res)
  install(res, held)
  return {
    pressed: new Promise((resolve) => {
      // Not at once: what a handler does right after (a throw, a last edit) still belongs to it.
      held.pressSoon = () => void setImmediate(resolve)
    }),
    isAbandoned: () => isGone(res),
    isFailure: () => isFailure(held.status),
    retract: () => retractHeld(res, held, before),
    release: (cookie) => release(res, held, addCookie(res, cookie)),
    fail: (failure, cookie, isHandler = () => false) => {
      const instead = answer(failure)
      if (typeof instead !== 'function') cutShort(res, held, instead, addCookie(res, cookie))
      else if (held.state === 'released' && res.headersSent) cut(res, held)
      else {
        held.state = 'released'
        retract(res, held, before)
        held.addCookie = addCookie(res, cookie)
        // A stream goes on; its parts are not the answer's.
        held.isStale = isHandler
        instead()
      }
    },
  }
}

const retractHeld = (res: ServerResponse, held: Held, before: Before): void => {
  if (held.state === 'holding' && held.begun) retract(res, held, before)
}

const addCookie = (res: ServerResponse, added: AnswerHeaders) => (): void => {
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

const release = (res: ServerResponse, held: Held, cookie: () => void): void => {
  held.state = 'released'
  res.statusCode = held.status ?? res.statusCode
  held.addCookie = cookie
  for (const call of held.calls.splice(0)) call()
  // Node tells of the drain by itself when what was written just now did not fit either.
  if (held.refused && !res.writableNeedDrain && !res.writableEnded) process.nextTick(() => res.emit('drain'))
}

const cutShort = (res: ServerResponse, held: Held, instead: FailureAnswer, cookie: () => void): void => {
  held.state = 'failed'
  if (res.headersSent) {
    cut(res, held)
    return
  }
  // Over HTTP/2 `end` calls `write`.
  held.state = 'released'
  const real = {
    writeHead: (status: number) => callReal(held, 'writeHead', [status]),
    end: (body: string) => callReal(held, 'end', [body]),
  }
  sendAnswer(res, real, instead, cookie)
  held.state = 'failed'
}

const cut = (res: ServerResponse, held: Held): void => {
  held.state = 'failed'
  if (!res.writableEnded) res.destroy()
}

/** A response of HTTP/2 tells it of its stream. */
const isGone = (res: ServerResponse & { readonly stream?: { readonly destroyed: boolean } }): boolean =>
  res.stream?.destroyed ?? res.destroyed

interface Before {
  readonly status: number
  readonly headers: OutgoingHttpHeaders
}

/** As it was when it began to be held. */
const retract = (res: ServerResponse, held: Held, { status, headers }: Before): void => {
  held.head = held.begun = held.ended = held.refused = false
  held.size = 0
  held.status = undefined
  held.calls.splice(0)
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) res.setHeader(name, value)
  res.statusCode = status
  forgetMessage(res)
}
