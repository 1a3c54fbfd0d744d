// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added.
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { nextTick, setImmediate } from '../core/process.js'
import type { FailureAnswer } from './errors.js'
import { type AnswerHeaders, cacheHeaders } from './response-headers.js'
import { holdStream, install, type OverStream } from './response-methods.js'
import {
  appendHeader,
  type Call,
  callReal,
  forgetMessage,
  type Held,
  newHeld,
  sendAnswer,
} from './response-state.js'
import type { WaitingResponse } from './session-request.js'

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
  const holding = hold(res)
  return {
    pressed: new Promise((resolve) => {
      // Not at once: what a handler does right after (a throw, a last edit) still belongs to it.
      holding.held.pressSoon = () => void setImmediate(resolve)
    }),
    isAbandoned: () => isGone(res),
    isFailure: () => isFailure(holding.held.status),
    retract: () => {
      if (holding.held.state === 'holding' && holding.held.begun) retract(holding)
    },
    release: (cookie) => release(holding, addCookie(res, cookie)),
    fail: (failure, cookie, isHandler = () => false) => {
      const instead = answer(failure)
      const addIt = addCookie(res, cookie)
      if (typeof instead !== 'function') cutShort(res, holding.held, instead, addIt)
      else if (holding.held.state === 'released' && res.headersSent) cut(res, holding.held)
      else {
        retract(holding)
        // A stream goes on; its parts are not the answer's.
        Object.assign(holding.held, { state: 'released', addCookie: addIt, isStale: isHandler })
        instead()
      }
    },
  }
}

interface Holding {
  readonly res: ServerResponse
  /** As it was when it began to be held. */
  readonly before: {
    readonly status: number
    readonly headers: OutgoingHttpHeaders
    readonly on: unknown
  }
  held: Held
  /** The method in its place, under whatever wraps it. */
  writeHead: Call
}

const hold = (res: ServerResponse): Holding => {
  const before = { status: res.statusCode, headers: res.getHeaders(), on: Reflect.get(res, 'on') as unknown }
  const held = newHeld(res)
  const holding: Holding = { res, before, held, writeHead: install(res, held) }
  holdStream(res, () => holding.held.state === 'holding')
  return holding
}

/**
 * Takes back what was written. Whatever kept or wrapped a method for that answer has had its turn: a compressing
 * stream, say, may still write the rest of it, and would not write another answer. Its methods lead nowhere from now
 * on, and others are in their place.
 */
const retract = (holding: Holding): void => {
  const { res, held, before } = holding
  if (held.begun) {
    held.state = 'failed'
    holding.held = { ...newHeld(res), real: held.real, pressSoon: held.pressSoon }
    holding.writeHead = install(res, holding.held)
  }
  held.calls.splice(0)
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  for (const [name, value] of Object.entries(before.headers))
    if (value !== undefined) res.setHeader(name, value)
  res.statusCode = before.status
  if (Reflect.get(res, 'on') !== before.on) Reflect.set(res, 'on', before.on)
  forgetMessage(res)
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

const release = (holding: Holding, cookie: () => void): void => {
  const { res, held } = holding
  held.state = 'released'
  res.statusCode = held.status ?? res.statusCode
  held.addCookie = cookie
  replay(holding)
  // Node tells of the drain by itself when what was written just now did not fit either.
  if (held.refused && !res.writableNeedDrain && !res.writableEnded) nextTick(() => res.emit('drain'))
}

/** What wraps `writeHead` has had its turn when the head was made for the first time. */
const replay = ({ res, held, writeHead }: Holding): void => {
  const wrapped: unknown = Reflect.get(res, 'writeHead')
  Reflect.set(res, 'writeHead', writeHead)
  try {
    for (const call of held.calls.splice(0)) call()
  } finally {
    Reflect.set(res, 'writeHead', wrapped)
  }
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
const isGone = (res: ServerResponse & OverStream): boolean => res.stream?.destroyed ?? res.destroyed
