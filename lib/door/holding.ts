// What a response that waits remembers: the calls of its handler, in order, until they are done or dropped.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { setHeaders } from './headers.js'

export type Method = 'writeHead' | 'write' | 'end' | 'flushHeaders' | 'writeEarlyHints' | 'writeProcessing'

/** What changes the head: not any more once it was given away, so that of two answers the first goes out whole. */
export type Change = 'setHeader' | 'setHeaders' | 'appendHeader' | 'removeHeader'

export type Call = (...args: readonly unknown[]) => unknown

export interface Held {
  readonly res: ServerResponse
  /** Kept while `holding`; then passed on; once failed, whatever the handler still writes goes nowhere. */
  state: 'holding' | 'released' | 'failed'
  /** The response's own, as far as it has them: one of HTTP/2 does not have all. */
  readonly real: Readonly<Record<Method | Change, Call>>
  /** The response cannot wait much longer. */
  pressSoon: () => void
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
  /** Whether who calls is the handler whose request has failed, while a framework answers that. */
  isStale: () => boolean
}

const never = (): boolean => false
const nothing = (): void => undefined

export const newHeld = (res: ServerResponse): Held => ({
  res,
  state: 'holding',
  real: realOf(res as unknown as Held['real']),
  pressSoon: nothing,
  calls: [],
  addCookie: nothing,
  head: false,
  status: undefined,
  begun: false,
  ended: false,
  size: 0,
  refused: false,
  isStale: never,
})

// By name and not in a loop: the engine then knows of what shape it is.
const realOf = (res: Held['real']): Held['real'] => ({
  writeHead: res.writeHead,
  write: res.write,
  end: res.end,
  flushHeaders: res.flushHeaders,
  writeEarlyHints: res.writeEarlyHints,
  writeProcessing: res.writeProcessing,
  setHeader: res.setHeader,
  setHeaders: res.setHeaders,
  appendHeader: res.appendHeader,
  removeHeader: res.removeHeader,
})

export const callReal = ({ res, real }: Held, name: Method | Change, args: readonly unknown[]): unknown =>
  Reflect.apply(real[name], res, args)

type By = Readonly<Record<Method, (held: Held, args: readonly unknown[]) => unknown>>

const keep = (held: Held, name: Method, args: readonly unknown[]): void => {
  held.calls.push(() => released[name](held, args))
}

const begin = (held: Held, name: Method, args: readonly unknown[]): void => {
  if (!held.begun) held.status = held.res.statusCode
  held.begun = true
  keep(held, name, args)
  held.pressSoon()
}

const holding: By = {
  writeHead: (held, args) => {
    if (held.head) throw new Error('writeHead: the head of this response was written already')
    held.head = held.begun = true
    held.status = Number(args[0])
    keep(held, 'writeHead', args)
    return held.res
  },
  flushHeaders: (held, args) => begin(held, 'flushHeaders', args),
  writeEarlyHints: (held, args) => keep(held, 'writeEarlyHints', args),
  writeProcessing: (held, args) => keep(held, 'writeProcessing', args),
  end: (held, args) => {
    if (held.ended) return held.res
    const [chunk] = args
    if (typeof chunk !== 'function' && chunk !== undefined && chunk !== null) sizeOf(chunk)
    begin(held, 'end', args)
    held.ended = true
    return held.res
  },
  write: (held, args) => {
    if (held.ended) return false
    held.size += sizeOf(args[0])
    begin(held, 'write', args)
    held.refused ||= held.size >= held.res.writableHighWaterMark
    return !held.refused
  },
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw new TypeError('the chunk of a response must be a string or a Uint8Array')
}

const passed =
  (name: Method) =>
  (held: Held, args: readonly unknown[]): unknown =>
    callReal(held, name, args)

const released: By = {
  // Node makes the head by calling `writeHead`, also when the program does not.
  writeHead: (held, [status, ...rest]) => {
    const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
    setHeaders(held.res, headers as OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined)
    const { addCookie } = held
    held.addCookie = nothing
    addCookie()
    return callReal(held, 'writeHead', message === undefined ? [status] : [status, message])
  },
  write: passed('write'),
  end: passed('end'),
  flushHeaders: passed('flushHeaders'),
  writeEarlyHints: passed('writeEarlyHints'),
  writeProcessing: passed('writeProcessing'),
}

const failed: By = {
  writeHead: ({ res }) => res,
  write: () => true,
  end: ({ res }) => res,
  flushHeaders: () => undefined,
  writeEarlyHints: () => undefined,
  writeProcessing: () => undefined,
}

const byState = { holding, released, failed }

/** What a call does by now. */
export const called = (held: Held, name: Method, args: readonly unknown[]): unknown =>
  (held.isStale() ? failed : byState[held.state])[name](held, args)

/** The same of one that changes the head. */
export const changed = (held: Held, name: Change, args: readonly unknown[]): unknown =>
  (held.state === 'holding' && held.begun) || held.isStale() ? held.res : callReal(held, name, args)
