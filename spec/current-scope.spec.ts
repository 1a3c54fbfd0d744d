// Tests which code has the current session: listeners on shared emitters, on the request, and on the response.

import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import * as http2 from 'node:http2'
import { connect } from 'node:net'
import { getRequestListener, type HttpBindings } from '@hono/node-server'
import busboy from 'busboy'
import express from 'express'
import fileUpload from 'express-fileupload'
import fastify from 'fastify'
import formidable from 'formidable'
import { Hono } from 'hono'
import Koa from 'koa'
import type postgres from 'postgres'
import t, { type Test } from 'tap'
import { sessionMiddleware } from '../lib/http/express.js'
import { sessionPlugin } from '../lib/http/fastify.js'
import * as honoDoor from '../lib/http/hono.js'
import * as koaDoor from '../lib/http/koa.js'
import { sessionListener } from '../lib/http/node.js'
import {
  buildSession,
  currentSession,
  sessionRef,
  sessionSet,
  updateCurrentSession,
  withSession,
} from '../lib/promise/index.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening, type Served } from './support/adapters.js'
import { quietPool } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'

const deferred = <A = unknown>() => {
  let resolve: (value: A | Promise<A>) => void = () => undefined
  const promise = new Promise<A>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}

/** Returns the visitor's name in the current session, or the tag of the error. */
const nameHere = (): Promise<unknown> =>
  currentSession().then(sessionRef('name'), (error: unknown) => (error as { readonly _tag: string })._tag)

t.test('law 8: a listener on a shared pool has no session of the visitor who listened first', async (t) => {
  const { url, stop } = await specDatabaseUrl()
  const sql: postgres.Sql = quietPool(url)
  t.teardown(async () => {
    await sql.end({ timeout: 1 })
    await stop()
  })
  const server = createServer(
    sessionListener({ store: memoryStore() })(async (req, res) => {
      const [, channel = ''] = (req.url ?? '').split('/')
      await updateCurrentSession(sessionSet('name', channel))
      const heard = deferred()
      const bound = deferred()
      await sql.listen(channel, () => heard.resolve(nameHere()))
      await sql.listen(
        channel,
        AsyncLocalStorage.bind(() => bound.resolve(nameHere())),
      )
      await sql.notify(channel, 'now')
      res.end(JSON.stringify([await heard.promise, await bound.promise]))
    }),
  )
  const { url: address, close } = await listening(server)
  t.teardown(close)
  const ask = async (name: string): Promise<unknown> => (await fetch(`${address}/${name}`)).json()
  t.strictSame(await ask('ada'), ['ada', 'ada'], 'the first one began the connection itself')
  t.strictSame(await ask('bob'), ['SessionClosed', 'bob'], 'not the session of the first one')
})

t.test("law 8: the request's own function gives no session after the end either", async (t) => {
  const ended = deferred()
  const app = express()
  app.use(sessionMiddleware({ store: memoryStore() }))
  app.get('/', async (req, res) => {
    const held = await updateCurrentSession(sessionSet('name', 'ada'))
    res.on('finish', () => {
      try {
        ended.resolve(req.currentSession())
      } catch (error) {
        ended.resolve([(error as { readonly _tag: string })._tag, sessionRef('name')(held)])
      }
    })
    res.json(sessionRef('name')(req.currentSession()))
  })
  const { url, close } = await listening(createServer(app))
  t.teardown(close)
  t.equal(await (await fetch(url)).json(), 'ada')
  t.strictSame(await ended.promise, ['SessionClosed', 'ada'])
})

/** Returns the text of the response. A handler uses `res` only for its events. */
type NodeHandler = (req: IncomingMessage, res: ServerResponse) => Promise<string>

const answering = (handler: NodeHandler) => async (req: IncomingMessage, res: ServerResponse) =>
  void res.end(await handler(req, res))

/** The adapters whose handlers get the request and the response of Node.js. */
const adapters: Readonly<Record<string, (handler: NodeHandler) => Promise<Served>>> = {
  'node:http': (handler) =>
    listening(createServer(sessionListener({ store: memoryStore() })(answering(handler)))),
  Express: (handler) => {
    const app = express()
    app.use(sessionMiddleware({ store: memoryStore() }))
    app.use(answering(handler))
    return listening(createServer(app))
  },
  'Express, two of them': (handler) => {
    const app = express()
    app.use(sessionMiddleware({ store: memoryStore(), cookieName: 'other' }))
    app.use(sessionMiddleware({ store: memoryStore() }))
    app.use(answering(handler))
    return listening(createServer(app))
  },
  Fastify: async (handler) => {
    const app = fastify({ forceCloseConnections: true })
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _payload, done) => done(null))
    app.register(sessionPlugin, { store: memoryStore() })
    app.register((child, _options, done) => {
      child.all('/*', async (request, reply) => {
        reply.hijack()
        await answering(handler)(request.raw, reply.raw)
      })
      done()
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return listening(app.server)
  },
  Koa: (handler) => {
    const app = new Koa()
    app.silent = true
    app.use(koaDoor.sessionMiddleware({ store: memoryStore() }))
    app.use(async (ctx) => {
      ctx.respond = false
      await answering(handler)(ctx.req, ctx.res)
    })
    const listener = app.callback()
    return listening(createServer((req, res) => void listener(req, res)))
  },
  Hono: (handler) => {
    const app = new Hono<{ Bindings: HttpBindings }>()
    app.use(honoDoor.sessionMiddleware({ store: memoryStore() }))
    app.all('*', async (c) => c.text(await handler(c.env.incoming, c.env.outgoing)))
    const listener = getRequestListener(app.fetch)
    return listening(createServer((req, res) => void listener(req, res)))
  },
}

const named = () => updateCurrentSession(sessionSet('name', 'ada'))

/** Returns the name of each event, with the visitor's name in the listener's current session. */
const hearing = (emitter: IncomingMessage | ServerResponse, events: readonly string[]) =>
  events.map((event) => {
    const { promise, resolve } = deferred()
    emitter.on(event, () => resolve(nameHere()))
    return promise.then((name) => `${event}: ${String(name)}`)
  })

const BIG = 'x'.repeat(300_000)

for (const [name, serve] of Object.entries(adapters))
  t.test(`${name}: the current session is there in listeners on the request`, async (t) => {
    await t.test('while its body comes, and when that is read', async (t) => {
      const told = deferred<readonly string[]>()
      const { url, close } = await serve(async (req, res) => {
        await named()
        const heard = await Promise.all(hearing(req, ['data', 'end', 'close']))
        told.resolve(Promise.all(hearing(res, ['finish', 'close'])))
        return JSON.stringify(heard)
      })
      t.teardown(close)
      const answer = await fetch(url, { method: 'POST', body: BIG })
      t.strictSame(await answer.json(), ['data: ada', 'end: ada', 'close: ada'])
      t.strictSame(await told.promise, ['finish: SessionClosed', 'close: SessionClosed'])
    })

    await t.test('when its client goes away', async (t) => {
      const told = deferred<readonly string[]>()
      const started = deferred()
      const { url, close } = await serve(async (req, res) => {
        await named()
        const gone = Promise.all([...hearing(req, ['error', 'close']), ...hearing(res, ['close'])])
        req.resume()
        started.resolve(undefined)
        told.resolve(await gone)
        return ''
      })
      t.teardown(close)
      const socket = connect(Number(new URL(url).port), '127.0.0.1')
      socket.on('error', () => undefined)
      socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx')
      await started.promise
      socket.destroy()
      t.strictSame(await told.promise, ['error: ada', 'close: ada', 'close: ada'])
    })

    await t.test('and within a scope further in it is that one', async (t) => {
      const { url, close } = await serve(async (req) => {
        await named()
        const other = buildSession(memoryStore())
        const heard = deferred()
        await withSession(other, async () => {
          await updateCurrentSession(sessionSet('name', 'bob'))
          req.on('mine', () => heard.resolve(nameHere()))
          req.emit('mine')
          await heard.promise
        })
        return JSON.stringify([await heard.promise, await nameHere()])
      })
      t.teardown(close)
      t.strictSame(await (await fetch(url)).json(), ['bob', 'ada'])
    })
  })

t.test('node:http2: the current session is there in listeners on the request', async (t) => {
  const listener = sessionListener({ store: memoryStore() })(async (req, res) => {
    await named()
    res.end(JSON.stringify(await Promise.all(hearing(req, ['data', 'end']))))
  })
  const server = http2.createServer(listener as unknown as Parameters<typeof http2.createServer>[1])
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const client = http2.connect(`http://127.0.0.1:${String(port)}`)
  t.teardown(() => {
    client.close()
    server.close()
  })
  const stream = client.request({ ':method': 'POST' })
  stream.end(BIG)
  stream.setEncoding('utf8')
  let body = ''
  for await (const part of stream) body += String(part)
  t.strictSame(JSON.parse(body), ['data: ada', 'end: ada'])
})

/** Makes a form with two files that are too large for one read. */
const form = (): FormData => {
  const made = new FormData()
  made.set('title', 'Tea')
  made.set('one', new Blob([BIG]), 'one.txt')
  made.set('two', new Blob([BIG, BIG]), 'two.txt')
  return made
}

const uploads: Readonly<Record<string, NodeHandler>> = {
  busboy: async (req) => {
    const parser = busboy({ headers: req.headers })
    const heard: Promise<unknown>[] = []
    parser.on('file', (_field, file) => {
      heard.push(nameHere())
      file.resume()
    })
    const done = deferred()
    parser.on('close', () => {
      heard.push(updateCurrentSession(sessionSet('files', 2)).then(sessionRef('name')))
      done.resolve(Promise.all(heard))
    })
    req.pipe(parser)
    return JSON.stringify(await done.promise)
  },
  formidable: async (req) => {
    const done = deferred()
    formidable().parse(req, (_error, _fields, files) => {
      const count = Object.keys(files).length
      done.resolve(updateCurrentSession(sessionSet('files', count)).then(sessionRef('name')))
    })
    return JSON.stringify([await done.promise])
  },
}

const uploading = async (t: Test, { url, close }: Served): Promise<void> => {
  t.teardown(close)
  const answer = await fetch(url, { method: 'POST', body: form() })
  const names = (await answer.json()) as readonly unknown[]
  t.ok(names.length > 0)
  t.ok(
    names.every((name) => name === 'ada'),
    JSON.stringify(names),
  )
}

for (const [library, handler] of Object.entries(uploads))
  for (const name of Object.keys(adapters))
    t.test(`${library} on ${name}: the session is there when files have come`, async (t) => {
      const serve = adapters[name] as (handler: NodeHandler) => Promise<Served>
      await uploading(
        t,
        await serve(async (req, res) => {
          await named()
          return handler(req, res)
        }),
      )
    })

t.test('express-fileupload: what comes after it has the session', async (t) => {
  const app = express()
  app.use(sessionMiddleware({ store: memoryStore() }))
  app.use(async (_req, _res, next) => {
    await named()
    next()
  })
  app.use(fileUpload())
  app.post('/', async (req, res) => {
    const count = Object.keys(req.files ?? {}).length
    const session = await updateCurrentSession(sessionSet('files', count))
    res.json([sessionRef('name')(session), ...(count === 2 ? [] : ['too few'])])
  })
  await uploading(t, await listening(createServer(app as RequestListener)))
})
