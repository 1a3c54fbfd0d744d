// Defines the state and the methods of a deferred response. The methods stay installed after the response is released,
// because a program may have kept or wrapped one of them. All responses share the same functions, which find the state
// by a symbol. Separate functions would be slow, because V8 would give each response a hidden class of its own.
import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { nextTick } from '../core/process.js'
import { addMember, type Call } from './request-events.js'

type Method =
  | ('writeHead' | 'write' | 'end' | 'flushHeaders' | 'flush' | 'cork' | 'uncork' | 'addTrailers')
  | ('writeEarlyHints' | 'writeProcessing')
  | ('setHeader' | 'setHeaders' | 'appendHeader' | 'removeHeader')
type Methods = Readonly<Record<Method, Call>>

const doNothing = (): void => undefined

/** The state of a deferred response. A reset installs new methods with a new state. The old methods discard output. */
export class DeferredState {
  /** The response as it was when it was deferred. */
  readonly before: { readonly status: number; readonly headers: OutgoingHttpHeaders; readonly on: unknown }
  readonly real: Methods
  /** The installed `writeHead`, without the wrappers of other middleware. */
  readonly writeHead: Call
  /** `deferring`: output is kept. `released`: calls are passed on to Node.js. `failed`: output is discarded. */
  phase: 'deferring' | 'released' | 'failed' = 'deferring'
  readonly calls: (() => unknown)[] = []
  /** Called by `write`, `end` and `flushHeaders`. The response then no longer waits for the end of the handler. */
  onFlush: () => void
  /** Adds the session's headers once, right before the response's head is sent. */
  addHeaders = doNothing
  /** Whether `writeHead` was called. The program can then no longer change a header. */
  hasHead = false
  /** Whether keyrow, and not the program, has made the running call of `writeHead`. */
  isHeadImplicit = false
  status: number | undefined
  /** The value that the program reads as `headersSent`. */
  headWritten = false
  ended = false
  size = 0
  needsDrain = false
  corked = 0
  /** Whether the running code was started by a handler that has failed. Calls of the methods then have no effect. */
  isStale = (): boolean => false

  constructor(
    readonly res: ServerResponse,
    previous?: DeferredState,
  ) {
    const on: unknown = Reflect.get(res, 'on')
    this.before = previous?.before ?? { status: res.statusCode, headers: res.getHeaders(), on }
    this.real = previous?.real ?? realMethods(res)
    this.onFlush = previous?.onFlush ?? doNothing
    this.writeHead = installMethods(res, this)
  }
}

type Behaviour = (state: DeferredState, args: readonly unknown[], name: Method) => unknown

/** The action of a method in each phase. `stale` is the action while `isStale` returns true. */
type Behaviours = Readonly<Record<DeferredState['phase'] | 'stale', Behaviour>>

export const callReal: Behaviour = ({ res, real }, args, name) => Reflect.apply(real[name], res, args)

const returnResponse: Behaviour = ({ res }) => res

const keep: Behaviour = (state, args, name) => {
  state.calls.push(() => METHODS[name].released(state, args, name))
}

/** Calls `writeHead` before the first byte, as Node.js does. So a wrapper of `writeHead` runs before that byte. */
const begin: Behaviour = (state, args, name) => {
  if (!state.hasHead) {
    state.isHeadImplicit = true
    try {
      state.res.writeHead(state.res.statusCode)
    } finally {
      state.isHeadImplicit = false
    }
  }
  state.headWritten = true
  keep(state, args, name)
  state.onFlush()
}

const deferHead: Behaviour = (state, args) => {
  const { res } = state
  if (state.ended) return res
  if (state.hasHead) throw headersSent(res, 'writeHead')
  setHead(res, args)
  state.hasHead = state.headWritten = true
  state.status = res.statusCode
  // A call of `writeHead` by keyrow itself is not kept. So Node.js writes the head at the release. If the program
  // passes the whole body to `end`, Node.js then adds `Content-Length`.
  if (!state.isHeadImplicit) keep(state, [state.status], 'writeHead')
  return res
}

/** Sends the head with the session's headers. Node.js itself calls `writeHead` if the program does not call it. */
const sendHead: Behaviour = (state, args) => {
  const { res, addHeaders } = state
  // If the head was already sent, Node.js's own `writeHead` below throws.
  if (!res.headersSent) setHead(res, args)
  state.addHeaders = doNothing
  addHeaders()
  return callReal(state, [res.statusCode], 'writeHead')
}

const deferEnd: Behaviour = (state, args) => {
  const [chunk] = args
  const hasChunk = typeof chunk !== 'function' && chunk !== undefined && chunk !== null
  if (hasChunk) sizeOf(chunk)
  if (state.ended) ignoreSecond(state, args, hasChunk)
  else {
    begin(state, args, 'end')
    state.ended = true
    state.corked = 0
  }
  return state.res
}

const deferWrite: Behaviour = (state, args) => {
  const size = sizeOf(args[0])
  if (state.ended) {
    ignoreSecond(state, args, true)
    return false
  }
  state.size += size
  begin(state, args, 'write')
  state.needsDrain ||= state.size >= state.res.writableHighWaterMark
  return !state.needsDrain
}

const sizeOf = (chunk: unknown): number => {
  if (typeof chunk === 'string') return chunk.length
  if (chunk instanceof Uint8Array) return chunk.byteLength
  throw chunk === null
    ? coded(TypeError, 'ERR_STREAM_NULL_VALUES', 'May not write null values to stream')
    : coded(TypeError, 'ERR_INVALID_ARG_TYPE', 'the chunk of a response must be a string or a Uint8Array')
}

/** Ignores a call of `write` or `end` after `end`. The callback of a call with a chunk gets an error. */
const ignoreSecond = ({ res }: DeferredState, args: readonly unknown[], hasChunk: boolean): void => {
  const callback = args.find((arg) => typeof arg === 'function') as ((error?: unknown) => void) | undefined
  if (hasChunk) nextTick(() => callback?.(coded(Error, 'ERR_STREAM_WRITE_AFTER_END', 'write after end')))
  else if (callback !== undefined) res.once('finish', callback)
}

const deferCork: Behaviour = (state, args, name) => {
  state.corked = name === 'cork' ? state.corked + 1 : Math.max(0, state.corked - 1)
  keep(state, args, name)
}

// Changes a header. After `writeHead` the call throws, as in Node.js. After the response's end the call does nothing.
const changeHead: Behaviour = (state, args, name) => {
  if (state.ended) return state.res
  if (state.hasHead) throw headersSent(state.res, name)
  return callReal(state, args, name)
}

const method = (deferring: Behaviour, failed: Behaviour = doNothing, released = callReal): Behaviours => ({
  deferring,
  released,
  failed,
  stale: failed,
})

const header: Behaviours = { ...method(changeHead, callReal), stale: returnResponse }

const METHODS: Readonly<Record<Method, Behaviours>> = {
  writeHead: method(deferHead, returnResponse, sendHead),
  write: method(deferWrite, () => true),
  end: method(deferEnd, returnResponse),
  flushHeaders: method(begin),
  flush: method(keep),
  cork: method(deferCork),
  uncork: method(deferCork),
  addTrailers: method((state, args, name) => (state.ended ? undefined : callReal(state, args, name))),
  writeEarlyHints: method(keep),
  // The interim response 102 is sent at once. After the program's first output the call is kept like other calls.
  writeProcessing: method((state, args, name) => (state.headWritten ? keep : callReal)(state, args, name)),
  setHeader: header,
  setHeaders: header,
  appendHeader: header,
  removeHeader: header,
}

const NAMES = Object.keys(METHODS) as Method[]

/** Returns the response's current methods, including methods that other middleware has replaced. */
const realMethods = (res: ServerResponse): Methods => {
  const real = Object.create(Object.getPrototypeOf(res) as object) as Record<Method, unknown>
  for (const name of NAMES) if (Object.hasOwn(res, name)) real[name] = Reflect.get(res, name)
  return real as Methods
}

// A loop over names would slow down V8, so each method is assigned by its name. HTTP/2 responses lack some of these
// methods, so each optional method is replaced only if the response has it.
const replaceMethods = (res: Record<Method, Call>, methods: Methods): void => {
  res.writeHead = methods.writeHead
  res.write = methods.write
  res.end = methods.end
  res.setHeader = methods.setHeader
  res.removeHeader = methods.removeHeader
  res.addTrailers = methods.addTrailers
  // Compressing middleware adds `flush`.
  if ('flush' in res) res.flush = methods.flush
  if ('cork' in res) res.cork = methods.cork
  if ('uncork' in res) res.uncork = methods.uncork
  if ('flushHeaders' in res) res.flushHeaders = methods.flushHeaders
  if ('writeEarlyHints' in res) res.writeEarlyHints = methods.writeEarlyHints
  if ('writeProcessing' in res) res.writeProcessing = methods.writeProcessing
  if ('setHeaders' in res) res.setHeaders = methods.setHeaders
  if ('appendHeader' in res) res.appendHeader = methods.appendHeader
}

/** Programs read these properties to decide whether they may still respond, or continue to write. */
const PROPERTIES: Readonly<Record<string, (state: DeferredState) => unknown>> = {
  headersSent: ({ headWritten }) => headWritten,
  writableEnded: ({ ended }) => ended,
  writableNeedDrain: ({ needsDrain, ended }) => needsDrain && !ended,
  writableCorked: ({ corked }) => corked,
}

// Nested adapters and resets defer a response several times. Each time, the methods need a symbol of their own.
const layers: ReturnType<typeof newLayer>[] = []

/** Installs the methods, and returns the installed `writeHead`. */
const installMethods = (res: ServerResponse, state: DeferredState): Call => {
  let layer = layers.find(({ symbol }) => !(symbol in res))
  if (layer === undefined) {
    layer = newLayer()
    layers.push(layer)
  }
  addMember(res, layer.symbol, state)
  replaceMethods(res as unknown as Record<Method, Call>, layer.methods)
  Object.defineProperties(res, layer.properties)
  return layer.methods.writeHead
}

const newLayer = () => {
  const symbol = Symbol('deferred by keyrow')
  const stateOf = (res: unknown): DeferredState => {
    const state = (res as Readonly<Record<symbol, DeferredState | undefined>> | undefined)?.[symbol]
    if (state === undefined) throw new TypeError('a method of a response was called without the response')
    return state
  }
  const methods: Partial<Record<Method, Call>> = {}
  for (const name of NAMES) {
    const method: Call = function (this: unknown, ...args) {
      const state = stateOf(this)
      return METHODS[name][state.isStale() ? 'stale' : state.phase](state, args, name)
    }
    methods[name] = method
  }
  const properties: PropertyDescriptorMap = {}
  for (const [name, deferred] of Object.entries(PROPERTIES))
    properties[name] = {
      get(this: unknown) {
        const state = stateOf(this)
        if (state.phase === 'deferring') return deferred(state)
        return Reflect.get(Object.getPrototypeOf(state.res) as object, name, state.res) as unknown
      },
      configurable: true,
    }
  return { symbol, methods: methods as Methods, properties }
}

// Reads the arguments of `writeHead` in all forms that Node.js accepts.

type HeaderValue = string | readonly string[]
type GivenHeaders = OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined

/** Sets the status and headers like `writeHead`, with the same errors. A header in the call replaces an earlier one. */
const setHead = (res: ServerResponse, [given, ...rest]: readonly unknown[]): void => {
  const status = Math.trunc(Number(given))
  if (!(status >= 100 && status <= 999))
    throw coded(RangeError, 'ERR_HTTP_INVALID_STATUS_CODE', `Invalid status code: ${String(given)}`)
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
  const text = message ?? (res.req.httpVersionMajor < 2 ? res.statusMessage : undefined)
  if (typeof text === 'string' && /[^\t\u0020-\u007e\u0080-\u00ff]/.test(text))
    throw coded(TypeError, 'ERR_INVALID_CHAR', 'Invalid character in statusMessage')
  const pairs = headerPairs(headers as GivenHeaders)
  for (const [name] of pairs) res.removeHeader(name)
  for (const [name, value] of pairs) appendHeader(res, name, value)
  res.statusCode = status
  if (typeof message === 'string') res.statusMessage = message
}

/** Returns the pairs of name and value from an object, a flat array of names and values, or an array of pairs. */
const headerPairs = (headers: GivenHeaders = {}): readonly (readonly [string, HeaderValue])[] => {
  const text = (value: OutgoingHttpHeader = ''): HeaderValue =>
    Array.isArray(value) ? value.map(String) : String(value)
  if (!Array.isArray(headers))
    return Object.entries(headers)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, text(value)])
  const list = headers as readonly OutgoingHttpHeader[]
  if (list.every((pair) => Array.isArray(pair)))
    return list.map(([name, value]) => [String(name), text(value)])
  return list.flatMap((name, index) =>
    index % 2 === 0 ? [[String(name), text(list[index + 1])] as const] : [],
  )
}

/** Appends to a header. Old versions of Node.js have no `appendHeader` on responses of HTTP/2. */
export const appendHeader = (res: ServerResponse, name: string, value: HeaderValue): void => {
  const before = res.getHeader(name)
  res.setHeader(name, before === undefined ? value : [before, value].flat().map(String))
}

/** Clears the status message. HTTP/2 has no status message, and Node.js warns if one is set. */
export const clearStatusMessage = (res: ServerResponse): void => {
  if (res.req.httpVersionMajor < 2) res.statusMessage = ''
}

// Makes errors with the codes of Node.js, since programs and frameworks check these codes.

const coded = (kind: ErrorConstructor, code: string, message: string): Error =>
  Object.assign(new kind(message), { code })

export const headersSent = ({ req }: ServerResponse, method: string): Error => {
  const verb = /^(set|append|remove|write)/.exec(method)?.[0] ?? 'set'
  return req.httpVersionMajor < 2
    ? coded(Error, 'ERR_HTTP_HEADERS_SENT', `Cannot ${verb} headers after they are sent to the client`)
    : coded(Error, 'ERR_HTTP2_HEADERS_SENT', 'Response has already been initiated.')
}
