// The methods in place of a response's own. They stay in place: a program may have kept one, or wrapped it, and each
// still has to lead to the response later on. They are the same functions for every response, and find what is held
// by a symbol: one with functions of its own would be of a shape of its own to the engine, and slow in all that
// Node.js does with it.
import type { ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import { ResponseRejected } from './errors.js'
import { addMember } from './request-events.js'
import {
  appendHeader,
  type Call,
  type Change,
  called,
  changed,
  type Deferred,
  headersSent,
  type Method,
} from './response-state.js'

type Methods = Record<Method | Change, Call>
type Of = (res: unknown) => Deferred

interface Layer {
  readonly symbol: symbol
  readonly methods: Methods
  readonly shown: PropertyDescriptorMap
}

/** One for each depth: a response may be held more than once, by doors within doors. */
const layers: Layer[] = []

/** Puts the methods in place; gives the function of `writeHead`. */
export const install = (res: ServerResponse, deferred: Deferred): Call => {
  const layer = layers.find(({ symbol }) => !(symbol in res)) ?? newLayer()
  addMember(res, layer.symbol, deferred)
  replaceMethods(layer.methods, res as unknown as Methods)
  Object.defineProperties(res, layer.shown)
  return layer.methods.writeHead
}

const newLayer = (): Layer => {
  const symbol = Symbol('held by keyrow')
  const of: Of = (res) => {
    const deferred = (res as Readonly<Record<symbol, Deferred | undefined>> | undefined)?.[symbol]
    if (deferred === undefined) throw new TypeError('a method of a response was called without the response')
    return deferred
  }
  const shown = {
    headersSent: showing(of, 'headersSent', ({ headWritten }) => headWritten),
    writableEnded: showing(of, 'writableEnded', ({ ended }) => ended),
    writableNeedDrain: showing(of, 'writableNeedDrain', ({ rejected, ended }) => rejected && !ended),
    writableCorked: showing(of, 'writableCorked', ({ corked }) => corked),
  }
  const layer = { symbol, methods: methodsOf(of), shown }
  layers.push(layer)
  return layer
}

const methodsOf = (of: Of): Methods => {
  const method = (name: Method): Call =>
    function (this: unknown, ...args) {
      return called(of(this), name, args)
    }
  const change = (name: Change): Call =>
    function (this: unknown, ...args) {
      return changed(of(this), name, args)
    }
  return {
    writeHead: method('writeHead'),
    write: method('write'),
    end: method('end'),
    flushHeaders: method('flushHeaders'),
    flush: method('flush'),
    cork: method('cork'),
    uncork: method('uncork'),
    addTrailers: method('addTrailers'),
    writeEarlyHints: method('writeEarlyHints'),
    writeProcessing: method('writeProcessing'),
    setHeader: change('setHeader'),
    setHeaders: change('setHeaders'),
    appendHeader: change('appendHeader'),
    removeHeader: change('removeHeader'),
  }
}

// By name and not in a loop: the engine then knows of what shape it is. One of HTTP/2 does not have all.
const replaceMethods = (methods: Methods, res: Methods): void => {
  res.writeHead = methods.writeHead
  res.write = methods.write
  res.end = methods.end
  res.setHeader = methods.setHeader
  res.removeHeader = methods.removeHeader
  res.addTrailers = methods.addTrailers
  // Of a middleware that compresses.
  if ('flush' in res) res.flush = methods.flush
  if ('cork' in res) res.cork = methods.cork
  if ('uncork' in res) res.uncork = methods.uncork
  if ('flushHeaders' in res) res.flushHeaders = methods.flushHeaders
  if ('writeEarlyHints' in res) res.writeEarlyHints = methods.writeEarlyHints
  if ('writeProcessing' in res) res.writeProcessing = methods.writeProcessing
  if ('setHeaders' in res) res.setHeaders = methods.setHeaders
  if ('appendHeader' in res) res.appendHeader = methods.appendHeader
}

/** What a program looks at before it answers once more, or goes on. */
const showing = (
  of: Of,
  name: keyof ServerResponse,
  shown: (deferred: Deferred) => unknown,
): PropertyDescriptor => ({
  get(this: unknown) {
    const deferred = of(this)
    if (deferred.state === 'deferring') return shown(deferred)
    return Reflect.get(Object.getPrototypeOf(deferred.res) as object, name, deferred.res) as unknown
  },
  configurable: true,
})

// The stream of a response over HTTP/2, which a program can reach past the response. What it does there is done by
// the response while that waits: nothing goes out before the save, and the cookie is not missing.

export interface OverStream {
  readonly stream?: ServerHttp2Stream | undefined
}

type StreamMethods = Record<'respond' | 'respondWithFD' | 'respondWithFile' | 'write' | 'end', Call>

/** Has the stream's own methods lead to the response for as long as `isWaiting` says so. */
export const deferStream = (res: ServerResponse & OverStream, isPending: () => boolean): void => {
  const { stream } = res
  if (stream === undefined) return
  const methods = stream as unknown as StreamMethods
  const replaceMethods = (name: keyof StreamMethods, instead: Call): void => {
    const real: Call = methods[name].bind(stream)
    methods[name] = (...args: readonly unknown[]) => (isPending() ? instead(...args) : real(...args))
  }
  const answer = res as unknown as StreamMethods
  replaceMethods('respond', (headers, options) =>
    respond(res, headers as Headers | undefined, options as Options),
  )
  replaceMethods('write', (...args) => answer.write(...args))
  const end: Call = methods.end.bind(stream)
  // Node.js itself ends the stream of a client that has gone.
  replaceMethods('end', (...args) =>
    stream.aborted || stream.destroyed ? end(...args) : answer.end(...args),
  )
  for (const name of ['respondWithFD', 'respondWithFile'] as const)
    replaceMethods(name, () => {
      throw new ResponseRejected(
        `stream.${name} would answer before the session is saved: pipe the file to the response`,
      )
    })
}

type Headers = Readonly<Record<string, number | string | readonly string[] | undefined>>

type Options = { readonly endStream?: boolean; readonly waitForTrailers?: boolean } | undefined

const respond = (res: ServerResponse, headers: Headers = {}, options: Options = {}): void => {
  if (options.waitForTrailers === true)
    throw new ResponseRejected('stream.respond: trailers are added by the method addTrailers of the response')
  if (res.headersSent) throw headersSent(res, 'respond')
  const { ':status': status = 200, ...hasName } = headers
  for (const [name, value] of Object.entries(hasName))
    if (value !== undefined && !name.startsWith(':')) appendHeader(res, name, [value].flat().map(String))
  res.statusCode = Number(status)
  if (options.endStream === true) res.end()
  else res.flushHeaders()
}
