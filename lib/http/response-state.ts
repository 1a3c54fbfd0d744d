// What a response that waits remembers: the calls of its handler, in order, until they are done or dropped.
import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { nextTick } from '../core/process.js'
import type { ErrorResponse } from './errors.js'

// The headers that `writeHead` takes, in all the forms that Node.js knows, as pairs.

type Value = string | readonly string[]

const textOf = (value: OutgoingHttpHeader): Value =>
  Array.isArray(value) ? value.map(String) : String(value)

/** Of an object; of `[name, value, name, value]`; or of `[[name, value], [name, value]]`. */
const headerPairs = (
  headers: OutgoingHttpHeaders | readonly OutgoingHttpHeader[],
): readonly (readonly [string, Value])[] => {
  if (!Array.isArray(headers))
    return Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, textOf(value)] as const],
    )
  const list = headers as readonly OutgoingHttpHeader[]
  if (list.every((pair) => Array.isArray(pair)))
    return list.map(([name, value]) => [String(name), textOf(value ?? '')])
  return list.flatMap((name, index) =>
    index % 2 === 0 ? [[String(name), textOf(list[index + 1] ?? '')] as const] : [],
  )
}

/**
 * Takes what `writeHead` was given, in all its forms, as `writeHead` would itself: a header given there replaces one
 * that was set before. Throws what `writeHead` throws.
 */
const setHead = (res: ServerResponse, [given, ...rest]: readonly unknown[]): void => {
  const status = Math.trunc(Number(given))
  if (!(status >= 100 && status <= 999))
    throw coded(RangeError, 'ERR_HTTP_INVALID_STATUS_CODE', `Invalid status code: ${String(given)}`)
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
  const text = message ?? (res.req.httpVersionMajor < 2 ? res.statusMessage : undefined)
  if (typeof text === 'string' && /[^\t\u0020-\u007e\u0080-\u00ff]/.test(text))
    throw coded(TypeError, 'ERR_INVALID_CHAR', 'Invalid character in statusMessage')
  setHeaders(res, headers as OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined)
  res.statusCode = status
  if (typeof message === 'string') res.statusMessage = message
}

const setHeaders = (
  res: ServerResponse,
  headers: OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined,
): void => {
  if (headers === undefined) return
  const pairs = headerPairs(headers)
  for (const [name] of pairs) res.removeHeader(name)
  for (const [name, value] of pairs) appendHeader(res, name, value)
}

/** Also for the responses of HTTP/2, which have learned to do it late. */
export const appendHeader = (res: ServerResponse, name: string, value: Value): void => {
  const before = res.getHeader(name)
  res.setHeader(name, before === undefined ? value : [before, value].flat().map(String))
}

/** HTTP/2 has no such message, and warns of it. */
export const forgetMessage = (res: ServerResponse): void => {
  if (res.req.httpVersionMajor < 2) res.statusMessage = ''
}

const coded = (kind: ErrorConstructor, code: string, message: string): Error =>
  Object.assign(new kind(message), { code })

// The errors of Node.js for these mistakes, by their codes: programs, and frameworks, look for them.

export const headersSent = ({ req }: ServerResponse, method: string): Error => {
  const verb = /^(set|append|remove|write)/.exec(method)?.[0] ?? 'set'
  return req.httpVersionMajor < 2
    ? coded(Error, 'ERR_HTTP_HEADERS_SENT', `Cannot ${verb} headers after they are sent to the client`)
    : coded(Error, 'ERR_HTTP2_HEADERS_SENT', 'Response has already been initiated.')
}

const writeAfterEnd = (): Error => coded(Error, 'ERR_STREAM_WRITE_AFTER_END', 'write after end')

const unwritable = (chunk: unknown): Error =>
  chunk === null
    ? coded(TypeError, 'ERR_STREAM_NULL_VALUES', 'May not write null values to stream')
    : coded(TypeError, 'ERR_INVALID_ARG_TYPE', 'the chunk of a response must be a string or a Uint8Array')

export type Method =
  | 'writeHead'
  | 'write'
  | 'end'
  | 'flushHeaders'
  | 'flush'
  | 'cork'
  | 'uncork'
  | 'addTrailers'
  | 'writeEarlyHints'
  | 'writeProcessing'

/**
 * What changes the head: an error once that is made, as without keyrow. After the end of the answer nothing happens:
 * of two answers the first goes out whole.
 */
export type Change = 'setHeader' | 'setHeaders' | 'appendHeader' | 'removeHeader'

export type Call = (...args: readonly unknown[]) => unknown

export interface Deferred {
  readonly res: ServerResponse
  /** Kept while `deferring`; then passed on; once failed, whatever the handler still writes goes nowhere. */
  state: 'deferring' | 'released' | 'failed'
  /** The response's own, as far as it has them: one of HTTP/2 does not have all. */
  readonly real: Readonly<Record<Method | Change, Call>>
  /** The response cannot wait much longer. */
  pressSoon: () => void
  readonly calls: (() => unknown)[]
  /** Adds the cookie, once, right before the head is made. */
  addCookie: () => void
  /** The head is made: nothing can be added to it. */
  head: boolean
  /** The head is being made for the first byte, not because the program asked for it. */
  implicit: boolean
  /** The status that was given away. */
  status: number | undefined
  headWritten: boolean
  ended: boolean
  size: number
  rejected: boolean
  corked: number
  /** Whether who calls is the handler whose request has failed, while a framework answers that. */
  isStale: () => boolean
}

const never = (): boolean => false
const nothing = (): void => undefined

export const newDeferred = (res: ServerResponse): Deferred => ({
  res,
  state: 'deferring',
  real: realOf(res as unknown as Deferred['real']),
  pressSoon: nothing,
  calls: [],
  addCookie: nothing,
  head: false,
  implicit: false,
  status: undefined,
  headWritten: false,
  ended: false,
  size: 0,
  rejected: false,
  corked: 0,
  isStale: never,
})

// By name and not in a loop: the engine then knows of what shape it is.
const realOf = (res: Deferred['real']): Deferred['real'] => ({
  writeHead: res.writeHead,
  write: res.write,
  end: res.end,
  flushHeaders: res.flushHeaders,
  flush: res.flush,
  cork: res.cork,
  uncork: res.uncork,
  addTrailers: res.addTrailers,
  writeEarlyHints: res.writeEarlyHints,
  writeProcessing: res.writeProcessing,
  setHeader: res.setHeader,
  setHeaders: res.setHeaders,
  appendHeader: res.appendHeader,
  removeHeader: res.removeHeader,
})

export const callReal = ({ res, real }: Deferred, name: Method | Change, args: readonly unknown[]): unknown =>
  Reflect.apply(real[name], res, args)

type By = Readonly<Record<Method, (deferred: Deferred, args: readonly unknown[]) => unknown>>

const keep = (deferred: Deferred, name: Method, args: readonly unknown[]): void => {
  deferred.calls.push(() => released[name](deferred, args))
}

/**
 * Node.js makes the head with the first byte, by calling `writeHead`, which programs wrap. So the wrappers run at
 * the same moment as without keyrow, and what they wrap `write` and `end` for knows of it.
 */
const makeHead = (deferred: Deferred): void => {
  if (deferred.head) return
  deferred.implicit = true
  try {
    deferred.res.writeHead(deferred.res.statusCode)
  } finally {
    deferred.implicit = false
  }
}

const begin = (deferred: Deferred, name: Method, args: readonly unknown[]): void => {
  makeHead(deferred)
  deferred.headWritten = true
  keep(deferred, name, args)
  deferred.pressSoon()
}

const deferring: By = {
  writeHead: (deferred, args) => {
    if (deferred.ended) return deferred.res
    if (deferred.head) throw headersSent(deferred.res, 'writeHead')
    setHead(deferred.res, args)
    deferred.head = deferred.headWritten = true
    deferred.status = deferred.res.statusCode
    // Of a head that nobody asked for Node.js knows more when it makes it: the length of a body that ends at once.
    if (!deferred.implicit) keep(deferred, 'writeHead', [deferred.status])
    return deferred.res
  },
  flushHeaders: (deferred, args) => begin(deferred, 'flushHeaders', args),
  flush: (deferred, args) => keep(deferred, 'flush', args),
  cork: (deferred, args) => {
    deferred.corked += 1
    keep(deferred, 'cork', args)
  },
  uncork: (deferred, args) => {
    deferred.corked = Math.max(0, deferred.corked - 1)
    keep(deferred, 'uncork', args)
  },
  addTrailers: (deferred, args) => (deferred.ended ? undefined : callReal(deferred, 'addTrailers', args)),
  writeEarlyHints: (deferred, args) => keep(deferred, 'writeEarlyHints', args),
  // It tells the client to wait, and nothing of the answer.
  writeProcessing: (deferred, args) =>
    deferred.headWritten
      ? keep(deferred, 'writeProcessing', args)
      : callReal(deferred, 'writeProcessing', args),
  end: (deferred, args) => {
    const [chunk] = args
    const hasChunk = typeof chunk !== 'function' && chunk !== undefined && chunk !== null
    if (hasChunk) sizeOf(chunk)
    if (deferred.ended) headersAlreadySent(deferred, args, hasChunk)
    else {
      begin(deferred, 'end', args)
      deferred.ended = true
      deferred.corked = 0
    }
    return deferred.res
  },
  write: (deferred, args) => {
    const size = sizeOf(args[0])
    if (deferred.ended) {
      headersAlreadySent(deferred, args, true)
      return false
    }
    deferred.size += size
    begin(deferred, 'write', args)
    deferred.rejected ||= deferred.size >= deferred.res.writableHighWaterMark
    return !deferred.rejected
  },
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw unwritable(chunk)
}

/** Of two answers the first goes out whole. The other one's callback is called, with an error if it wrote something. */
const headersAlreadySent = ({ res }: Deferred, args: readonly unknown[], isWriting: boolean): void => {
  const callback = args.find((arg) => typeof arg === 'function') as ((error?: unknown) => void) | undefined
  if (isWriting) nextTick(() => callback?.(writeAfterEnd()))
  else if (callback !== undefined) res.once('finish', callback)
}

const passed =
  (name: Method) =>
  (deferred: Deferred, args: readonly unknown[]): unknown =>
    callReal(deferred, name, args)

const released: By = {
  // Node makes the head by calling `writeHead`, also when the program does not.
  writeHead: (deferred, args) => {
    const { res, addCookie } = deferred
    // The second one is an error of Node's own.
    if (!res.headersSent) setHead(res, args)
    deferred.addCookie = nothing
    addCookie()
    return callReal(deferred, 'writeHead', [res.statusCode])
  },
  write: passed('write'),
  end: passed('end'),
  flushHeaders: passed('flushHeaders'),
  flush: passed('flush'),
  cork: passed('cork'),
  uncork: passed('uncork'),
  addTrailers: passed('addTrailers'),
  writeEarlyHints: passed('writeEarlyHints'),
  writeProcessing: passed('writeProcessing'),
}

const failed: By = {
  writeHead: ({ res }) => res,
  write: () => true,
  end: ({ res }) => res,
  flushHeaders: () => undefined,
  flush: () => undefined,
  cork: () => undefined,
  uncork: () => undefined,
  addTrailers: () => undefined,
  writeEarlyHints: () => undefined,
  writeProcessing: () => undefined,
}

const byState = { deferring, released, failed }

/** What a call does by now. */
export const called = (deferred: Deferred, name: Method, args: readonly unknown[]): unknown =>
  (deferred.isStale() ? failed : byState[deferred.state])[name](deferred, args)

/** The same of one that changes the head. */
export const changed = (deferred: Deferred, name: Change, args: readonly unknown[]): unknown => {
  const isDeferring = deferred.state === 'deferring'
  if (deferred.isStale() || (isDeferring && deferred.ended)) return deferred.res
  if (isDeferring && deferred.head) throw headersSent(deferred.res, name)
  return callReal(deferred, name, args)
}

// An answer in plain text, to a request that failed.

/** The response's own methods. */
interface Real {
  readonly writeHead: (status: number) => unknown
  readonly end: (body: string) => unknown
}

/** An answer that cannot be sent, such as one with the status 0, becomes a plain 500. */
export const sendErrorResponse = (
  res: ServerResponse,
  real: Real,
  answer: ErrorResponse,
  addCookie: () => void,
): void => {
  for (const { status, headers, body } of [
    answer,
    { status: 500, body: 'Something went wrong.\n' } as ErrorResponse,
  ])
    try {
      for (const name of res.getHeaderNames()) res.removeHeader(name)
      res.setHeader('Content-Type', 'text/plain; charset=utf-8')
      res.setHeader('Cache-Control', 'no-store')
      for (const [name, value] of Object.entries(headers ?? {})) res.setHeader(name, value)
      addCookie()
      res.setHeader('Content-Length', Buffer.byteLength(body))
      forgetMessage(res)
      real.writeHead(status)
      real.end(body)
      return
    } catch {
      // The next one is sent; after the last, the connection is cut.
    }
  res.destroy()
}
