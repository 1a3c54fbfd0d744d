// Tests the `node:http` adapter from the side of its clients, including hostile clients.

import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, get as getTls } from 'node:https'
import { type AddressInfo, connect } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import * as E from 'fp-ts/lib/Either.js'
import { generate } from 'selfsigned'
import t, { type Test } from 'tap'
import { DriverError, NoCurrentSession } from '../lib/core/errors.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { defaultErrorResponse, type SessionListenerOptions, sessionListener } from '../lib/http/node.js'
import {
  buildSession,
  currentSession,
  destroySession,
  rotateSession,
  saveSession,
  sessionRef,
  sessionSet,
  sessionToken,
  updateCurrentSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import type { SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { quietPool } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { right } from './support/stores.js'

type Handler = (req: IncomingMessage, res: ServerResponse) => unknown

interface Serving extends Partial<SessionListenerOptions> {
  readonly failures?: unknown[]
}

/** Serves on a free port until the test ends. `failures` collects the failures, which get the default response. */
const serve = async (
  t: Test,
  handler: Handler,
  { failures = [], ...options }: Serving = {},
): Promise<string> => {
  const onError = (failure: unknown) => {
    failures.push(failure)
    return statusOf(failure)
  }
  const listener = sessionListener({ store: memoryStore(), onError, ...options })(handler)
  const server = createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${String((server.address() as AddressInfo).port)}/`
}

// Returns the default response to a failure, without a line in the log.
const statusOf = (failure: unknown) => {
  const log = console.error
  console.error = () => undefined
  try {
    return defaultErrorResponse(failure, { method: 'GET', path: '/' })
  } finally {
    console.error = log
  }
}

const visit = async (_: IncomingMessage, res: ServerResponse): Promise<void> => {
  const visits = Number(sessionRef('visits', 0)(await currentSession())) + 1
  await updateCurrentSession(sessionSet('visits', visits))
  res.end(String(visits))
}

const get = async (url: string, cookie?: string, headers: Record<string, string> = {}) => {
  const response = await fetch(url, {
    redirect: 'manual',
    headers: { ...headers, ...(cookie === undefined ? {} : { cookie }) },
  })
  const setCookie = response.headers.getSetCookie()
  return {
    status: response.status,
    body: await response.text(),
    setCookie,
    cookie: setCookie.at(-1)?.split(';')[0] ?? '',
    headers: response.headers,
  }
}

t.test('the cookie', async (t) => {
  t.test(
    'is HttpOnly, SameSite=Lax, for the whole host, without a domain; its answer is not stored by caches',
    async (t) => {
      const url = await serve(t, (req, res) => {
        res.setHeader('Cache-Control', 'public, max-age=60')
        return visit(req, res)
      })
      const first = await get(url)
      t.match(first.setCookie, [/^session=[0-9a-f-]{36}\.[\w-]{43}; Path=\/; HttpOnly; SameSite=Lax$/])
      t.equal(first.headers.get('cache-control'), 'no-store')
      const second = await get(url, first.cookie)
      t.strictSame(
        [second.body, second.setCookie, second.headers.get('cache-control')],
        ['2', [], 'public, max-age=60'],
      )
    },
  )

  t.test('is Secure and __Host- behind a trusted proxy that says https, and only then', async (t) => {
    const trusting = await serve(t, visit, { trustProxy: true })
    const wary = await serve(t, visit)
    const https = { 'x-forwarded-proto': 'https' }
    const secure = await get(trusting, undefined, https)
    t.match(secure.setCookie, [/^__Host-session=[^;]+; Path=\/; HttpOnly; Secure; SameSite=Lax$/])
    t.equal((await get(trusting, secure.cookie, https)).body, '2')
    t.match((await get(trusting, undefined, { 'x-forwarded-proto': 'http' })).setCookie, [
      /^session=[^;]+; Path=\/; HttpOnly; SameSite=Lax$/,
    ])
    t.match((await get(wary, undefined, https)).setCookie, [
      /^session=[^;]+; Path=\/; HttpOnly; SameSite=Lax$/,
    ])
    const downgraded = secure.cookie.replace('__Host-', '')
    t.equal(
      (await get(trusting, downgraded, https)).body,
      '1',
      'a cookie without the prefix is not taken over https',
    )
  })

  t.test('is Secure and __Host- over TLS', async (t) => {
    const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }])
    const server = createTlsServer({ key, cert }, sessionListener({ store: memoryStore() })(visit))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => server.close())
    const { port } = server.address() as AddressInfo
    const asked = getTls({ host: '127.0.0.1', port, rejectUnauthorized: false, agent: false })
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    response.resume()
    t.match(response.headers['set-cookie'], [
      /^__Host-session=[^;]+; Path=\/; HttpOnly; Secure; SameSite=Lax$/,
    ])
  })

  t.test('can have another name, another SameSite, and outlive the browser', async (t) => {
    const store = memoryStore({ absoluteMs: 3_600_000 })
    const url = await serve(t, visit, {
      store,
      cookieName: 'shop',
      sameSite: 'strict',
      persistent: true,
    })
    // The user entered this address, so a browser would send a strict cookie.
    const typed = await get(url, undefined, { 'sec-fetch-site': 'none' })
    t.match(typed.setCookie, [/^shop=[^;]+; Max-Age=3600; Path=\/; HttpOnly; SameSite=Strict$/])
    for (const cookieName of ['', 'a b', 'a;b', 'a=b', '__Host-a'])
      t.throws(() => sessionListener({ store, cookieName }), TypeError, cookieName)
  })

  t.test("leaves the handler's own headers and cookies alone, however they are given", async (t) => {
    const heads: readonly ((res: ServerResponse) => void)[] = [
      (res) => res.setHeader('Set-Cookie', ['a=1', 'b=2']).setHeader('X-Own', 'x'),
      (res) => void res.writeHead(201, { 'Set-Cookie': ['a=1', 'b=2'], 'X-Own': 'x' }),
      (res) => void res.writeHead(201, 'Made', { 'set-cookie': ['a=1', 'b=2'], 'X-Own': 'x' }),
      (res) => void res.writeHead(201, ['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'X-Own', 'x']),
      (res) => void res.writeHead(201, ['Set-Cookie', ['a=1', 'b=2'], 'X-Own', 'x']),
      (res) =>
        void res.writeHead(201, [
          ['Set-Cookie', 'a=1'],
          ['Set-Cookie', 'b=2'],
          ['X-Own', 'x'],
        ] as never),
      (res) =>
        void res
          .setHeader('X-Own', 'y')
          .setHeader('Set-Cookie', 'c=3')
          .writeHead(201, { 'Set-Cookie': ['a=1', 'b=2'], 'X-Own': 'x' }),
    ]
    for (const head of heads) {
      const url = await serve(t, (req, res) => {
        head(res)
        return visit(req, res)
      })
      const response = await get(url)
      t.match(response.setCookie, ['a=1', 'b=2', /^session=/])
      t.strictSame([response.headers.get('x-own'), response.body], ['x', '1'])
    }
  })
})

t.test('law 12, the credential is not the id: no cookie that was not given out opens anything', async (t) => {
  const store = memoryStore()
  const url = await serve(t, visit, { store })
  const [ada, bob] = [(await get(url)).cookie, (await get(url)).cookie]
  const swapped = `${ada.split('.')[0] ?? ''}.${bob.split('.')[1] ?? ''}`
  const forged = [
    'session=',
    'session=x',
    'session=%00',
    'session=%E0%A4%A',
    `session="${ada.slice(8)}`,
    `session=${'x'.repeat(8_000)}`,
    ada.slice(0, -1),
    `${ada}x`,
    ada.toUpperCase().replace('SESSION', 'session'),
    swapped,
    `session=${sessionToken(buildSession(store))}`,
    `Session=${ada.slice(8)}`,
    `__Host-${ada}`,
    '; ; =; session',
  ]
  for (const cookie of forged) {
    const answer = await get(url, cookie)
    t.strictSame([answer.status, answer.body, answer.setCookie.length], [200, '1', 1], cookie.slice(0, 60))
    t.notOk(answer.cookie.includes(ada.slice(8, 44)), 'it is not adopted')
  }
  t.equal((await get(url, `other=1; ${ada}; last=2`)).body, '2')
  t.equal((await get(url, `session=${'x'.repeat(20_000)}`)).status, 431, 'more than Node itself accepts')
})

t.test(
  'law 12, signing in rotates: the old cookie is dead; signing out: the cookie opens nothing',
  async (t) => {
    const url = await serve(t, async (req, res) => {
      if (req.url === '/in') {
        await rotateSession(await currentSession())
        await updateCurrentSession(sessionSet('user', 'ada'))
      }
      if (req.url === '/out') await destroySession(await currentSession())
      if (req.url === '/fail') {
        await rotateSession(await currentSession())
        throw new Error('after the rotation')
      }
      if (req.url === '/add') await updateCurrentSession(sessionSet('cart', ['tea']))
      res.end(JSON.stringify((await currentSession()).store))
    })
    const visitor = await get(`${url}add`)
    const signedIn = await get(`${url}in`, visitor.cookie)
    t.not(signedIn.cookie, visitor.cookie)
    t.strictSame((await get(url, visitor.cookie)).body, '{}', 'the old cookie is dead')
    t.strictSame(JSON.parse((await get(url, signedIn.cookie)).body), { cart: ['tea'], user: 'ada' })
    const failed = await get(`${url}fail`, signedIn.cookie)
    t.equal(failed.status, 500)
    t.strictSame(
      JSON.parse((await get(url, failed.cookie)).body),
      { cart: ['tea'], user: 'ada' },
      'a rotation is not undone',
    )
    const out = await get(`${url}out`, failed.cookie)
    t.match(out.setCookie, [/^session=; Max-Age=0; Path=\/; HttpOnly; SameSite=Lax$/])
    t.strictSame((await get(url, failed.cookie)).body, '{}')
    t.strictSame((await get(`${url}out`)).setCookie, [], 'nothing to take away')
  },
)

t.test('handlers', async (t) => {
  t.test('of every kind have their way: sync, async, TaskEither, nothing', async (t) => {
    const set = updateCurrentSession(sessionSet('a', 1))
    await t.rejects(set, new NoCurrentSession())
    const handlers: readonly Handler[] = [
      (_, res) => res.end('ok'),
      async (_, res) => Promise.resolve(res.end('ok')),
      (_, res) => () => Promise.resolve(E.right(res.end('ok'))),
      (_, res) => void setTimeout(() => res.end('ok'), 20),
      (_, res) => void Readable.from(['o', 'k']).pipe(res),
    ]
    for (const handler of handlers) t.equal((await get(await serve(t, handler))).body, 'ok')
  })

  t.test(
    'law 7, a failed request leaves nothing behind: sync, async, TaskEither, after writing, after ending',
    async (t) => {
      const store = memoryStore()
      const session = await saveSession(sessionSet('visits', 1)(buildSession(store)))
      const cookie = `session=${sessionToken(session)}`
      const handlers: readonly Handler[] = [
        () => {
          throw new Error('sync')
        },
        () => Promise.reject(new Error('async')),
        () => () => Promise.resolve(E.left('left')),
        (_, res) => {
          res.writeHead(200, { 'X-Own': 'x' })
          res.write('a part')
          throw new Error('after writing')
        },
        (req, res) => visit(req, res).then(() => Promise.reject(new Error('after the end'))),
      ]
      for (const handler of handlers) {
        const failures: unknown[] = []
        const url = await serve(
          t,
          async (req, res) => {
            await updateCurrentSession(sessionSet('visits', 99))
            const result: unknown = await handler(req, res)
            if (typeof result !== 'function') return
            const either = await (result as () => Promise<E.Either<unknown, unknown>>)()
            if (E.isLeft(either)) throw either.left as Error
          },
          { store, failures },
        )
        const answer = await get(url, cookie)
        t.strictSame([answer.status, answer.body, answer.setCookie], [500, 'Something went wrong.\n', []])
        t.equal(answer.headers.get('x-own'), null)
        t.equal(failures.length, 1)
      }
      t.equal((await get(await serve(t, visit, { store }), cookie)).body, '2')
    },
  )

  t.test('streams: the head waits for the save, a pipeline inside the handler does not hang', async (t) => {
    const store = memoryStore()
    const big = Array.from({ length: 50 }, (_, index) => `${String(index)}${'x'.repeat(20_000)}`)
    for (const chunks of [['small'], big]) {
      const url = await serve(
        t,
        async (_, res) => {
          await updateCurrentSession(sessionSet('streamed', true))
          await pipeline(Readable.from(chunks), res)
        },
        { store },
      )
      const answer = await get(url)
      t.equal(answer.body, chunks.join(''))
      t.match(answer.setCookie, [/^session=/])
    }
  })

  t.test(
    'law 8, nothing after the end: once its head is out, a response cannot change the session any more',
    async (t) => {
      const failures: unknown[] = []
      const store = memoryStore()
      const url = await serve(
        t,
        async (_, res) => {
          await updateCurrentSession(sessionSet('before', 1))
          res.flushHeaders()
          await new Promise((resolve) => setTimeout(resolve, 50))
          await updateCurrentSession(sessionSet('after', 1))
        },
        { store, failures },
      )
      const answer = await fetch(url)
      t.equal(answer.status, 200)
      await t.rejects(answer.text(), 'the response is cut, not ended as if it were whole')
      t.match(failures, [{ _tag: 'SessionClosed' }])
      const cookie = answer.headers.getSetCookie()[0]?.split(';')[0]
      const show = await serve(t, async (_, res) => res.end(JSON.stringify((await currentSession()).store)), {
        store,
      })
      t.equal((await get(show, cookie)).body, '{"before":1}')
    },
  )

  t.test('HEAD, 304, redirects and early ends behave', async (t) => {
    const url = await serve(t, async (req, res) => {
      await updateCurrentSession(sessionSet('seen', true))
      if (req.url === '/304') return res.writeHead(304).end()
      if (req.url === '/302') return res.writeHead(302, { Location: '/' }).end()
      return res.setHeader('Content-Length', 5).end('hello')
    })
    const head = await fetch(url, { method: 'HEAD' })
    t.strictSame([head.status, head.headers.get('content-length'), await head.text()], [200, '5', ''])
    t.equal(head.headers.getSetCookie().length, 1)
    t.strictSame(
      [(await get(`${url}304`)).status, (await get(`${url}302`)).headers.get('location')],
      [304, '/'],
    )
  })

  t.test('a client that goes away in the middle does no harm, and its edits are saved', async (t) => {
    const store = memoryStore()
    const failures: unknown[] = []
    let done = (): void => undefined
    const handled = new Promise<void>((resolve) => {
      done = resolve
    })
    const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
    const url = await serve(
      t,
      async (req, res) => {
        await updateCurrentSession(sessionSet('n', 2))
        if (req.url === '/gone') await once(res, 'close')
        res.end('late')
        done()
      },
      { store, failures },
    )
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.write(`GET /gone HTTP/1.1\r\nHost: x\r\nCookie: session=${sessionToken(session)}\r\n\r\n`)
    await new Promise((resolve) => setTimeout(resolve, 50))
    socket.destroy()
    await handled
    await new Promise((resolve) => setImmediate(resolve))
    t.strictSame(failures, [])
    const show = await serve(t, async (_, res) => res.end(JSON.stringify((await currentSession()).store)), {
      store,
    })
    t.equal((await get(show, `session=${sessionToken(session)}`)).body, '{"n":2}')
  })

  t.test(
    'pipelined requests on one connection are answered in order, each with its own session',
    async (t) => {
      const url = await serve(t, visit)
      const socket = connect(Number(new URL(url).port), '127.0.0.1')
      socket.end('GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
      const answer = Buffer.concat(await Readable.from(socket).toArray()).toString()
      const cookies = answer.match(/session=[^;]+/g) ?? []
      t.strictSame([cookies.length, new Set(cookies).size], [2, 2])
    },
  )
})

t.test('the response is deferred while the session is loading, and before the handler runs', async (t) => {
  const store = memoryStore()
  const token = sessionToken(await saveSession(sessionSet('user', 'ada')(buildSession(store))))
  const seen: string[] = []
  let response: ServerResponse | undefined
  const look = (when: string): void => {
    seen.push(
      `${when}: ${response !== undefined && Object.hasOwn(response, 'end') ? 'deferred' : 'as it was'}`,
    )
  }
  const load: SessionStore['load'] = (...given) => {
    const loading = store.load(...given)
    return async () => {
      look('the load is sent')
      // A driver may send a statement in the next tick.
      process.nextTick(look, 'the next tick')
      await new Promise((resolve) => setImmediate(resolve))
      look('the load has ended')
      return loading()
    }
  }
  const listener = sessionListener({ store: { ...store, load } })((_, res) => {
    look('the handler')
    res.end()
  })
  const server = createServer((req, res) => {
    response = res
    listener(req, res)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  await fetch(`http://127.0.0.1:${String(port)}/`, {
    headers: { cookie: `session=${token}`, connection: 'close' },
  })
  t.strictSame(seen, [
    'the load is sent: as it was',
    'the next tick: as it was',
    'the load has ended: deferred',
    'the handler: deferred',
  ])
})

t.test('programs that look at, keep or wrap the response', async (t) => {
  t.test('see that it has begun: an error handler does not answer twice', async (t) => {
    const seen: unknown[] = []
    const url = await serve(t, (_, res) => {
      seen.push(res.headersSent, res.writableEnded)
      res.end('ok')
      seen.push(res.headersSent, res.writableEnded)
      // Some programs write without a check of the response's state.
      res.write('more')
      res.end('again')
    })
    t.strictSame([(await get(url)).body, seen], ['ok', [false, false, true, true]])
  })

  t.test('may keep a method, or wrap it, as middleware does', async (t) => {
    const wrapped: string[] = []
    const wrap = (res: ServerResponse, name: 'writeHead' | 'write' | 'end'): void => {
      const inner = res[name].bind(res) as (...args: unknown[]) => never
      res[name] = (...args: unknown[]) => {
        wrapped.push(name)
        if (name === 'writeHead') res.setHeader('X-Wrapped', 'yes')
        return inner(...args)
      }
    }
    const url = await serve(t, async (_, res) => {
      for (const name of ['writeHead', 'write', 'end'] as const) wrap(res, name)
      const [write, end] = [res.write.bind(res), res.end.bind(res)]
      await updateCurrentSession(sessionSet('seen', true))
      res.flushHeaders()
      await new Promise((resolve) => setTimeout(resolve, 20))
      write('a')
      end('b')
    })
    const answer = await get(url)
    t.strictSame([answer.body, answer.headers.get('x-wrapped'), answer.setCookie.length], ['ab', 'yes', 1])
    t.strictSame(wrapped, ['writeHead', 'write', 'end'])
  })

  t.test('may stream little by little: each part goes out when it is written', async (t) => {
    let last = (): void => undefined
    const url = await serve(t, async (_, res) => {
      await updateCurrentSession(sessionSet('seen', true))
      res.writeHead(200, { 'Content-Type': 'text/event-stream' })
      res.write('data: 1\n\n')
      await new Promise<void>((resolve) => {
        last = resolve
      })
      res.end('data: 2\n\n')
    })
    const response = await fetch(url)
    const reader = response.body?.getReader()
    t.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), 'data: 1\n\n')
    t.equal(response.headers.getSetCookie().length, 1)
    last()
    t.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), 'data: 2\n\n')
  })

  t.test('get nothing out before the save, early hints included', async (t) => {
    const store = memoryStore()
    let save = (): void => undefined
    const saving = new Promise<void>((resolve) => {
      save = resolve
    })
    const slow: SessionStore = {
      ...store,
      create:
        (...all) =>
        () =>
          saving.then(() => store.create(...all)()),
    }
    const url = await serve(
      t,
      async (_, res) => {
        await updateCurrentSession(sessionSet('seen', true))
        res.writeEarlyHints({ link: '</style.css>; rel=preload' })
        res.end('ok')
      },
      { store: slow },
    )
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    const parts: string[] = []
    socket.on('data', (data) => parts.push(data.toString()))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    await new Promise((resolve) => setTimeout(resolve, 50))
    t.strictSame(parts, [])
    save()
    await once(socket, 'close')
    t.match(parts.join(''), /^HTTP\/1\.1 103 .*HTTP\/1\.1 200 /s)
  })

  t.test('are told at once of what cannot be written', async (t) => {
    const failures: unknown[] = []
    for (const bad of [
      (res: ServerResponse) => res.end(123),
      (res: ServerResponse) => res.write(123),
      (res: ServerResponse) => res.writeHead(200).writeHead(200),
    ]) {
      const store = memoryStore()
      const url = await serve(
        t,
        async (_, res) => {
          await updateCurrentSession(sessionSet('seen', true))
          bad(res)
        },
        { store, failures },
      )
      const answer = await get(url)
      t.strictSame([answer.status, answer.setCookie], [500, []])
    }
    t.equal(failures.length, 3)
  })
})

t.test('law 7, a Left is a failure, however the handler gives it', async (t) => {
  const failing = async (): Promise<E.Either<unknown, never>> => {
    await updateCurrentSession(sessionSet('half', 1))
    return E.left('mine')
  }
  for (const handler of [
    () => failing,
    () => failing(),
    async () => Promise.resolve(failing),
    async () => failing(),
  ]) {
    const answer = await get(await serve(t, handler))
    t.strictSame([answer.status, answer.setCookie], [500, []])
  }
})

t.test('failures of the store are answered in one place', async (t) => {
  const failing = (failure: unknown): SessionStore => ({
    ...memoryStore(),
    load: () => () => Promise.resolve(E.left(failure as DriverError)),
  })
  const token = sessionToken(buildSession(memoryStore()))

  t.test('a store that is down is a 503 and a line in the log; the handler does not run', async (t) => {
    const lines: unknown[][] = []
    const log = console.error
    console.error = (...line: unknown[]) => lines.push(line)
    t.teardown(() => {
      console.error = log
    })
    const store = failing(new DriverError('session.load: connect ECONNREFUSED', { retryable: true }))
    const url = await serve(t, () => t.fail('it ran'), { store, onError: defaultErrorResponse })
    const answer = await get(`${url}page?secret=1`, `session=${token}`)
    t.strictSame([answer.status, answer.headers.get('retry-after')], [503, '5'])
    t.strictSame(lines, [
      ['keyrow: GET /page failed (503):', 'DriverError: session.load: connect ECONNREFUSED'],
    ])
  })

  t.test('a program decides for itself, and a decision that fails is answered too', async (t) => {
    const store = failing(new DriverError('down', { retryable: true }))
    const own = await serve(t, visit, {
      store,
      onError: () => ({ status: 418, headers: { 'X-Why': 'tea' }, body: 'own' }),
    })
    const answer = await get(own, `session=${token}`)
    t.strictSame([answer.status, answer.body, answer.headers.get('x-why')], [418, 'own', 'tea'])
    const log = console.error
    console.error = () => undefined
    t.teardown(() => {
      console.error = log
    })
    const broken = await serve(t, visit, {
      store,
      onError: () => {
        throw new Error('no')
      },
    })
    t.equal((await get(broken, `session=${token}`)).status, 500)
    for (const bad of [
      { status: 0, body: 'x' },
      { status: 500, body: 'x', headers: { 'X-Bad': 'a\nb' } },
    ])
      t.equal(
        (await get(await serve(t, visit, { store, onError: () => bad }), `session=${token}`)).body,
        'Something went wrong.\n',
      )
  })

  t.test('a head that cannot be sent is an error in the handler, as without keyrow', async (t) => {
    const failures: unknown[] = []
    for (const bad of [
      (res: ServerResponse) => res.writeHead(200, { 'X-Bad': 'a\nb' }).end(),
      (res: ServerResponse) => res.writeHead(42).end(),
      (res: ServerResponse) => res.writeHead(200, 'a\nb').end(),
      (res: ServerResponse) => Object.assign(res, { statusCode: 42 }).end(),
    ]) {
      const url = await serve(
        t,
        async (_, res) => {
          await updateCurrentSession(sessionSet('visits', 1))
          bad(res)
        },
        { failures },
      )
      const answer = await get(url)
      t.strictSame([answer.status, answer.setCookie], [500, []])
    }
    t.match(failures, [
      { code: 'ERR_INVALID_CHAR' },
      { code: 'ERR_HTTP_INVALID_STATUS_CODE' },
      { code: 'ERR_INVALID_CHAR' },
      { code: 'ERR_HTTP_INVALID_STATUS_CODE' },
    ])
  })

  t.test(
    'a head that fails when it goes out is a 500, and the session is saved with its cookie',
    async (t) => {
      const store = memoryStore()
      const listener = sessionListener({ store, onError: statusOf })(async (_, res) => {
        await updateCurrentSession(sessionSet('visits', 1))
        res.end('done')
      })
      const server = createServer((req, res) => {
        // An outer middleware fails once.
        const writeHead = res.writeHead.bind(res)
        let times = 0
        res.writeHead = (status: number) => {
          times += 1
          if (times === 1) throw new Error('outside')
          return writeHead(status)
        }
        listener(req, res)
      })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      t.teardown(() => server.close())
      const answer = await get(`http://127.0.0.1:${String((server.address() as AddressInfo).port)}/`)
      t.equal(answer.status, 500)
      t.equal((await get(await serve(t, visit, { store }), answer.cookie)).body, '2')
    },
  )

  t.test('a value that cannot be stored is a 400, and nothing of the request is stored', async (t) => {
    const store = memoryStore()
    const url = await serve(
      t,
      async (req, res) => {
        if (req.url !== '/') await updateCurrentSession(sessionSet('seen', 1))
        if (req.url !== '/') await updateCurrentSession(sessionSet('name', decodeURIComponent(req.url ?? '')))
        res.end(String((await currentSession()).store.size))
      },
      { store },
    )
    const fine = await get(`${url}ada`)
    t.strictSame([fine.status, fine.body], [200, '2'])
    const bad = await get(`${url}a%00b`)
    t.strictSame([bad.status, bad.setCookie], [400, []])
  })

  t.test(
    'a request that only looked at a session that was ended meanwhile leaves its cookie alone',
    async (t) => {
      const store = memoryStore({ touchFraction: 0 })
      const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
      const url = await serve(
        t,
        async (_, res) => {
          await right(store.destroy(session.id))
          res.end(String((await currentSession()).store.size))
        },
        { store },
      )
      const answer = await get(url, `session=${sessionToken(session)}`)
      t.strictSame([answer.status, answer.body, answer.setCookie], [200, '1', []])
    },
  )

  t.test('a client that has left before its session was loaded is not served', async (t) => {
    const store = memoryStore()
    const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
    let load = (): void => undefined
    const loading = new Promise<void>((resolve) => {
      load = resolve
    })
    const loaded: unknown[] = []
    const slow: SessionStore = {
      ...store,
      load:
        (...all) =>
        async () => {
          await loading
          loaded.push(await store.load(...all)())
          return loaded[0] as never
        },
    }
    const url = await serve(t, () => t.fail('it ran'), { store: slow })
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nCookie: session=${sessionToken(session)}\r\n\r\n`)
    await new Promise((resolve) => setTimeout(resolve, 50))
    socket.destroy()
    await new Promise((resolve) => setTimeout(resolve, 50))
    load()
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.equal(loaded.length, 1)
  })

  t.test('a session that ended meanwhile is a 409 when there was something to store', async (t) => {
    const store = memoryStore()
    const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
    const url = await serve(
      t,
      async (_, res) => {
        await right(store.destroy(session.id))
        await updateCurrentSession(sessionSet('b', 1))
        res.end('done')
      },
      { store },
    )
    t.equal((await get(url, `session=${sessionToken(session)}`)).status, 409)
  })

  t.test(
    'a PostgreSQL that dies under the handler is a 503, and nothing of the request is stored',
    async (t) => {
      const server = await startPostgres()
      t.teardown(() => server.stop())
      const database = postgresDatabase(quietPool(server.url, { backoff: () => 0.05 }), { timeoutMs: 3_000 })
      t.teardown(() => database.close())
      const url = await serve(
        t,
        async (req, res) => {
          const store = JSON.stringify((await currentSession()).store)
          if (req.url === '/die') await server.kill()
          if (req.url !== '/show') await updateCurrentSession(sessionSet('path', req.url ?? ''))
          res.end(store)
        },
        { store: sessionStore(database) },
      )
      const { cookie } = await get(`${url}first`)
      const dead = await get(`${url}die`, cookie)
      t.strictSame([dead.status, dead.setCookie], [503, []])
      t.equal((await get(url, cookie)).status, 503)
      await server.start()
      const back = async (): Promise<string> => {
        for (let attempt = 0; attempt < 100; attempt += 1) {
          const answer = await get(`${url}show`, cookie)
          if (answer.status === 200) return answer.body
          await new Promise((resolve) => setTimeout(resolve, 50))
        }
        return 'it did not come back'
      }
      t.equal(await back(), '{"path":"/first"}')
    },
  )
})

t.test(
  'one request is counted once: two hundred overlapping requests of one browser keep two hundred keys',
  async (t) => {
    const store = memoryStore()
    const url = await serve(
      t,
      async (req, res) => {
        if (req.url !== '/') await updateCurrentSession(sessionSet(req.url ?? '', true))
        res.end(String((await currentSession()).store.size))
      },
      { store },
    )
    const { cookie } = await get(`${url}first`)
    await Promise.all(Array.from({ length: 200 }, (_, index) => get(`${url}key/${String(index)}`, cookie)))
    t.equal((await get(url, cookie)).body, '201')
  },
)
