// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added. The methods that do this stay in place:
// a program may have kept one, or wrapped it, and each still has to lead to the response later on.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import * as O from 'fp-ts/lib/Option.js'
import type { FailureAnswer } from './failure.js'
import { setHeaders } from './headers.js'
import { sendAnswer } from './plain-answer.js'
import type { WaitingResponse } from './request-life.js'

const methods = ['writeHead', 'write', 'end', 'flushHeaders', 'writeEarlyHints', 'writeProcessing'] as const
type Method = (typeof methods)[number]
type Call = (...args: readonly unknown[]) => unknown

/** What changes the head: not any more once it was given away, so that of two answers the first goes out whole. */
const changes = ['setHeader', 'setHeaders', 'appendHeader', 'removeHeader'] as const

interface Held {
  /** Kept while `holding`; then passed on; once failed, whatever the handler still writes goes nowhere. */
  state: 'holding' | 'released' | 'failed'
  readonly real: Readonly<Record<Method, Call>>
  readonly calls: (() => unknown)[]
  /** Adds the cookie, once, right before the head is made. */
  addCookie: () => void
  head: boolean
  /** The status that was given away. */
  status: number | undefined
  begun: boolean
  ended: boolean
  size: number
  refused: boolean
}

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
    isAbandoned: () => res.destroyed,
    isFailure: () => isFailure(held.status),
    retract: () => retractHeld(res, held, before),
    release: (cookie) => release(res, held, addCookie(res, cookie)),
    fail: (failure, cookie) => {
      const instead = answer(failure)
      if (typeof instead !== 'function') cutShort(res, held, instead, addCookie(res, cookie))
      else if (held.state === 'released' && res.headersSent) cut(res, held)
      else {
        held.state = 'released'
        retract(res, held, before)
        held.addCookie = addCookie(res, cookie)
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
  res.appendHeader('Set-Cookie', cookie.value)
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
  if (res.headersSent) cut(res, held)
  else sendAnswer(res, held.real, instead, cookie)
}

const cut = (res: ServerResponse, held: Held): void => {
  held.state = 'failed'
  if (!res.writableEnded) res.destroy()
}

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
  res.statusMessage = ''
}

const newHeld = (res: ServerResponse): Held => ({
  state: 'holding',
  real: Object.fromEntries(methods.map((name) => [name, (res[name] as Call).bind(res)])) as Held['real'],
  calls: [],
  addCookie: () => undefined,
  head: false,
  status: undefined,
  begun: false,
  ended: false,
  size: 0,
  refused: false,
})

/** `pressSoon`, not at once: what a handler does right after (a throw, a last edit) still belongs to it. */
const install = (res: ServerResponse, held: Held, pressSoon: () => void): void => {
  const holding = holdingMethods(res, held, pressSoon)
  const gone: Readonly<Record<Method, Call>> = { ...nothing, writeHead: () => res, end: () => res }
  for (const name of methods) {
    const released =
      name === 'writeHead' ? (...args: readonly unknown[]) => makeHead(res, held, args) : held.real[name]
    const byState = { holding: holding[name], released, failed: gone[name] }
    Object.assign(res, { [name]: (...args: readonly unknown[]) => byState[held.state](...args) })
  }
  for (const name of changes) {
    const change = (res[name] as Call).bind(res)
    const isLate = (): boolean => held.state === 'holding' && held.begun
    Object.assign(res, { [name]: (...args: readonly unknown[]) => (isLate() ? res : change(...args)) })
  }
  // What a program looks at before it answers once more.
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

const nothing = {
  write: () => true,
  flushHeaders: () => undefined,
  writeEarlyHints: () => undefined,
  writeProcessing: () => undefined,
}

type Keep = (name: Method, args: readonly unknown[]) => void

const holdingMethods = (
  res: ServerResponse,
  held: Held,
  pressSoon: () => void,
): Readonly<Record<Method, Call>> => {
  const keep: Keep = (name, args) => {
    const act = name === 'writeHead' ? () => makeHead(res, held, args) : () => held.real[name](...args)
    held.calls.push(act)
  }
  const begin: Keep = (name, args) => {
    if (!held.begun) held.status = res.statusCode
    held.begun = true
    keep(name, args)
    pressSoon()
  }
  return {
    writeHead: (...args) => {
      holdHead(held, keep, args)
      return res
    },
    flushHeaders: (...args) => begin('flushHeaders', args),
    writeEarlyHints: (...args) => keep('writeEarlyHints', args),
    writeProcessing: (...args) => keep('writeProcessing', args),
    end: (...args) => {
      holdEnd(held, begin, args)
      return res
    },
    write: (...args) => holdWrite(held, begin, args, res.writableHighWaterMark),
  }
}

const holdHead = (held: Held, keep: Keep, args: readonly unknown[]): void => {
  if (held.head) throw new Error('writeHead: the head of this response was written already')
  held.head = held.begun = true
  held.status = Number(args[0])
  keep('writeHead', args)
}

const holdEnd = (held: Held, begin: Keep, args: readonly unknown[]): void => {
  if (held.ended) return
  const [chunk] = args
  if (typeof chunk !== 'function' && chunk !== undefined && chunk !== null) sizeOf(chunk)
  begin('end', args)
  held.ended = true
}

const holdWrite = (held: Held, begin: Keep, args: readonly unknown[], room: number): boolean => {
  if (held.ended) return false
  held.size += sizeOf(args[0])
  begin('write', args)
  held.refused ||= held.size >= room
  return !held.refused
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw new TypeError('the chunk of a response must be a string or a Uint8Array')
}

// Node makes the head by calling `writeHead`, also when the program does not.
const makeHead = (res: ServerResponse, held: Held, args: readonly unknown[]): unknown => {
  const [status, ...rest] = args
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
  setHeaders(res, headers as OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined)
  const { addCookie } = held
  held.addCookie = () => undefined
  addCookie()
  return message === undefined ? held.real.writeHead(status) : held.real.writeHead(status, message)
}
