// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added. Nothing of it is lost: a handler that
// streams is told to wait (`write` gives false), and presses, so that its head does not wait for its end.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import * as O from 'fp-ts/lib/Option.js'
import type { FailureAnswer } from './failure.js'
import type { WaitingResponse } from './request-life.js'

type Method = 'writeHead' | 'write' | 'end' | 'flushHeaders'
type Headers = OutgoingHttpHeaders | readonly OutgoingHttpHeader[]

/** What was asked of the response while it was held. */
interface Held {
  readonly calls: (() => void)[]
  size: number
  ended: boolean
  refused: boolean
}

/**
 * Holds `res`. `onCookie` adds the cookie right before the head is made, whoever makes it; `answer` says
 * what a client gets instead of a response that failed. One that has begun by then is cut, so that it is
 * not taken for a whole one; one that has ended stays.
 */
export const holdResponse = (
  res: ServerResponse,
  onCookie: (cookie: string) => void,
  answer: (failure: unknown) => FailureAnswer,
): WaitingResponse => {
  const restore = keepMethods(res)
  const held: Held = { calls: [], size: 0, ended: false, refused: false }
  const pressed = new Promise<void>((resolve) => {
    hold(res, held, resolve)
  })
  return {
    pressed,
    release: (cookie) => {
      restore()
      if (O.isSome(cookie)) beforeHead(res, () => onCookie(cookie.value))
      replay(res, held)
    },
    fail: (failure, cookie) => {
      const instead = answer(failure)
      restore()
      if (!res.headersSent) sendAnswer(res, instead, () => O.map(onCookie)(cookie))
      else if (!res.writableEnded) res.destroy()
      mute(res)
    },
  }
}

/** Gives the function that puts the methods back as they are now: another wrapper's may be among them. */
const keepMethods = (res: ServerResponse): (() => void) => {
  const names: readonly Method[] = ['writeHead', 'write', 'end', 'flushHeaders']
  const kept = names.map((name) => [name, Object.getOwnPropertyDescriptor(res, name)] as const)
  return () => {
    Reflect.deleteProperty(res, 'writableEnded')
    for (const [name, descriptor] of kept) {
      Reflect.deleteProperty(res, name)
      if (descriptor !== undefined) Object.defineProperty(res, name, descriptor)
    }
  }
}

const hold = (res: ServerResponse, held: Held, press: () => void): void => {
  // Not at once: what a handler does right after `end` (a throw, a last edit) still belongs to it.
  const pressSoon = (): void => void setImmediate(press)
  const keep = (method: Method, args: readonly unknown[]): ServerResponse => {
    held.calls.push(() => void (res[method] as (...args: readonly unknown[]) => unknown)(...args))
    if (method === 'end' || method === 'flushHeaders') pressSoon()
    return res
  }
  Object.assign(res, {
    writeHead: (...args: readonly unknown[]) => keep('writeHead', args),
    flushHeaders: (...args: readonly unknown[]) => void keep('flushHeaders', args),
    end: (...args: readonly unknown[]) => {
      held.ended = true
      return keep('end', args)
    },
    write: (...args: readonly unknown[]) => {
      held.size += sizeOf(args[0])
      keep('write', args)
      if (held.size < res.writableHighWaterMark) return true
      held.refused = true
      pressSoon()
      return false
    },
  })
  // What a handler looks at before it ends a response a second time.
  Object.defineProperty(res, 'writableEnded', { get: () => held.ended, configurable: true })
}

const replay = (res: ServerResponse, held: Held): void => {
  for (const call of held.calls) call()
  // Node tells of the drain by itself when what was written just now did not fit either.
  if (held.refused && !res.writableNeedDrain && !res.writableEnded) process.nextTick(() => res.emit('drain'))
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw new TypeError('the chunk of a response must be a string or a Uint8Array')
}

// Node makes the head by calling `writeHead`, also when the program does not.
const beforeHead = (res: ServerResponse, act: () => void): void => {
  const restore = keepMethods(res)
  res.writeHead = (status: number, ...rest: readonly unknown[]) => {
    restore()
    const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
    setHeaders(res, headers as Headers | undefined)
    act()
    return message === undefined ? res.writeHead(status) : res.writeHead(status, message as string)
  }
}

// As `writeHead` would itself: a header given there replaces one that was set before.
const setHeaders = (res: ServerResponse, headers: Headers | undefined): void => {
  if (headers === undefined) return
  const pairs = Array.isArray(headers)
    ? pairsOf(headers.flat() as string[])
    : Object.entries(headers as OutgoingHttpHeaders)
  for (const [name] of pairs) res.removeHeader(name)
  for (const [name, value] of pairs) {
    if (value === undefined) continue
    if (Array.isArray(headers)) res.appendHeader(name, String(value))
    else res.setHeader(name, value)
  }
}

const pairsOf = (flat: readonly string[]): readonly (readonly [string, string])[] =>
  flat.flatMap((name, index) => (index % 2 === 0 ? [[name, flat[index + 1] ?? ''] as const] : []))

const sendAnswer = (
  res: ServerResponse,
  { status, headers, body }: FailureAnswer,
  addCookie: () => void,
): void => {
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  addCookie()
  res.statusMessage = ''
  res.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    ...headers,
  })
  res.end(body)
}

/** Whatever a handler still writes after its response failed goes nowhere. */
const mute = (res: ServerResponse): void => {
  Object.assign(res, {
    writeHead: () => res,
    write: () => true,
    end: () => res,
    flushHeaders: () => undefined,
  })
}
