// What a response that waits remembers: the calls of its handler, in order, until they are done or dropped.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { setHeaders } from './headers.js'

export const methods = [
  'writeHead',
  'write',
  'end',
  'flushHeaders',
  'writeEarlyHints',
  'writeProcessing',
] as const
export type Method = (typeof methods)[number]
export type Call = (...args: readonly unknown[]) => unknown

export interface Held {
  /** Kept while `holding`; then passed on; once failed, whatever the handler still writes goes nowhere. */
  state: 'holding' | 'released' | 'failed'
  /** The response's own, as far as it has them: one of HTTP/2 does not have all. */
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
  /** Whether who calls is the handler whose request has failed, while a framework answers that. */
  isStale: () => boolean
}

export const newHeld = (res: ServerResponse): Held => ({
  state: 'holding',
  real: Object.fromEntries(
    methods.flatMap((name) => (name in res ? [[name, (res[name] as Call).bind(res)]] : [])),
  ) as Held['real'],
  calls: [],
  addCookie: () => undefined,
  head: false,
  status: undefined,
  begun: false,
  ended: false,
  size: 0,
  refused: false,
  isStale: () => false,
})

export const nothing = {
  write: () => true,
  flushHeaders: () => undefined,
  writeEarlyHints: () => undefined,
  writeProcessing: () => undefined,
}

type Keep = (name: Method, args: readonly unknown[]) => void

export const holdingMethods = (
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
export const makeHead = (res: ServerResponse, held: Held, args: readonly unknown[]): unknown => {
  const [status, ...rest] = args
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
  setHeaders(res, headers as OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined)
  const { addCookie } = held
  held.addCookie = () => undefined
  addCookie()
  return message === undefined ? held.real.writeHead(status) : held.real.writeHead(status, message)
}
