// Tests rare cases of the adapters: HTTP/2, a stream whose save fails, sockets whose handler fails, and the log.

import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import {
  type ClientHttp2Session,
  connect,
  constants,
  createServer as createHttp2Server,
  type Http2ServerResponse,
} from 'node:http2'
import { connect as connectSocket } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import express, { type ErrorRequestHandler } from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import Koa from 'koa'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { type CheckedRequest, verifyCsrf } from '../lib/http/csrf.js'
import * as expressDoor from '../lib/http/express.js'
import { sessionPlugin } from '../lib/http/fastify.js'
import { fetchHandler } from '../lib/http/fetch.js'
import * as honoDoor from '../lib/http/hono.js'
import * as koaDoor from '../lib/http/koa.js'
import {
  defaultErrorResponse,
  type SessionHandler,
  sessionListener,
  sessionUpgrade,
} from '../lib/http/node.js'
import {
  buildSession,
  currentSession,
  saveSession,
  sessionSet,
  sessionToken,
  updateCurrentSession,
} from '../lib/promise/index.js'
import type { SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening } from './support/adapters.js'

const { NGHTTP2_CANCEL } = constants

const change = () => updateCurrentSession(sessionSet('n', 1))

const failing = (): SessionStore => ({
  ...memoryStore(),
  create: () => async () =>
    Promise.resolve({ _tag: 'Left', left: new DriverError('down', { retryable: true }) }),
})

const gate = () => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

const quietly = (t: Test): unknown[][] => {
  const lines: unknown[][] = []
  const log = console.error
  console.error = (...line: unknown[]) => lines.push(line)
  t.teardown(() => {
    console.error = log
  })
  return lines
}

t.test('HTTP/2', async (t) => {
  const clientOf = (t: Test, url: string): ClientHttp2Session => {
    const client = connect(url)
    t.teardown(() => client.destroy())
    return client
  }

  const get = async (client: ClientHttp2Session, path: string, method = 'GET') => {
    const stream = client.request({ ':path': path, ':method': method })
    stream.end()
    const [head] = (await once(stream, 'response')) as [Record<string, unknown>]
    const cookies = (head['set-cookie'] ?? []) as readonly string[]
    return { status: head[':status'], cookies, own: head['x-own'], body: await text(stream) }
  }

  const serve = async (t: Test, server: ReturnType<typeof createHttp2Server>) => {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => server.close())
    const { port } = server.address() as { port: number }
    return clientOf(t, `http://127.0.0.1:${String(port)}`)
  }

  t.test('node:http2: answers of every kind wait for the save and have the cookie', async (t) => {
    quietly(t)
    const handler: SessionHandler = async (req, res) => {
      await change()
      if (req.url === '/throw') throw new Error('mine')
      if (req.url === '/empty') res.writeHead(204).end()
      else if (req.url === '/stream') {
        res.write('one ')
        res.end('two')
      } else res.writeHead(201, { 'X-Own': 'x', 'Set-Cookie': ['a=1', 'b=2'] }).end('done')
    }
    const listener = (store: SessionStore) => sessionListener({ store })(handler) as never
    const client = await serve(t, createHttp2Server(listener(memoryStore())))
    t.match(await get(client, '/'), {
      status: 201,
      own: 'x',
      body: 'done',
      cookies: ['a=1', 'b=2', /^session=/],
    })
    t.match(await get(client, '/empty'), { status: 204, body: '', cookies: [/^session=/] })
    t.match(await get(client, '/stream'), { status: 200, body: 'one two', cookies: [/^session=/] })
    t.match(await get(client, '/throw'), { status: 500, body: 'Something went wrong.\n', cookies: [] })
    t.match(await get(client, '/throw', 'HEAD'), { status: 500, body: '', cookies: [] })
    const down = await serve(t, createHttp2Server(listener(failing())))
    t.match(await get(down, '/'), { status: 503, own: undefined, cookies: [], body: /not available/ })
  })

  t.test('what is done to the stream past the response waits for the save too, or is refused', async (t) => {
    const lines = quietly(t)
    const store = memoryStore()
    const saving = gate()
    const slow: SessionStore = {
      ...store,
      create:
        (...all) =>
        () =>
          saving.opened.then(() => store.create(...all)()),
    }
    const answers: Readonly<Record<string, (res: Http2ServerResponse) => unknown>> = {
      '/respond': ({ stream }) => {
        stream.respond({ ':status': 201, 'x-own': 'x', 'set-cookie': ['a=1', 'b=2'] })
        stream.write('one ')
        stream.end('two')
      },
      '/headers': ({ stream }) => stream.respond({ ':status': 204 }, { endStream: true }),
      '/end': (res) => res.stream.end('done'),
      '/pipe': ({ stream }) => void Readable.from(['one ', 'two']).pipe(stream),
      '/late': (res) => {
        res.writeHead(200, { 'X-Own': 'x' })
        res.stream.end('done')
      },
      '/twice': ({ stream }) => {
        stream.respond()
        stream.respond()
      },
      '/file': ({ stream }) => stream.respondWithFile('package.json'),
      '/descriptor': ({ stream }) => stream.respondWithFD(0),
      '/trailers': ({ stream }) => stream.respond({}, { waitForTrailers: true }),
    }
    const thrown: unknown[] = []
    const handler: SessionHandler = async (req, res) => {
      await change()
      try {
        answers[req.url ?? '']?.(res as never)
      } catch (error) {
        thrown.push((error as { _tag?: string; code?: string })._tag ?? (error as { code?: string }).code)
        throw error
      }
      await new Promise<void>((resolve) => {
        res.once('close', resolve)
      })
    }
    const client = await serve(t, createHttp2Server(sessionListener({ store: slow })(handler) as never))
    const early = get(client, '/respond')
    const isEarly = await Promise.race([
      early.then(() => true),
      new Promise((resolve) => setTimeout(resolve, 50)),
    ])
    t.notOk(isEarly, 'nothing goes out before the save')
    saving.open()
    t.match(await early, { status: 201, own: 'x', body: 'one two', cookies: ['a=1', 'b=2', /^session=/] })
    t.match(await get(client, '/headers'), { status: 204, body: '', cookies: [/^session=/] })
    t.match(await get(client, '/end'), { status: 200, body: 'done', cookies: [/^session=/] })
    t.match(await get(client, '/pipe'), { status: 200, body: 'one two', cookies: [/^session=/] })
    t.match(await get(client, '/late'), { status: 200, own: 'x', body: 'done', cookies: [/^session=/] })
    t.strictSame(thrown, [])
    for (const path of ['/twice', '/file', '/descriptor', '/trailers'])
      t.match(await get(client, path), { status: 500, body: 'Something went wrong.\n', cookies: [] }, path)
    t.strictSame(thrown, [
      'ERR_HTTP2_HEADERS_SENT',
      'ResponseRejected',
      'ResponseRejected',
      'ResponseRejected',
    ])
    t.equal(lines.length, 4)
  })

  t.test('a client that resets its stream is not answered, and its edits are kept', async (t) => {
    const store = memoryStore()
    const [begun, gone] = [gate(), gate()]
    const ended: boolean[] = []
    const handler: SessionHandler = async (req, res) => {
      if (req.url === '/show') return res.end(JSON.stringify((await currentSession()).store))
      begun.open()
      await gone.opened
      ended.push(res.writableEnded)
      await change()
      res.end('late')
    }
    const client = await serve(t, createHttp2Server(sessionListener({ store })(handler) as never))
    const token = sessionToken(await saveSession(sessionSet('before', 1)(buildSession(store))))
    const headers = { cookie: `session=${token}` }
    const stream = client.request({ ':path': '/', ...headers })
    await begun.opened
    stream.close(NGHTTP2_CANCEL)
    await once(stream, 'close')
    // When the server has answered a later request, it has seen the cancellation.
    await text(client.request({ ':path': '/show', ...headers }))
    gone.open()
    t.equal(await text(client.request({ ':path': '/show', ...headers })), '{"before":1,"n":1}')
    t.strictSame(ended, [false], 'the end that Node.js makes of it is not an answer')
  })

  t.test('Koa and Fastify', async (t) => {
    const koa = new Koa()
    koa.use(koaDoor.sessionMiddleware({ store: memoryStore() }))
    koa.use(async (ctx) => {
      await change()
      ctx.body = 'koa'
    })
    const listener = koa.callback()
    const overKoa = await serve(
      t,
      createHttp2Server((req, res) => void listener(req, res)),
    )
    t.match(await get(overKoa, '/'), { status: 200, body: 'koa', cookies: [/^session=/] })
    const app = fastify({ http2: true })
    t.teardown(() => app.close())
    app.register(sessionPlugin, { store: memoryStore() } as never)
    app.get('/', async () => {
      await change()
      return 'fastify'
    })
    const overFastify = clientOf(t, await app.listen({ port: 0, host: '127.0.0.1' }))
    t.match(await get(overFastify, '/'), { status: 200, body: 'fastify', cookies: [/^session=/] })
    overFastify.destroy()
  })

  t.test('the host that a form came to is known without the header Host', async (t) => {
    const own = { origin: 'https://shop.example' }
    const method = 'POST'
    const send = async (request: CheckedRequest) => (await verifyCsrf(request)())._tag
    t.equal(await send({ method, headers: { ...own, ':authority': 'shop.example' } }), 'Right')
    t.equal(await send({ method, headers: { ...own, ':authority': 'other.example' } }), 'Left')
    const headers = new Headers(own)
    t.equal(await send(new Request('https://shop.example/form', { method, headers })), 'Right')
    t.equal(await send(new Request('https://other.example/form', { method, headers })), 'Left')
    t.equal(await send({ method, headers }), 'Left', 'and if it is not, a page of any origin is foreign')
  })
})

t.test('of a stream whose save fails nothing goes out, however long the error handler takes', async (t) => {
  /** A stream that continues after the failure, and an error handler that waits for the stream. */
  const racing = () => {
    const [failed, gone] = [gate(), gate()]
    async function* parts(): AsyncIterable<string> {
      yield 'one '
      await failed.opened
      yield 'two '
      await new Promise((resolve) => setImmediate(resolve))
      gone.open()
      yield 'three'
    }
    const wentOn = async (): Promise<void> => {
      failed.open()
      await gone.opened
    }
    return { stream: () => Readable.from(parts()), wentOn }
  }

  t.test('Express', async (t) => {
    const { stream, wentOn } = racing()
    const app = express()
    app.use(expressDoor.sessionMiddleware({ store: failing() }))
    app.get('/', async (_req, res) => {
      await change()
      res.setHeader('X-Own', 'x')
      stream().pipe(res)
    })
    const own: ErrorRequestHandler = async (error: Error & { status?: number }, _req, res, next) => {
      await wentOn()
      if (res.headersSent) next(error)
      else res.status(error.status ?? 500).send(`own ${error.name}`)
    }
    app.use(own)
    const { url, close } = await listening(createServer(app))
    t.teardown(close)
    const answer = await fetch(url)
    t.strictSame([answer.status, answer.headers.get('x-own')], [503, null])
    t.equal(await answer.text(), 'own DriverError')
  })

  t.test('Fastify', async (t) => {
    const { stream, wentOn } = racing()
    const app = fastify({ forceCloseConnections: true })
    t.teardown(() => app.close())
    app.register(sessionPlugin, { store: failing() })
    app.setErrorHandler(async (error: Error & { status?: number }, _request, reply) => {
      await wentOn()
      return reply.code(error.status ?? 500).send(`own ${error.name}`)
    })
    app.get('/', async (_request, reply) => {
      await change()
      return reply.send(stream())
    })
    const answer = await fetch(await app.listen({ port: 0, host: '127.0.0.1' }))
    t.strictSame([answer.status, await answer.text()], [503, 'own DriverError'])
  })
})

t.test('a socket whose handler fails is answered, or closed when it has spoken already', async (t) => {
  const lines = quietly(t)
  const server = createServer()
  const closed: Promise<unknown>[] = []
  server.on('connection', (socket) => closed.push(once(socket, 'close')))
  server.on(
    'upgrade',
    sessionUpgrade({ store: memoryStore() })(async (req, socket) => {
      if (req.url === '/spoken') socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
      await Promise.resolve()
      throw new Error('mine')
    }),
  )
  const { url, close } = await listening(server)
  t.teardown(close)
  const talk = async (path: string): Promise<string> => {
    // The client does not close its side, so the server must close the connection.
    const socket = connectSocket({ port: Number(new URL(url).port), host: '127.0.0.1', allowHalfOpen: true })
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n`)
    t.teardown(() => socket.destroy())
    return text(socket)
  }
  t.match(await talk('/'), /^HTTP\/1\.1 500 .*Something went wrong\.\n$/s)
  t.equal(await talk('/spoken'), 'HTTP/1.1 101 Switching Protocols\r\n\r\n')
  t.equal(lines.length, 2)
  t.equal((await Promise.all(closed)).length, 2, 'no socket stays open')
})

t.test('a response in disguise waits as it would by itself', async (t) => {
  const store = memoryStore()
  const disguises = {
    'a child of it': (res: ServerResponse) => Object.create(res) as ServerResponse,
    'a proxy of it': (res: ServerResponse) => new Proxy(res, {}),
  }
  for (const [name, disguised] of Object.entries(disguises)) {
    const seen: boolean[] = []
    const handler: SessionHandler = async (_, res) => {
      await change()
      const other = disguised(res)
      other.setHeader('x-disguised', 'yes')
      other.end(name)
      other.setHeader('x-disguised', 'late')
      seen.push(other.headersSent, other.writableEnded, res.headersSent, res.writableEnded)
    }
    const { url, close } = await listening(createServer(sessionListener({ store })(handler)))
    t.teardown(close)
    const answer = await fetch(url)
    t.match(answer.headers.get('set-cookie'), /^session=/, name)
    t.strictSame([await answer.text(), answer.headers.get('x-disguised')], [name, 'yes'])
    t.strictSame(seen, [true, true, true, true])
  }
})

t.test('a door within a door: each has its session, and each its cookie', async (t) => {
  const [outer, inner] = [memoryStore(), memoryStore()]
  const app = express()
    .use(expressDoor.sessionMiddleware({ store: outer, cookieName: 'outer' }))
    .use(async (_req, _res, next) => {
      await change()
      next()
    })
    .use(expressDoor.sessionMiddleware({ store: inner, cookieName: 'inner' }))
    .use(async (_req, res) => {
      await change()
      res.send('both')
    })
  const { url, close } = await listening(createServer(app))
  t.teardown(close)
  const answer = await fetch(url)
  t.equal(await answer.text(), 'both')
  const names = answer.headers.getSetCookie().map((cookie) => cookie.split('=')[0])
  t.strictSame(names.sort(), ['inner', 'outer'])
})

t.test('a method of a response without the response says so', async (t) => {
  const thrown: unknown[] = []
  const handler: SessionHandler = (_, res) => {
    try {
      Reflect.apply(Reflect.get(res, 'end') as () => unknown, undefined, ['alone'])
    } catch (error) {
      thrown.push(error)
    }
    res.end('with it')
  }
  const { url, close } = await listening(createServer(sessionListener({ store: memoryStore() })(handler)))
  t.teardown(close)
  t.equal(await (await fetch(url)).text(), 'with it')
  t.match(thrown, [{ name: 'TypeError', message: /without the response/ }])
})

t.test('a store that throws where it should give a Left fails the request, behind every door', async (t) => {
  const lines = quietly(t)
  const good = memoryStore()
  const token = sessionToken(await saveSession(sessionSet('n', 1)(buildSession(good))))
  const store: SessionStore = { ...good, load: () => () => Promise.reject(new Error('mine')) }
  const koa = new Koa().use(koaDoor.sessionMiddleware({ store })).use((ctx) => {
    ctx.body = 'fine'
  })
  koa.silent = true
  const plugged = fastify()
  await plugged.register(sessionPlugin, { store })
  plugged.get('/', async () => 'fine')
  await plugged.ready()
  const failed: ErrorRequestHandler = (_error, _req, res, next) =>
    res.headersSent ? next() : void res.status(500).end()
  const app = express()
    .use(expressDoor.sessionMiddleware({ store }))
    .get('/', (_, res) => void res.send('fine'))
    .use(failed)
  const servers = {
    node: createServer(sessionListener({ store })((_, res) => res.end('fine'))),
    Koa: createServer((req, res) => void koa.callback()(req, res)),
    Fastify: plugged.server,
    Express: createServer(app),
  }
  for (const [name, server] of Object.entries(servers)) {
    const { url, close } = await listening(server)
    t.teardown(close)
    const answer = await fetch(url, {
      headers: { cookie: `session=${token}` },
      signal: AbortSignal.timeout(5_000),
    })
    t.equal(answer.status, 500, name)
    await answer.text()
    t.equal(await (await fetch(url)).text(), 'fine', `${name}: and others are served`)
  }
  const asked = () => new Request('http://shop.example/', { headers: { cookie: `session=${token}` } })
  const handle = fetchHandler({ store })(async () => new Response('fine'))
  t.equal((await handle(asked())).status, 500, 'fetch')
  const hono = new Hono()
    .use(honoDoor.sessionMiddleware({ store }))
    .onError((error, c) => c.text(error.message, 500))
  t.equal(await (await hono.request(asked())).text(), 'mine', 'Hono')
  t.equal(lines.length, 2, 'where no framework answers, it is logged')
})

t.test('what is known when the head goes out decides whether caches may keep the answer', async (t) => {
  const store = memoryStore()
  const out = gate()
  const handler: SessionHandler = async (req, res) => {
    if (req.url === '/before') await currentSession()
    res.writeHead(200, { 'Content-Type': 'text/plain' })
    res.flushHeaders()
    await out.opened
    await currentSession().catch(() => undefined)
    res.end('done')
  }
  const { url, close } = await listening(createServer(sessionListener({ store })(handler)))
  t.teardown(close)
  const answers = await Promise.all(['/before', '/after'].map((path) => fetch(url + path)))
  out.open()
  t.strictSame(
    answers.map(({ headers }) => [headers.get('cache-control'), headers.get('vary')]),
    [
      ['no-store', 'Cookie'],
      [null, null],
    ],
  )
})

t.test('a session that is asked of the request was looked at, too', async (t) => {
  const store = memoryStore()
  const koa = new Koa().use(koaDoor.sessionMiddleware({ store })).use((ctx) => {
    ctx.body = String(ctx.path === '/looks' && ctx.currentSession().store.size)
  })
  const plugged = fastify()
  await plugged.register(sessionPlugin, { store })
  plugged.get('/*', async (request) =>
    String(request.url === '/looks' && request.currentSession().store.size),
  )
  await plugged.ready()
  const app = express().use(expressDoor.sessionMiddleware({ store }))
  app.get('/{*path}', (req, res) => {
    res.send(String(req.path === '/looks' && req.currentSession().store.size))
  })
  const hono = new Hono()
    .use(honoDoor.sessionMiddleware({ store }))
    .get('/*', (c) => c.text(String(c.req.path === '/looks' && c.var.currentSession().store.size)))
    .onError((error, c) => c.text(error.message, 500))
  const servers = {
    Koa: createServer((req, res) => void koa.callback()(req, res)),
    Fastify: plugged.server,
    Express: createServer(app),
  }
  const caching = ({ headers }: Response) => [headers.get('cache-control'), headers.get('vary')]
  for (const [name, server] of Object.entries(servers)) {
    const { url, close } = await listening(server)
    t.teardown(close)
    t.strictSame(caching(await fetch(`${url}/looks`)), ['no-store', 'Cookie'], name)
    t.strictSame(caching(await fetch(`${url}/plain`)), [null, null], name)
  }
  t.strictSame(caching(await hono.request('/looks')), ['no-store', 'Cookie'], 'Hono')
  t.strictSame(caching(await hono.request('/plain')), [null, null], 'Hono')
})

t.test('static files behind a door keep what they say to caches', async (t) => {
  const app = express()
    .use(expressDoor.sessionMiddleware({ store: memoryStore() }))
    .use(express.static(import.meta.dirname, { maxAge: 60_000 }))
  const { url, close } = await listening(createServer(app))
  t.teardown(close)
  const file = await fetch(`${url}/adapters.spec.ts`)
  t.strictSame([file.headers.get('cache-control'), file.headers.get('vary')], ['public, max-age=60', null])
  await file.text()
})

t.test('a path that looks like a format hides nothing in the log', async (t) => {
  const lines = quietly(t)
  defaultErrorResponse(new RangeError('mine'), { method: 'GET', path: '/%c%o' })
  const { format } = await import('node:util')
  t.match(format(...(lines[0] ?? [])), /^keyrow: GET \/%c%o failed \(500\): RangeError: mine/)
})
