// Compares responses behind an adapter with responses of a bare server: the bytes, the events, and the errors. Each row
// is one use of the response, by a handler or by a middleware before or after the adapter. Only the session's cookie,
// the date and the cache headers may differ.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import compression from 'compression'
import express, { type ErrorRequestHandler } from 'express'
import helmet from 'helmet'
import morgan from 'morgan'
import responseTime from 'response-time'
import t from 'tap'
import { DriverError } from '../lib/core/errors.js'
import * as expressDoor from '../lib/http/express.js'
import { sessionSet, updateCurrentSession } from '../lib/promise/index.js'
import type { SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening } from './support/adapters.js'
import { inTime } from './support/in-time.js'
import { type Exchange, type Kind, type Middleware, observe, type Row } from './support/response-pair.js'

const codeOf = (f: () => unknown): unknown => {
  try {
    f()
    return 'no error'
  } catch (error) {
    return (error as { code?: string }).code
  }
}

/** Records these events of the response. */
const listen = ({ res, note }: Exchange, ...names: readonly string[]): void => {
  for (const name of names) res.on(name, () => note(name))
}

const state = (res: ServerResponse): readonly unknown[] => [
  res.headersSent,
  res.writableEnded,
  res.writableFinished,
  res.statusCode,
]

const LONG = 'a line of a long text, which is worth to be compressed\n'.repeat(100)
const large = () => Readable.from(Array.from({ length: 300 }, (_, n) => `${String(n)} ${LONG}`))

const GZIP = 'Accept-Encoding: gzip'
const compressing = () => compression() as unknown as Middleware

/** Makes a handler with an event stream. The second event waits for the arrival of the first one. */
const events = (flushing: boolean) => async (exchange: Exchange) => {
  const { res, arrived } = exchange
  res.setHeader('Content-Type', 'text/event-stream')
  if (flushing) res.flushHeaders()
  res.write('data: one\n\n')
  ;(res as ServerResponse & { flush?: () => void }).flush?.()
  await arrived('data: one')
  res.write('data: two\n\n')
  ;(res as ServerResponse & { flush?: () => void }).flush?.()
  await arrived('data: two')
  res.end('data: three\n\n')
}

const heads: readonly (readonly [string, (res: ServerResponse) => unknown])[] = [
  ['a status', (res) => res.writeHead(201)],
  ['a message', (res) => res.writeHead(201, 'Made')],
  ['headers', (res) => res.writeHead(201, { 'X-One': 1, 'X-Two': ['a', 'b'] })],
  ['a message and headers', (res) => res.writeHead(201, 'Made', { 'X-One': '1' })],
  ['no message and headers', (res) => res.writeHead(201, undefined, { 'X-One': '1' })],
  ['a list', (res) => res.writeHead(201, ['X-One', '1', 'X-Two', 'a', 'X-Two', 'b'])],
  ['a list of pairs', (res) => res.writeHead(201, [['X-One', '1'] as never, ['X-Two', 'a'] as never])],
  ['headers over earlier ones', (res) => res.setHeader('X-One', '0').writeHead(201, { 'X-One': '1' })],
  ['a list over earlier ones', (res) => res.setHeader('X-One', '0').writeHead(201, ['X-One', '1'])],
  ['a length', (res) => res.writeHead(201, { 'Content-Length': 4 })],
]

const forms: readonly Row[] = heads.flatMap(([name, head]) => [
  {
    name: `writeHead with ${name}`,
    handler: ({ res, note }: Exchange) => {
      head(res)
      note(...state(res))
      res.end('done')
    },
  },
])

const rows: readonly Row[] = [
  ...forms,
  { name: 'an end with a text', handler: ({ res }) => res.end('done') },
  { name: 'an end with bytes', handler: ({ res }) => res.end(Buffer.from('done')) },
  { name: 'an end without a body', handler: ({ res }) => res.end() },
  {
    name: 'an empty piece',
    handler: ({ res }) => {
      res.write('')
      res.end()
    },
  },
  {
    name: 'an encoding and a callback of the end',
    handler: (exchange) => {
      const { res, note } = exchange
      listen(exchange, 'prefinish', 'finish', 'close')
      res.end('646f6e65', 'hex', () => note('ended'))
    },
  },
  {
    name: 'callbacks of pieces',
    handler: (exchange) => {
      const { res, note } = exchange
      listen(exchange, 'finish', 'close')
      res.write('one ', () => note('one'))
      res.write('dHdv', 'base64', () => note('two'))
      res.end(() => note('ended'))
      note(...state(res).slice(0, 2))
    },
  },
  {
    name: 'a callback of a second end',
    handler: async ({ res, note }) => {
      res.end('done')
      await new Promise<void>((resolve) => {
        res.end(() => resolve())
      })
      note(res.writableFinished)
    },
  },
  {
    name: 'what a handler sees',
    handler: async (exchange) => {
      const { res, note, arrived } = exchange
      listen(exchange, 'finish', 'close')
      note(...state(res), res.hasHeader('x-one'), res.getHeaderNames())
      res.setHeader('X-One', '1')
      note(...state(res), res.getHeader('x-one'))
      note(res.write('one '))
      note(...state(res))
      await arrived('one ')
      res.end('two')
      note(...state(res).slice(0, 2))
    },
  },
  {
    name: 'a head that is flushed before its body',
    handler: async ({ res, arrived }) => {
      res.setHeader('X-One', '1')
      res.flushHeaders()
      await arrived('X-One: 1')
      res.write('one ')
      await arrived('one ')
      res.end('two')
    },
  },
  {
    name: 'a head that is flushed after writeHead',
    handler: async ({ res, arrived }) => {
      res.writeHead(202, { 'X-One': '1' }).flushHeaders()
      await arrived('X-One: 1')
      res.end('done')
    },
  },
  ...(['writeHead', 'flushHeaders', 'write'] as const).map(
    (first): Row => ({
      name: `a change of the head after ${first}`,
      handler: ({ res, note }) => {
        if (first === 'writeHead') res.writeHead(200)
        else if (first === 'write') res.write('one ')
        else res.flushHeaders()
        note(codeOf(() => res.setHeader('X-Late', '1')))
        note(codeOf(() => res.appendHeader('X-Late', '1')))
        note(codeOf(() => res.setHeaders(new Map([['X-Late', '1']]))))
        note(codeOf(() => res.removeHeader('X-Late')))
        note(codeOf(() => res.writeHead(500)))
        note(...state(res))
        res.end('done')
      },
    }),
  ),
  {
    name: 'what cannot be sent',
    handler: ({ res, note }) => {
      note(codeOf(() => res.writeHead(42)))
      note(codeOf(() => res.writeHead(200, { 'X-Bad': 'a\nb' })))
      note(codeOf(() => res.writeHead(200, 'a\nb')))
      note(codeOf(() => res.setHeader('X Bad', '1')))
      note(...state(res))
      res.statusMessage = ''
      note(codeOf(() => res.write(null)))
      note(codeOf(() => res.write(1)))
      note(codeOf(() => res.end(1)))
      note(...state(res))
      res.writeHead(200).end('done')
    },
  },
  {
    name: 'headers in several ways',
    handler: ({ res }) => {
      res.setHeaders(
        new Headers([
          ['X-One', '1'],
          ['X-Two', '2'],
        ]),
      )
      res.appendHeader('X-Two', '3').setHeader('X-Three', ['a', 'b']).removeHeader('X-One')
      res.statusMessage = 'Mine'
      res.statusCode = 418
      res.end()
    },
  },
  {
    name: 'pieces that are corked',
    handler: async ({ res, note, arrived }) => {
      res.cork()
      note(res.writableCorked)
      res.write('one ')
      res.write('two ')
      res.uncork()
      note(res.writableCorked)
      await arrived('two ')
      res.cork()
      res.write('three ')
      res.write('four')
      res.end()
    },
  },
  {
    name: 'trailers',
    handler: ({ res }) => {
      res.writeHead(200, { Trailer: 'X-Sum' })
      res.write('one')
      res.addTrailers({ 'X-Sum': '3' })
      res.end()
    },
  },
  {
    name: 'early hints',
    handler: ({ res }) => {
      res.writeEarlyHints({ link: '</style.css>; rel=preload; as=style', 'x-hint': '1' })
      res.end('done')
    },
  },
  {
    name: 'an interim head that tells to wait',
    handler: async ({ res, arrived }) => {
      res.writeProcessing()
      await arrived('HTTP/1.1 102')
      res.end('done')
    },
  },
  {
    name: 'an interim head that tells to go on',
    request: 'POST / HTTP/1.1',
    headers: 'Expect: 100-continue',
    body: 'the body',
    handler: async ({ req, res }) => {
      res.writeContinue()
      res.end(await text(req))
    },
  },
  { name: 'the head alone', request: 'HEAD / HTTP/1.1', handler: ({ res }) => res.end('not sent') },
  {
    name: 'a client that speaks HTTP/1.0',
    request: 'GET / HTTP/1.0',
    handler: ({ res }) => res.write('one ') && res.end('two'),
  },
  { name: 'no content', handler: ({ res }) => res.writeHead(204).end() },
  {
    name: 'what was not modified',
    handler: ({ res }) => res.writeHead(304, { ETag: '"1"' }).end(),
  },
  {
    name: 'a long stream that is piped',
    handler: (exchange) => {
      listen(exchange, 'pipe', 'unpipe', 'finish', 'close')
      return pipeline(large(), exchange.res)
    },
  },
  {
    name: 'a writer that waits for the drain',
    handler: async ({ res, note }) => {
      let waits = 0
      for (let n = 0; n < 40; n += 1)
        if (!res.write(LONG)) {
          waits += 1
          note(res.writableNeedDrain)
          await new Promise((resolve) => {
            res.once('drain', resolve)
          })
        }
      // The number of waits depends on the socket.
      note(waits > 0)
      res.end()
    },
    decoded: true,
  },
  {
    name: 'a response that is destroyed',
    handler: (exchange) => {
      const { res, note } = exchange
      listen(exchange, 'finish', 'close')
      res.destroy()
      note(res.destroyed, ...state(res))
      res.end('too late')
    },
  },
  {
    name: 'a timeout',
    handler: async ({ res, note }) => {
      await new Promise<void>((resolve) => {
        res.setTimeout(10, () => resolve())
      })
      note('timeout')
      res.end('late')
    },
  },
  ...(['outside', 'inside'] as const).flatMap((side): readonly Row[] => [
    {
      name: `compression ${side}: events whose head is flushed first`,
      [side]: compressing,
      headers: GZIP,
      decoded: true,
      handler: events(true),
    },
    {
      name: `compression ${side}: events that are flushed`,
      [side]: compressing,
      headers: GZIP,
      decoded: true,
      handler: events(false),
    },
    {
      name: `compression ${side}: a head of its own, flushed`,
      [side]: compressing,
      headers: GZIP,
      decoded: true,
      handler: async ({ res, arrived }) => {
        res.writeHead(200, { 'Content-Type': 'text/plain' })
        res.flushHeaders()
        await arrived('text/plain')
        res.write(LONG)
        res.end('end')
      },
    },
    {
      name: `compression ${side}: a long text`,
      [side]: compressing,
      headers: 'Accept-Encoding: br',
      decoded: true,
      handler: ({ res }) => res.setHeader('Content-Type', 'text/plain').end(LONG),
    },
    {
      name: `compression ${side}: a short text, which stays as it is`,
      [side]: compressing,
      headers: GZIP,
      handler: ({ res }) => res.setHeader('Content-Type', 'text/plain').end('short'),
    },
    {
      name: `compression ${side}: a long stream that is piped`,
      [side]: compressing,
      headers: GZIP,
      decoded: true,
      handler: ({ res }) => pipeline(large(), res.setHeader('Content-Type', 'text/plain')),
    },
    {
      name: `compression ${side}: a long stream that is piped to a client that takes no encoding`,
      [side]: compressing,
      decoded: true,
      handler: ({ res }) => void large().pipe(res.setHeader('Content-Type', 'text/plain')),
    },
    {
      name: `compression ${side}: the head alone`,
      [side]: compressing,
      request: 'HEAD / HTTP/1.1',
      headers: GZIP,
      handler: ({ res }) => res.setHeader('Content-Type', 'text/plain').end(LONG),
    },
    { name: `helmet ${side}`, [side]: () => helmet(), handler: ({ res }) => res.end('done') },
    {
      name: `response-time ${side}`,
      [side]: () => responseTime() as Middleware,
      handler: async ({ res, arrived }) => {
        res.flushHeaders()
        await arrived('HTTP/1.1 200')
        res.end('done')
      },
    },
  ]),
  {
    name: 'Express: an object, with its type, its length and its tag',
    only: 'express',
    inside: compressing,
    headers: GZIP,
    decoded: true,
    handler: ({ res }) => (res as unknown as express.Response).status(201).json({ text: LONG }),
  },
  {
    name: 'Express: a redirect',
    only: 'express',
    handler: ({ res }) => (res as unknown as express.Response).redirect(303, '/next'),
  },
]

for (const kind of ['node', 'express'] as const)
  t.test(`${kind}: a response behind the adapter does what it does on a bare server`, async (t) => {
    for (const row of rows.filter(({ only = kind }) => only === kind))
      t.test(row.name, async (t) => {
        const [bare, adapted] = [await observe(row, kind, true), await observe(row, kind, false)]
        t.strictSame(adapted.answer, bare.answer)
        t.strictSame(adapted.notes, bare.notes)
        const isAnswered = bare.raw !== ''
        t.equal(/^set-cookie: session=/im.test(adapted.raw), isAnswered, 'the cookie goes with the answer')
      })
  })

t.test('a log is told of the answer that the client got', async (t) => {
  const logged = async (side: 'outside' | 'inside', kind: Kind, isBare: boolean): Promise<string[]> => {
    const lines: string[] = []
    const format = ':method :url :status :res[content-type]'
    const row: Row = {
      name: `morgan ${side}`,
      [side]: () => morgan(format, { stream: { write: (line) => lines.push(line) } }) as Middleware,
      handler: ({ res }) => res.writeHead(404, { 'Content-Type': 'text/plain' }).end('no'),
    }
    await observe(row, kind, isBare)
    return lines
  }
  for (const kind of ['node', 'express'] as const)
    for (const side of ['outside', 'inside'] as const)
      t.strictSame(await logged(side, kind, false), await logged(side, kind, true), `${kind}, ${side}`)
})

const failing = (): SessionStore => ({
  ...memoryStore(),
  create: () => () =>
    Promise.resolve({ _tag: 'Left', left: new DriverError('down', { retryable: true }) } as never),
})

t.test('what compressed an answer whose save failed has no part in the next one', async (t) => {
  for (const [name, answer] of [
    ['an end', (res: ServerResponse) => res.end(LONG)],
    ['pieces', (res: ServerResponse) => res.write(LONG) && res.end(LONG)],
    ['a stream', (res: ServerResponse) => large().pipe(res)],
    ['a head of its own', (res: ServerResponse) => res.writeHead(200).write(LONG)],
  ] as const) {
    const app = express()
      .use(expressDoor.sessionMiddleware({ store: failing() }))
      .use(compressing())
      .get('/', async (_req, res) => {
        await updateCurrentSession(sessionSet('seen', true))
        answer(res.type('text/plain'))
      })
    const own: ErrorRequestHandler = (error: Error, _req, res, next) => {
      if (res.headersSent) next(error)
      res.status(503).send(`${error.name} ${LONG}`)
    }
    const { url, close } = await listening(createServer(app.use(own)))
    t.teardown(close)
    const got = await inTime(name, 10_000, fetch(url))
    t.strictSame([got.status, await inTime(name, 10_000, got.text())], [503, `DriverError ${LONG}`], name)
  }
})

t.test('an error after an answer was compressed is answered instead of it', async (t) => {
  const handler = async (_req: IncomingMessage, res: ServerResponse): Promise<void> => {
    await updateCurrentSession(sessionSet('seen', true))
    res.setHeader('Content-Type', 'text/plain').end(LONG)
    throw new Error('mine')
  }
  const own: ErrorRequestHandler = (error: Error, _req, res, next) => {
    if (res.headersSent) next(error)
    res.status(500).type('text/plain').send(error.message)
  }
  const app = express()
    .use(expressDoor.sessionMiddleware({ store: memoryStore() }))
    .use(compressing())
    .get('/', handler)
    .use(own)
  const { url, close } = await listening(createServer(app))
  t.teardown(close)
  const got = await inTime('the answer', 10_000, fetch(url))
  t.strictSame([got.status, await got.text(), got.headers.getSetCookie()], [500, 'mine', []])
})
