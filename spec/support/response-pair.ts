// Runs one handler on a bare server and behind keyrow's adapter, over a real socket. Records the bytes that the client
// gets, and the state of the response that the handler sees.

import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http'
import { connect } from 'node:net'
import { brotliDecompressSync, constants, gunzipSync } from 'node:zlib'
import express from 'express'
import * as expressDoor from '../../lib/http/express.js'
import { sessionListener } from '../../lib/http/node.js'
import { sessionSet, updateCurrentSession } from '../../lib/promise/index.js'
import { memoryStore } from '../../lib/store/memory.js'
import { listening } from './adapters.js'
import { inTime } from './in-time.js'

export type Middleware = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void

export interface Exchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** Records what the handler sees. The records of both servers must be equal. */
  readonly note: (...seen: readonly unknown[]) => void
  /** Resolves when the client has this text in the decoded body or in the interim heads. */
  readonly arrived: (text: string) => Promise<void>
}

export interface Row {
  readonly name: string
  /** The middlewares before and after the adapter. */
  readonly outside?: () => Middleware
  readonly inside?: () => Middleware
  readonly request?: string
  /** The headers of the request. */
  readonly headers?: string
  /** The request's body, which is sent after a `100 Continue`. */
  readonly body?: string
  readonly only?: 'node' | 'express'
  /** Whether the decoded bodies are compared, because the middleware may split a body differently. */
  readonly decoded?: boolean
  readonly handler: (exchange: Exchange) => unknown
}

export type Kind = 'node' | 'express'

type Handle = (req: IncomingMessage, res: ServerResponse) => Promise<void>

const change = () => updateCurrentSession(sessionSet('seen', true))

/** Returns the listener of a row, without the adapter or with the adapter between the middlewares. */
const listenerOf = (row: Row, kind: Kind, handle: Handle, isBare: boolean): RequestListener => {
  const passing: Middleware = (_req, _res, next) => next()
  const outside = row.outside?.() ?? passing
  const inside = row.inside?.() ?? passing
  if (kind === 'express') {
    const app = express().disable('x-powered-by').use(outside)
    if (!isBare) app.use(expressDoor.sessionMiddleware({ store: memoryStore() }))
    return app.use(inside).use((req, res) => handle(req, res))
  }
  const within = (req: IncomingMessage, res: ServerResponse): Promise<void> =>
    new Promise((resolve, reject) => {
      inside(req, res, () => {
        handle(req, res).then(resolve, reject)
      })
    })
  const adapted = isBare
    ? (...args: Parameters<typeof within>) => void within(...args)
    : sessionListener({ store: memoryStore() })(within)
  return (req, res) => {
    outside(req, res, () => {
      adapted(req, res)
    })
  }
}

/** Returns the head without headers that always differ, and the body in its pieces or decoded. */
const comparable = (raw: Buffer, { decoded = false }: Row): unknown => {
  const text = raw.toString('latin1')
  const end = text.lastIndexOf('HTTP/1.1 ')
  const [head = ''] = text.slice(end).split('\r\n\r\n', 1)
  const lines = (text.slice(0, end) + head)
    .replace(/, Cookie$/im, '')
    .replace(/^Vary: Cookie, /im, 'Vary: ')
    .split('\r\n')
    .filter((line) => !/^(date|set-cookie|cache-control|vary: cookie$)/i.test(line))
    .map((line) => line.replace(/^(x-response-time: )[\d.]+/i, '$1'))
  return [lines, decoded ? bodyOf(raw) : text.slice(end + head.length)]
}

/** Returns the received part of the body, without chunk headers and decompressed. */
const bodyOf = (raw: Buffer): string => {
  const start = raw.lastIndexOf('HTTP/1.1 ')
  const end = raw.indexOf('\r\n\r\n', start)
  if (end < 0) return ''
  const head = raw.subarray(start, end).toString('latin1')
  const sent = raw.subarray(end + 4)
  const whole = /^transfer-encoding: chunked/im.test(head) ? unchunked(sent) : sent
  if (whole.length === 0) return ''
  if (/^content-encoding: gzip/im.test(head))
    return gunzipSync(whole, { finishFlush: constants.Z_SYNC_FLUSH }).toString()
  return /^content-encoding: br/im.test(head)
    ? brotliDecompressSync(whole, { finishFlush: constants.BROTLI_OPERATION_FLUSH }).toString()
    : whole.toString()
}

const unchunked = (sent: Buffer): Buffer => {
  const parts: Buffer[] = []
  for (let at = 0; ; ) {
    const line = sent.indexOf('\r\n', at)
    if (line < 0) break
    const size = Number.parseInt(sent.subarray(at, line).toString(), 16)
    if (!(size > 0)) break
    parts.push(sent.subarray(line + 2, line + 2 + size))
    at = line + 2 + size + 2
  }
  return Buffer.concat(parts)
}

export interface Seen {
  readonly answer: unknown
  readonly raw: string
  readonly notes: readonly unknown[]
}

const MOMENT = 10_000

const talk = (url: string, row: Row, onData: (raw: Buffer) => void): Promise<Buffer> =>
  new Promise((resolve) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    let raw = Buffer.alloc(0)
    let rest = row.body
    socket.on('data', (data) => {
      raw = Buffer.concat([raw, data])
      if (rest !== undefined && raw.includes('HTTP/1.1 100')) {
        socket.write(rest)
        rest = undefined
      }
      onData(raw)
    })
    socket.on('error', () => undefined)
    socket.on('close', () => resolve(raw))
    const headers = row.headers === undefined ? '' : `${row.headers}\r\n`
    const length = row.body === undefined ? '' : `Content-Length: ${String(row.body.length)}\r\n`
    socket.write(
      `${row.request ?? 'GET / HTTP/1.1'}\r\nHost: x\r\nConnection: close\r\n${length}${headers}\r\n`,
    )
  })

/** Runs a row on one server, from the request to the end of its connection. */
export const observe = async (row: Row, kind: Kind, isBare: boolean): Promise<Seen> => {
  const notes: unknown[] = []
  const waiting: { readonly text: string; readonly go: () => void }[] = []
  let raw: Buffer = Buffer.alloc(0)
  const look = (): void => {
    for (const { text, go } of waiting) if ((raw.toString('latin1') + bodyOf(raw)).includes(text)) go()
  }
  const arrived = (text: string): Promise<void> => {
    const here = new Promise<void>((resolve) => {
      waiting.push({ text, go: resolve })
    })
    look()
    return inTime(`${row.name}: the arrival of "${text}"`, MOMENT, here)
  }
  let end = (): void => undefined
  const closed = new Promise<void>((resolve) => {
    end = resolve
  })
  const handle: Handle = async (req, res) => {
    res.once('close', end)
    if (!isBare) await change()
    await row.handler({ req, res, note: (...seen) => notes.push(...seen), arrived })
  }
  const listener = listenerOf(row, kind, handle, isBare)
  const server: Server = createServer(listener)
  if (row.body !== undefined) server.on('checkContinue', listener)
  const { url, close } = await listening(server)
  try {
    const done = talk(url, row, (data) => {
      raw = data
      look()
    })
    raw = await inTime(row.name, 2 * MOMENT, done)
    await inTime(`${row.name}: the end of the response`, MOMENT, closed)
    return { answer: comparable(raw, row), raw: raw.toString('latin1'), notes }
  } finally {
    await close()
  }
}
