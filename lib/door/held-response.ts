// A response whose first byte waits. What a handler writes is kept until it is let go, in order; the head
// is made at the last moment, so that a header can still be added. Nothing of it is lost: a handler that
// streams is told to wait (`write` gives false), and presses, so that its head does not wait for its end.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { FailureAnswer } from './failure.js'

export interface HeldResponse {
  /** Settles when the response cannot wait for the handler: it is ended, full, or its head was asked for. */
  readonly pressed: Promise<void>
  /** Lets go of what was written; from here on the response is the handler's own. */
  readonly release: () => void
  /**
   * Forgets what was written, answers with this instead, and ignores whatever the handler still writes. A
   * response that has begun is cut; one that has ended stays.
   */
  readonly replace: (answer: FailureAnswer) => void
}

type Headers = OutgoingHttpHeaders | readonly OutgoingHttpHeader[]

/** `onHead` is called once, right before the head is made, whoever makes it. */
export const holdResponse = (res: ServerResponse, onHead: () => void): HeldResponse => {
  const real = {
    writeHead: res.writeHead.bind(res),
    write: res.write.bind(res),
    end: res.end.bind(res),
    flushHeaders: res.flushHeaders.bind(res),
  }
  let press = (): void => undefined
  const pressed = new Promise<void>((resolve) => {
    press = resolve
  })
  const held = { calls: [] as (() => void)[], size: 0, ended: false, refused: false }
  const methods = heldMethods(res, held, press)
  Object.assign(res, methods)
  // What a handler looks at before it ends a response a second time.
  Object.defineProperty(res, 'writableEnded', { get: () => held.ended, configurable: true })

  const letGo = (): void => {
    Object.assign(res, real)
    Reflect.deleteProperty(res, 'writableEnded')
    res.writeHead = (status: number, ...rest: readonly unknown[]) => {
      res.writeHead = real.writeHead
      const [message, headers] = typeof rest[0] === 'string' ? [rest[0], rest[1]] : [undefined, rest[0] ?? rest[1]]
      applyHeaders(res, headers as Headers | undefined)
      onHead()
      return message === undefined ? real.writeHead(status) : real.writeHead(status, message)
    }
  }

  return {
    pressed,
    release: () => {
      letGo()
      for (const call of held.calls) call()
      // Node tells of the drain by itself when what was written just now did not fit either.
      if (held.refused && !res.writableNeedDrain && !res.writableEnded) process.nextTick(() => res.emit('drain'))
    },
    replace: (answer) => {
      letGo()
      if (!res.headersSent) sendAnswer(res, answer)
      // Too late for another answer: cut what is under way, so that it is not taken for a whole one.
      else if (!res.writableEnded) res.destroy()
      mute(res)
    },
  }
}

interface Held {
  readonly calls: (() => void)[]
  size: number
  ended: boolean
  refused: boolean
}

const heldMethods = (res: ServerResponse, held: Held, press: () => void) => {
  // Not at once: what a handler does right after `end` (a throw, a last edit) still belongs to it.
  const pressSoon = (): void => void setImmediate(press)
  return {
    writeHead: (...args: readonly unknown[]) => {
      held.calls.push(() => res.writeHead(...(args as [number])))
      return res
    },
    flushHeaders: () => {
      held.calls.push(() => res.flushHeaders())
      pressSoon()
    },
    write: (...args: readonly unknown[]) => {
      held.size += sizeOf(args[0])
      held.calls.push(() => res.write(...(args as [string])))
      if (held.size < res.writableHighWaterMark) return true
      held.refused = true
      pressSoon()
      return false
    },
    end: (...args: readonly unknown[]) => {
      held.ended = true
      held.calls.push(() => res.end(...(args as [string])))
      pressSoon()
      return res
    },
  }
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw new TypeError('the chunk of a response must be a string or a Uint8Array')
}

// As `writeHead` itself would: a header given here replaces one that was set before.
const applyHeaders = (res: ServerResponse, headers: Headers | undefined): void => {
  if (headers === undefined) return
  if (!Array.isArray(headers)) {
    for (const [name, value] of Object.entries(headers as OutgoingHttpHeaders)) if (value !== undefined) res.setHeader(name, value)
    return
  }
  const flat = headers.flat() as string[]
  const names = flat.filter((_, index) => index % 2 === 0)
  for (const name of names) res.removeHeader(name)
  for (const [index, name] of names.entries()) res.appendHeader(name, flat[index * 2 + 1] ?? '')
}

const sendAnswer = (res: ServerResponse, { status, headers, body }: FailureAnswer): void => {
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  res.statusMessage = ''
  res.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    ...headers,
  })
  res.end(body)
}

const mute = (res: ServerResponse): void => {
  Object.assign(res, {
    writeHead: () => res,
    write: () => true,
    end: () => res,
    flushHeaders: () => undefined,
  })
}
