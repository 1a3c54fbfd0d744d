// Tests what differs between the adapters of the frameworks: error handling, responses that bypass the framework, and
// types. Also tests WebSockets with `ws`.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import express5, { type ErrorRequestHandler, type RequestHandler } from 'express'
import express4 from 'express4'
import fastify5, { type FastifyInstance } from 'fastify'
import fastify4 from 'fastify4'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import Koa3 from 'koa'
import Koa2 from 'koa2'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { DriverError, NoCurrentSession, SessionClosed } from '../lib/core/errors.js'
import { tokenGuard } from '../lib/http/adapter.js'
import * as ourExpress from '../lib/http/express.js'
import { sessionPlugin } from '../lib/http/fastify.js'
import { fetchHandler } from '../lib/http/fetch.js'
import * as honoDoor from '../lib/http/hono.js'
import * as koaDoor from '../lib/http/koa.js'
import { sessionUpgrade, type UpgradeOptions } from '../lib/http/node.js'
import {
  buildSession,
  currentSession,
  destroySession,
  loadSession,
  refreshSession,
  rotateSession,
  saveSession,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionRef,
  sessionSet,
  sessionToken,
  sessionUpdate,
  signIn,
  updateCurrentSession,
  verifyCsrf,
} from '../lib/promise/index.js'
import type { SessionStore } from '../lib/store/contract.js'
import { onSessionEvent } from '../lib/store/events.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening } from './support/adapters.js'

const count = () => updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))

const failing = (store: SessionStore): SessionStore => ({
  ...store,
  create: () => TE.left(new DriverError('db.internal is down', { retryable: true })),
})

/** Makes a store with one session, in which `n` is 1. */
const withOne = async () => {
  const store = memoryStore()
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const token = sessionToken(session)
  return { store, session, token, cookie: `session=${token}` }
}

const ask = async (url: string, cookie = '', init: RequestInit = {}) => {
  const response = await fetch(url, { ...init, headers: { cookie } })
  const headers = new Headers(response.headers)
  // The dates of two responses may differ.
  headers.delete('date')
  return { status: response.status, body: await response.text(), given: headers.getSetCookie(), headers }
}

const held = async (store: SessionStore, cookie: string): Promise<unknown> => {
  const handle = fetchHandler({ store })(
    async () => new Response(JSON.stringify(sessionRef('n', 'nothing')(await currentSession()))),
  )
  return (await handle(new Request('http://x/', { headers: { cookie } }))).text()
}

/** Passes the rejection of a handler to `next`, because Express 4 ignores promises. */
const passing =
  (handler: RequestHandler): RequestHandler =>
  (req, res, next) =>
    void Promise.resolve(handler(req, res, next)).catch(next)

for (const { name, express, settled } of [
  { name: 'Express 5', express: express5, settled: (handler: RequestHandler) => handler },
  { name: 'Express 4', express: express4, settled: passing },
])
  t.test(name, async (t) => {
    const serve = async (t: Test, app: express5.Express) => {
      app.set('env', 'test')
      const served = await listening(createServer(app))
      t.teardown(served.close)
      return served.url
    }

    t.test(
      "errors go to the application's own error handler, with their status, and drop the edits",
      async (t) => {
        const { store, cookie } = await withOne()
        const seen: unknown[] = []
        const app = express()
        app.use((_req, res, next) => {
          res.setHeader('X-Before', 'kept')
          next()
        })
        app.use(ourExpress.sessionMiddleware({ store }))
        app.get(
          '/bad',
          settled(async (_req, res) => {
            await updateCurrentSession(sessionSet('n', 2))
            res.setHeader('X-Own', 'x')
            await updateCurrentSession(sessionSet('text', 'a\u0000b'))
          }),
        )
        app.get(
          '/passed',
          settled(async (_req, _res, next) => {
            await count()
            next(new Error('mine'))
          }),
        )
        app.get(
          '/gone',
          settled(async (_req, res) => {
            await destroySession(await refreshSession(await currentSession()))
            await updateCurrentSession(sessionSet('n', 3))
            res.send('done')
          }),
        )
        const own: ErrorRequestHandler = (error: Error & { status?: number }, _req, res, next) => {
          if (res.headersSent) next(error)
          seen.push(error.name)
          res.status(error.status ?? 418).send('own')
        }
        app.use(own)
        const url = await serve(t, app)
        const bad = await ask(`${url}/bad`, cookie)
        t.strictSame([bad.status, bad.body, bad.headers.get('x-before')], [400, 'own', 'kept'])
        const passed = await ask(`${url}/passed`, cookie)
        t.strictSame([passed.status, passed.body], [418, 'own'])
        t.equal(await held(store, cookie), '1')
        t.equal((await ask(`${url}/gone`, cookie)).status, 409)
        t.strictSame(seen, ['EncodeError', 'Error', 'SessionGone'])
      },
    )

    t.test('a save that fails goes there too, without what the handler wrote', async (t) => {
      const seen: unknown[] = []
      const app = express()
      app.use(ourExpress.sessionMiddleware({ store: failing(memoryStore()) }))
      app.get(
        '/',
        settled(async (_req, res) => {
          await count()
          res.cookie('own', '1').set('Location', '/').status(302).send('all is well')
        }),
      )
      const own: ErrorRequestHandler = (error: Error & { status?: number }, _req, res, next) => {
        if (res.headersSent) next(error)
        seen.push(error.name, error.status)
        res.status(error.status ?? 500).send('own')
      }
      app.use(own)
      const answer = await ask(await serve(t, app))
      t.strictSame([answer.status, answer.body, answer.given], [503, 'own', []])
      t.strictSame([answer.headers.get('location'), seen], [null, ['DriverError', 503]])
    })

    t.test('an error that was overcome fails nothing', async (t) => {
      const { store, cookie } = await withOne()
      const app = express()
      app.use(ourExpress.sessionMiddleware({ store }))
      app.use((_req, _res, next) => next(new Error('a cache is down')))
      const overcome: ErrorRequestHandler = (_error, _req, _res, next) => next()
      app.use(overcome)
      app.get(
        '/',
        settled(async (_req, res) => {
          await count()
          res.send('done')
        }),
      )
      t.equal((await ask(await serve(t, app), cookie)).status, 200)
      t.equal(await held(store, cookie), '2')
    })

    t.test('next called twice, and an answer given twice, answer once', async (t) => {
      const { store, cookie } = await withOne()
      const app = express()
      app.use(ourExpress.sessionMiddleware({ store }))
      app.use((_req, _res, next) => {
        next()
        next()
      })
      app.get(
        '/',
        settled(async (_req, res) => {
          await count()
          res.send('once')
        }),
      )
      app.use((_req, res) => void res.send('twice'))
      const url = await serve(t, app)
      const answer = await ask(url, cookie)
      t.strictSame([answer.status, answer.body], [200, 'twice'], 'the first of two answers, and whole')
      t.equal((await ask(url, cookie)).status, 200, 'the server lives on')
    })

    t.test('a handler that throws after it has handle stores nothing', async (t) => {
      const { store, cookie } = await withOne()
      const app = express()
      app.use(ourExpress.sessionMiddleware({ store }))
      app.get(
        '/',
        settled(async (_req, res) => {
          await count()
          res.send('done')
          throw new Error('mine')
        }),
      )
      const answer = await ask(await serve(t, app), cookie)
      t.strictSame([answer.status, answer.body.includes('done')], [500, false])
      t.equal(await held(store, cookie), '1')
    })

    t.test('mounted on a path, twice, in a router: a handler sees the session as it is', async (t) => {
      const { store, cookie } = await withOne()
      const app = express()
      const inner = express.Router()
      inner.use(express.urlencoded({ extended: false }), express.json())
      inner.post(
        '/',
        settled(async (req, res) => {
          await count()
          res.json([sessionRef('n')(req.currentSession()), (req.body as { a?: string }).a])
        }),
      )
      app.use('/shop', ourExpress.sessionMiddleware({ store }), inner)
      app.get('/', (req, res) => res.send(typeof req.currentSession))
      const url = await serve(t, app)
      const init = { method: 'POST', body: new URLSearchParams({ a: 'b' }) }
      t.equal((await ask(`${url}/shop`, cookie, init)).body, '[2,"b"]')
      t.equal((await ask(url, cookie)).body, 'undefined')
    })

    t.test('an error that is handle by 4xx drops the edits, wherever it came from', async (t) => {
      const { store, cookie } = await withOne()
      const app = express()
      const inner = express.Router()
      const refused = (status: number) => Object.assign(new Error('refused'), { status })
      app.use(ourExpress.sessionMiddleware({ store }))
      app.use(
        settled(async (_req, _res, next) => {
          await count()
          next()
        }),
      )
      for (const router of [app, inner]) {
        router.param('id', (_req, _res, next, id) => next(id === 'good' ? undefined : refused(404)))
        router.get('/thrown', () => {
          throw refused(400)
        })
        router.get('/passed', (_req, _res, next) => next(refused(403)))
        router.get('/late', (_req, _res, next) => setImmediate(() => next(refused(410))))
        router.get(
          '/rejected',
          settled(async () => Promise.reject(refused(422))),
        )
        router.get('/of/:id', (_req, res) => void res.send('done'))
        router.get('/route', (_req, _res, next) => next('route'))
        router.get('/handle', (_req, res, next) => {
          res.send('done')
          next(refused(409))
        })
      }
      app.use('/inner', inner)
      app.get('/own', (_req, res) => void res.status(404).send('no error'))
      const url = await serve(t, app)
      const statuses: [string, number][] = []
      for (const prefix of ['', '/inner'])
        for (const path of ['/thrown', '/passed', '/late', '/rejected', '/of/bad', '/handle'])
          statuses.push([path, (await ask(`${url}${prefix}${path}`, cookie)).status])
      const expected = [400, 403, 410, 422, 404, 409]
      t.strictSame(
        statuses.map(([, status]) => status),
        [...expected, ...expected],
      )
      t.equal(await held(store, cookie), '1', 'an answer by the framework itself')
      const handled: ErrorRequestHandler = (error: { status: number }, _req, res, next) => {
        res.status(error.status).send('mine')
        // The call of `next` comes too late, which is a common mistake.
        next(error)
      }
      app.use(handled)
      for (const prefix of ['', '/inner'])
        for (const path of ['/thrown', '/passed', '/of/bad', '/of/%ff', '/handle']) {
          const { status, body } = await ask(`${url}${prefix}${path}`, cookie)
          t.match([status, body], [/^4/, 'mine'], prefix + path)
        }
      t.equal(await held(store, cookie), '1', "an answer by the program's own handler")
      t.equal((await ask(`${url}/of/good`, cookie)).status, 200)
      t.equal((await ask(`${url}/own`, cookie)).status, 404)
      t.equal((await ask(`${url}/inner/route`, cookie)).status, 404)
      t.equal(await held(store, cookie), '4', 'no error')
    })
  })

for (const { name, fastify } of [
  { name: 'Fastify 5', fastify: fastify5 },
  { name: 'Fastify 4', fastify: fastify4 as unknown as typeof fastify5 },
])
  t.test(name, async (t) => {
    const serve = async (t: Test, app: FastifyInstance) => {
      t.teardown(() => app.close())
      return (await app.listen({ port: 0, host: '127.0.0.1' })).replace(/\/$/, '')
    }

    t.test(
      'hooks and handlers share the session; the error handler answers, and drops the edits',
      async (t) => {
        const { store, cookie } = await withOne()
        const seen: unknown[] = []
        const app = fastify({ forceCloseConnections: true })
        app.register(sessionPlugin, { store })
        app.addHook('preHandler', async () => {
          await count()
        })
        app.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) => {
          seen.push(error.name)
          return reply.code(error.statusCode ?? 418).send('own')
        })
        app.post('/', async (request) => [sessionRef('n')(request.currentSession()), request.body])
        app.get('/sent', (_request, reply) => {
          reply.send(new Error('mine'))
        })
        app.get('/thrown', () => {
          throw new Error('mine')
        })
        app.get('/bad', async () => updateCurrentSession(sessionSet('text', 'a\u0000b')))
        const url = await serve(t, app)
        const init = {
          method: 'POST',
          body: '{"a":1}',
          headers: { 'content-type': 'application/json', cookie },
        }
        t.equal(await (await fetch(url, init)).text(), '[2,{"a":1}]')
        t.equal((await ask(`${url}/sent`, cookie)).status, 418)
        t.equal((await ask(`${url}/thrown`, cookie)).status, 418)
        t.equal((await ask(`${url}/bad`, cookie)).status, 400)
        t.strictSame(seen, ['Error', 'Error', 'EncodeError'])
        t.equal(await held(store, cookie), '2')
      },
    )

    t.test('a save that fails goes to the error handler, without the headers of the answer', async (t) => {
      const app = fastify({ forceCloseConnections: true })
      app.addHook('onRequest', async (_request, reply) => {
        reply.header('X-Before', 'kept')
      })
      app.register(sessionPlugin, { store: failing(memoryStore()) })
      app.get('/', async (_request, reply) => {
        await count()
        return reply.header('X-Own', 'x').header('Set-Cookie', 'a=1').code(201).send({ all: 'well' })
      })
      const answer = await ask(await serve(t, app))
      t.strictSame([answer.status, answer.given], [503, []])
      t.strictSame([answer.headers.get('x-own'), answer.headers.get('x-before')], [null, 'kept'])
      t.match(JSON.parse(answer.body), { statusCode: 503 })
    })

    t.test('a hijacked reply is saved before its first byte', async (t) => {
      const store = memoryStore()
      const app = fastify({ forceCloseConnections: true })
      app.register(sessionPlugin, { store })
      app.get('/', async (_request, reply) => {
        await count()
        reply.hijack()
        reply.raw.writeHead(200, { 'Content-Type': 'text/plain' })
        reply.raw.end('raw')
      })
      const answer = await ask(await serve(t, app))
      t.equal(answer.body, 'raw')
      t.equal(await held(store, answer.given[0]?.split(';')[0] ?? ''), '1')
    })

    t.test('a reply that is sent by callback, and one that is not found', async (t) => {
      const { store, cookie } = await withOne()
      const app = fastify({ forceCloseConnections: true })
      app.register(sessionPlugin, { store })
      app.get('/', (_request, reply) => {
        count().then(
          () => reply.send('sent'),
          (error: unknown) => reply.send(error),
        )
      })
      const url = await serve(t, app)
      t.equal((await ask(url, cookie)).body, 'sent')
      t.equal((await ask(`${url}/nowhere`, cookie)).status, 404)
      t.equal(await held(store, cookie), '2')
    })
  })

for (const { name, Koa } of [
  { name: 'Koa 3', Koa: Koa3 },
  { name: 'Koa 2', Koa: Koa2 },
])
  t.test(name, async (t) => {
    const serve = async (t: Test, app: Koa3) => {
      app.silent = true
      const served = await listening(createServer((req, res) => void app.callback()(req, res)))
      t.teardown(served.close)
      return served.url
    }

    t.test(
      'what is thrown comes out above; who catches it there answers, and the edits are dropped',
      async (t) => {
        const { store, cookie } = await withOne()
        const seen: unknown[] = []
        const app = new Koa()
        app.use(async (ctx, next) => {
          try {
            await next()
          } catch (error) {
            seen.push((error as Error).name)
            ctx.status = (error as { status?: number }).status ?? 418
            ctx.body = 'caught'
          }
        })
        app.use(koaDoor.sessionMiddleware({ store }))
        app.use(async (ctx) => {
          await count()
          ctx.set('X-Own', 'x')
          if (ctx.path === '/bad') await updateCurrentSession(sessionSet('text', 'a\u0000b'))
          if (ctx.path === '/throw') ctx.throw(422, 'mine')
          ctx.body = sessionRef('n')(ctx.currentSession())
        })
        const url = await serve(t, app)
        t.strictSame(await ask(`${url}/bad`, cookie), {
          ...(await ask(`${url}/bad`, cookie)),
          status: 400,
          body: 'caught',
        })
        t.equal((await ask(`${url}/throw`, cookie)).status, 422)
        t.equal(await held(store, cookie), '1')
        t.equal((await ask(url, cookie)).body, '2')
        t.match(seen, ['EncodeError', 'EncodeError', /Error/])
      },
    )

    t.test('a save that fails comes out above too; Koa answers with its status', async (t) => {
      const told: unknown[] = []
      const app = new Koa()
      app.on('error', (error: Error) => told.push(error.name))
      app.use(koaDoor.sessionMiddleware({ store: failing(memoryStore()) }))
      app.use(async (ctx) => {
        await count()
        ctx.set('Set-Cookie', 'a=1')
        ctx.body = 'all is well'
      })
      const answer = await ask(await serve(t, app))
      t.strictSame([answer.status, answer.body, answer.given], [503, 'Service Unavailable', []])
      t.strictSame(told, ['DriverError'])
    })

    t.test('a response that is written past Koa is saved before its first byte', async (t) => {
      const store = memoryStore()
      const app = new Koa()
      app.use(koaDoor.sessionMiddleware({ store }))
      app.use(async (ctx) => {
        await count()
        ctx.respond = false
        ctx.res.statusCode = 200
        ctx.res.end('raw')
      })
      const answer = await ask(await serve(t, app))
      t.equal(answer.body, 'raw')
      t.equal(await held(store, answer.given[0]?.split(';')[0] ?? ''), '1')
    })
  })

t.test('Hono', async (t) => {
  const asked = async (app: Hono, path: string, cookie = '') => {
    const response = await app.request(path, { headers: { cookie } })
    return { status: response.status, body: await response.text(), headers: response.headers }
  }

  t.test('onError answers what is thrown, with its status, and the edits are dropped', async (t) => {
    const { store, cookie } = await withOne()
    const app = new Hono()
    const error = console.error
    console.error = () => undefined
    t.teardown(() => {
      console.error = error
    })
    app.use(honoDoor.sessionMiddleware({ store }))
    app.get('/bad', async (c) => c.json((await updateCurrentSession(sessionSet('text', 'a\u0000b'))).store))
    app.get('/refuse', async () => {
      await count()
      throw new HTTPException(422, { message: 'mine' })
    })
    app.get('/', async (c) => {
      await count()
      return c.json(sessionRef('n')(c.var.currentSession()))
    })
    t.strictSame((await asked(app, '/bad', cookie)).status, 400)
    t.match(await asked(app, '/refuse', cookie), { status: 422, body: 'mine' })
    t.equal(await held(store, cookie), '1')
    t.equal((await asked(app, '/', cookie)).body, '2')
    app.onError((thrown, c) => c.text(`own ${thrown.name}`, 418))
    t.match(await asked(app, '/bad', cookie), { status: 418, body: 'own EncodeError' })
  })

  t.test('a save that fails is handle by onError, with nothing of the answer that was given', async (t) => {
    const app = new Hono()
    app.use(honoDoor.sessionMiddleware({ store: failing(memoryStore()) }))
    app.onError((thrown) => new Response(`own ${thrown.name}`, { status: 503 }))
    app.get('/', async (c) => {
      await count()
      c.header('X-Own', 'x')
      c.header('Set-Cookie', 'a=1')
      return c.redirect('/next')
    })
    const answer = await asked(app, '/')
    t.strictSame([answer.status, answer.body], [503, 'own DriverError'])
    t.strictSame(
      ['x-own', 'location', 'set-cookie'].map((name) => answer.headers.get(name)),
      [null, null, null],
    )
  })
})

t.test('fetch', async (t) => {
  t.test('answers that cannot be changed get their cookie, and TaskEithers are run', async (t) => {
    const store = memoryStore()
    const session = await saveSession(sessionSet('to', 1)(buildSession(store)))
    const handle = fetchHandler({ store })((request: Request, environment: { readonly name: string }) => {
      const path = new URL(request.url).pathname
      if (path === '/redirect') return count().then(() => Response.redirect('https://shop.example/next', 303))
      return TE.fromTask(async () => {
        await count()
        return new Response(environment.name)
      })
    })
    const environment = { name: 'from the server' }
    const moved = await handle(new Request('https://shop.example/redirect'), environment)
    t.strictSame([moved.status, moved.headers.get('location')], [303, 'https://shop.example/next'])
    t.match(moved.headers.getSetCookie(), [/^__Host-session=/])
    t.equal(await (await handle(new Request('https://shop.example/'), environment)).text(), 'from the server')
    t.equal(session.store.size, 1)
  })

  t.test(
    'what no server can send is a failure, and nothing is stored; what cannot be changed is copied',
    async (t) => {
      const origin = await listening(
        createServer((_req, res) => res.setHeader('X-Own', 'x').end('from elsewhere')),
      )
      t.teardown(origin.close)
      const answers: Readonly<Record<string, () => unknown>> = {
        '/error': () => Response.error(),
        '/text': () => 'a text',
        '/upgraded': () => undefined,
        '/redirect': () => Response.redirect('https://shop.example/next', 303),
        '/passed': () => fetch(origin.url),
      }
      const store = memoryStore()
      const handler = async (path: string): Promise<unknown> => {
        await count()
        return answers[path]?.()
      }
      const failures: unknown[] = []
      const onError = (failure: unknown) => {
        failures.push((failure as { _tag?: string })._tag)
        return { status: 500, body: 'mine' }
      }
      const fetching = fetchHandler({ store, onError })((request) => handler(new URL(request.url).pathname))
      const app = new Hono()
      app.use(honoDoor.sessionMiddleware({ store }))
      app.onError((error, c) => c.text(onError(error).body, 500))
      app.all('*', (c) => handler(c.req.path) as Promise<Response>)
      for (const [door, refused] of [
        [fetching, ['/error', '/text', '/upgraded']],
        [(request: Request) => app.fetch(request), ['/error']],
      ] as const) {
        for (const path of refused) {
          const answer = await door(new Request(`http://shop.example${path}`))
          t.strictSame(
            [answer.status, await answer.text(), answer.headers.getSetCookie()],
            [500, 'mine', []],
            path,
          )
          t.strictSame(failures.splice(0), ['ResponseRejected'])
        }
        for (const [path, status, body] of [
          ['/redirect', 303, ''],
          ['/passed', 200, 'from elsewhere'],
        ] as const) {
          const answer = await door(new Request(`http://shop.example${path}`))
          t.strictSame([answer.status, await answer.text()], [status, body])
          t.match(answer.headers.getSetCookie(), [/^session=/])
        }
      }
    },
  )

  t.test('a response that is given to every visitor takes no session from one to the next', async (t) => {
    const shared = new Response(null, { status: 204, headers: { 'Cache-Control': 'public' } })
    const app = new Hono()
    app.use(honoDoor.sessionMiddleware({ store: memoryStore() }))
    const handler = async (path: string): Promise<Response> => {
      if (path === '/in') await signIn('ada')
      return shared
    }
    app.all('*', (c) => handler(c.req.path))
    const fetching = fetchHandler({ store: memoryStore() })((request) =>
      handler(new URL(request.url).pathname),
    )
    for (const door of [(request: Request) => app.fetch(request), fetching]) {
      const first = await door(new Request('http://x/in'))
      t.equal(first.headers.getSetCookie().length, 1)
      const next = await door(new Request('http://x/'))
      t.strictSame([next.headers.getSetCookie(), next.headers.get('cache-control')], [[], 'public'])
    }
  })

  t.test('a failure is handle as with node:http, and logged', async (t) => {
    const lines: unknown[][] = []
    const log = console.error
    console.error = (...line: unknown[]) => lines.push(line)
    t.teardown(() => {
      console.error = log
    })
    const handle = fetchHandler({ store: failing(memoryStore()) })(async () => {
      await count()
      return new Response('all is well')
    })
    const answer = await handle(new Request('http://x/page?secret=1'))
    t.strictSame([answer.status, answer.headers.get('retry-after')], [503, '5'])
    t.notMatch(await answer.text(), /internal/)
    t.match(lines, [['keyrow: GET /page failed (503):', 'DriverError: db.internal is down']])
  })

  t.test('the guard counts by the address that the server tells', async (t) => {
    const guard = tokenGuard({ limit: 1, block: false })
    const told: unknown[] = []
    t.teardown(onSessionEvent('tokenAbuse', (event) => told.push(event)))
    const handle = fetchHandler({
      store: memoryStore(),
      guard,
      addressOf: ({ url }) => new URL(url).hostname,
    })(() => new Response('served'))
    for (const [host, token] of [
      ['[2001:db8:1:2::1]', 'a'],
      ['[2001:db8:1:2:ffff::9]', 'b'],
      ['[2001:db8:1:2::1]', 'c'],
      ['[2001:db8:1:3::1]', 'd'],
      ['127.0.0.1', 'e'],
    ])
      t.equal(
        (
          await handle(
            new Request(`http://${String(host)}/`, { headers: { cookie: `session=${String(token)}` } }),
          )
        ).status,
        200,
      )
    t.match(told, [{ tokens: 2, blocked: false }], 'a network is one, told once; nobody is refused')
  })
})

t.test('a guard remembers so many addresses, and forgets the oldest', async (t) => {
  const told: string[] = []
  t.teardown(onSessionEvent('tokenAbuse', ({ address }) => told.push(address)))
  const guard = tokenGuard({ limit: 1, maxAddresses: 2 })
  for (const address of ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.1', '::ffff:10.0.0.1'])
    guard.count(address, `${address} ${String(told.length)}`)
  t.strictSame(told, ['10.0.0.1'], 'an IPv4 address, however it is written')
  guard.count(undefined, 'x')
  t.notOk(guard.refuses(undefined), 'a client without an address is not counted')
})

t.test('messages: the last twenty are kept, and only what was shown is taken away', async (t) => {
  const store = memoryStore()
  const full = Array.from({ length: 25 }, (_, n) => sessionFlash('info', String(n))).reduce(
    (session, add) => add(session),
    buildSession(store),
  )
  t.strictSame(
    sessionFlashes(full).map(({ text }) => text),
    Array.from({ length: 20 }, (_, n) => String(n + 5)),
  )
  const saved = await saveSession(full)
  await saveSession(sessionFlash('info', 'meanwhile')(saved))
  const taken = await saveSession(sessionClearFlashes(sessionFlashes(saved))(saved))
  t.match(sessionFlashes(taken), [{ text: 'meanwhile' }])
})

t.test('outside of a door there is nothing to check a form against', async (t) => {
  await t.rejects(verifyCsrf({ method: 'POST', headers: {} }, 'x'), new NoCurrentSession())
})

t.test('WebSockets', async (t) => {
  const serve = async (t: Test, options: UpgradeOptions) => {
    const sockets = new WebSocketServer({ noServer: true })
    const outcomes: unknown[] = []
    sockets.on('connection', (socket: WebSocket, session: ReturnType<typeof buildSession>) => {
      socket.on('message', () => {
        const change = sessionSet('n', 99)(session)
        Promise.allSettled([saveSession(change), rotateSession(session), refreshSession(session)])
          .then((settled) => {
            outcomes.push(
              ...settled.map((one) => (one.status === 'rejected' ? (one.reason as unknown) : one.status)),
            )
            socket.send(JSON.stringify(sessionRef('n')(session)))
          })
          .catch(() => undefined)
      })
    })
    const server = createServer()
    server.on(
      'upgrade',
      sessionUpgrade(options)((req, socket, head, session) => {
        if (session === undefined) socket.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n')
        else sockets.handleUpgrade(req, socket, head, (opened) => sockets.emit('connection', opened, session))
      }),
    )
    const served = await listening(server)
    t.teardown(served.close)
    return { url: served.url.replace('http', 'ws'), outcomes }
  }

  /** Returns the status of a rejected upgrade, or the answer to a message. */
  const talk = async (url: string, headers: Record<string, string>): Promise<unknown> => {
    const socket = new WebSocket(url, { headers })
    const refused = once(socket, 'unexpected-response').then(
      ([, response]) => (response as { statusCode: number }).statusCode,
    )
    refused.catch(() => undefined)
    socket.on('error', () => undefined)
    const handle = once(socket, 'open').then(async () => {
      socket.send('hello')
      const [message] = (await once(socket, 'message')) as [Buffer]
      socket.close()
      return message.toString()
    })
    handle.catch(() => undefined)
    return Promise.any([refused, handle])
  }

  t.test('have the session of their request, to be read; changing it is refused', async (t) => {
    const { store, cookie, token } = await withOne()
    const { url, outcomes } = await serve(t, { store })
    t.equal(await talk(url, { cookie }), '1')
    t.strictSame(
      outcomes.map((outcome) => outcome instanceof SessionClosed),
      [true, true, true],
    )
    t.equal(await held(store, cookie), '1')
    t.equal(await talk(url, {}), 401)
    t.equal(await talk(url, { cookie: `session=${token}x` }), 401)
  })

  t.test('have what arrived by a form of another site, and leave it to a request', async (t) => {
    const { store, cookie } = await withOne()
    const crossSite = await saveSession(sessionSet('n', 2)(buildSession(store)))
    const crossSiteCookie = `session-cross-site=${sessionToken(crossSite)}`
    const { url } = await serve(t, { store })
    t.equal(await talk(url, { cookie: `${cookie}; ${crossSiteCookie}` }), '2')
    t.equal(await talk(url, { cookie: crossSiteCookie }), '2')
    t.equal(await talk(url, { cookie }), '1')
    t.ok(await loadSession(store, sessionToken(crossSite)))
  })

  t.test('of a page of another origin have none', async (t) => {
    const { store, cookie } = await withOne()
    const { url } = await serve(t, { store })
    t.equal(await talk(url, { cookie, origin: 'https://evil.example' }), 401)
    t.equal(await talk(url, { cookie, origin: url.replace('ws', 'http') }), '1')
    t.equal(await talk(url, { cookie, origin: 'null' }), 401, 'nor of one that is hidden')
    t.equal(await talk(url, { cookie, 'sec-fetch-site': 'same-site' }), 401)
    const proxied = await serve(t, { store, trustProxy: true })
    const https = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'shop.example:443' }
    const secure = { ...https, cookie: `__Host-${cookie}` }
    t.equal(await talk(proxied.url, { ...secure, origin: 'https://SHOP.example' }), '1')
    t.equal(await talk(proxied.url, { ...secure, origin: 'http://shop.example' }), 401)
    const open = await serve(t, { store, sameSite: 'none' })
    t.equal(await talk(open.url, { cookie, origin: 'https://other.example' }), '1')
  })

  t.test('are handle 503 when the store is down, and survive a client that leaves', async (t) => {
    const { store, cookie } = await withOne()
    const down: SessionStore = { ...store, load: () => TE.left(new DriverError('down', { retryable: true })) }
    const { url } = await serve(t, { store: down, onError: () => ({ status: 503, body: 'down' }) })
    t.equal(await talk(url, { cookie }), 503)
    let load = (): void => undefined
    const loading = new Promise<void>((resolve) => {
      load = resolve
    })
    const slow: SessionStore = {
      ...store,
      load:
        (...all) =>
        () =>
          loading.then(() => store.load(...all)()),
    }
    const slowly = await serve(t, { store: slow })
    const socket = connect(Number(new URL(slowly.url).port), '127.0.0.1')
    const head = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
    socket.write(`${head}Cookie: ${cookie}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n`)
    await new Promise((resolve) => setTimeout(resolve, 30))
    socket.resetAndDestroy()
    await new Promise((resolve) => setTimeout(resolve, 30))
    load()
    t.equal(await talk(slowly.url, { cookie }), '1', 'the server lives on')
  })
})

t.test('a body that is read late has its session', async (t) => {
  const store = memoryStore()
  const handle = fetchHandler({ store })(async (request) => {
    const said = await text(request.body as never)
    await count()
    return new Response(said)
  })
  const answer = await handle(new Request('http://x/', { method: 'POST', body: 'said' }))
  t.equal(await answer.text(), 'said')
})
