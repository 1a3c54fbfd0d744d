// The methods in place of a response's own. They stay in place: a program may have kept one, or wrapped it, and each
// still has to lead to the response later on. They are the same functions for every response, and find what is held
// by a symbol: one with functions of its own would be of a shape of its own to the engine, and slow in all that
// Node.js does with it.

import type { ServerResponse } from 'node:http'
import { type Call, type Change, called, changed, type Held, type Method } from './holding.js'
import { addMember } from './shapes.js'

type Methods = Record<Method | Change, Call>
type Of = (res: unknown) => Held

interface Layer {
  readonly symbol: symbol
  readonly methods: Methods
  readonly shown: PropertyDescriptorMap
}

/** One for each depth: a response may be held more than once, by doors within doors. */
const layers: Layer[] = []

/** Puts the methods in place; gives the function of `writeHead`. */
export const install = (res: ServerResponse, held: Held): Call => {
  const layer = layers.find(({ symbol }) => !(symbol in res)) ?? newLayer()
  addMember(res, layer.symbol, held)
  put(layer.methods, res as unknown as Methods)
  Object.defineProperties(res, layer.shown)
  return layer.methods.writeHead
}

const newLayer = (): Layer => {
  const symbol = Symbol('held by keyrow')
  const of: Of = (res) => {
    const held = (res as Readonly<Record<symbol, Held | undefined>> | undefined)?.[symbol]
    if (held === undefined) throw new TypeError('a method of a response was called without the response')
    return held
  }
  const shown = {
    headersSent: showing(of, 'headersSent', ({ begun }) => begun),
    writableEnded: showing(of, 'writableEnded', ({ ended }) => ended),
    writableNeedDrain: showing(of, 'writableNeedDrain', ({ refused, ended }) => refused && !ended),
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
const put = (methods: Methods, res: Methods): void => {
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
const showing = (of: Of, name: keyof ServerResponse, shown: (held: Held) => unknown): PropertyDescriptor => ({
  get(this: unknown) {
    const held = of(this)
    if (held.state === 'holding') return shown(held)
    return Reflect.get(Object.getPrototypeOf(held.res) as object, name, held.res) as unknown
  },
  configurable: true,
})
