// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added. The methods that do this stay in place:
// a program may have kept one, or wrapped it, and each still has to lead to the response later on.

import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import * as O from 'fp-ts/lib/Option.js'
import type { FailureAnswer } from './failure.js'
import { appendHeader, forgetMessage } from './headers.js'
import {
  type Call,
  type Held,
  holdingMethods,
  type Method,
  makeHead,
  methods,
  newHeld,
  nothing,
} from './holding.js'
import { sendAnswer } from './plain-answer.js'
import type { WaitingResponse } from './request-life.js'

/** What changes the head: not any more once it was given away, so that of two answers the first goes out whole. */
const changes = ['setHeader', 'setHeaders', 'appendHeader', 'removeHeader'] as const

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
  const held = newHeld(res)
  const before = { status: res.statusCode, headers: { ...res.getHeaders() } }
  const pressed = new Promise<void>((resolve) => {
    install(res, held, () => void setImmediate(resolve))
  })
  return {
    pressed,
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

const addCookie = (res: ServerResponse, cookie: O.Option<string>) => (): void => {
  if (O.isNone(cookie)) return
  appendHeader(res, 'Set-Cookie', cookie.value)
  // Whoever stored this answer would give one visitor's session to the next.
  res.setHeader('Cache-Control', 'no-store')
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
  sendAnswer(res, held.real, instead, cookie)
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

/** `pressSoon`, not at once: what a handler does right after (a throw, a last edit) still belongs to it. */
const install = (res: ServerResponse, held: Held, pressSoon: () => void): void => {
  const holding = holdingMethods(res, held, pressSoon)
  const gone: Readonly<Record<Method, Call>> = { ...nothing, writeHead: () => res, end: () => res }
  for (const name of methods) {
    const released =
      name === 'writeHead' ? (...args: readonly unknown[]) => makeHead(res, held, args) : held.real[name]
    const byState = { holding: holding[name], released, failed: gone[name] }
    const call: Call = (...args) => (held.isStale() ? gone[name] : byState[held.state])(...args)
    if (name in res) Object.assign(res, { [name]: call })
  }
  for (const name of changes) {
    if (!(name in res)) continue
    const change = (res[name] as Call).bind(res)
    const isLate = (): boolean => (held.state === 'holding' && held.begun) || held.isStale()
    Object.assign(res, { [name]: (...args: readonly unknown[]) => (isLate() ? res : change(...args)) })
  }
  showHeld(res, held)
}

/** What a program looks at before it answers once more. */
const showHeld = (res: ServerResponse, held: Held): void => {
  const prototype = Object.getPrototypeOf(res) as object
  for (const [name, seen] of [
    ['headersSent', 'begun'],
    ['writableEnded', 'ended'],
  ] as const)
    Object.defineProperty(res, name, {
      get: () => (held.state === 'holding' ? held[seen] : Reflect.get(prototype, name, res)) as boolean,
      configurable: true,
    })
}
