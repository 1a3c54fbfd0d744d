// Tests every adapter as a client does, over HTTP. It checks laws 2, 6 to 10 and 12, and the security expectations for
// sessions. The suite knows only the address of the server.

import { once } from 'node:events'
import { connect } from 'node:net'
import type { Test } from 'tap'
import { adminOver, FIRST_ID } from '../../lib/cli/admin.js'
import { DriverError } from '../../lib/core/errors.js'
import type { Database } from '../../lib/db/database.js'
import { tokenGuard } from '../../lib/http/token-guard.js'
import {
  buildSession,
  csrfToken,
  currentSession,
  deleteExpiredSessions,
  destroySession,
  loadSession,
  resetSession,
  rotateSession,
  sessionFlash,
  sessionRef,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
  signIn,
  signOut,
  takeFlashes,
  updateCurrentSession,
  withSession,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import type { SessionStore } from '../../lib/store/contract.js'
import { onSessionEvent } from '../../lib/store/events.js'
import { memoryStore } from '../../lib/store/memory.js'
import type { Call, CallHandler, Reply, Serving, SpecDoor } from './adapters.js'
import { times } from './at-length.js'
import { counting } from './databases.js'
import { age, freshSchema } from './stores.js'

const TRIES = times(100, 1_000)
const OVERLAPPING = times(50, 200)

const bitsOf = (byte: number): number => byte.toString(2).replaceAll('0', '').length

export interface Answer {
  readonly status: number
  readonly body: string
  readonly headers: Headers
  readonly setCookie: readonly string[]
  /** The cookie that a browser would send next. */
  readonly cookie: string
}

export const ask = async (url: string, cookie?: string, init: RequestInit = {}): Promise<Answer> => {
  const headers = new Headers(init.headers)
  if (cookie !== undefined) headers.set('cookie', cookie)
  const response = await fetch(url, { redirect: 'manual', ...init, headers })
  const setCookie = response.headers.getSetCookie()
  const body = await response.text()
  const given = setCookie.findLast((line) => /^(__Host-)?session=/.test(line))
  return {
    status: response.status,
    body,
    headers: response.headers,
    setCookie,
    cookie: given?.split(';')[0] ?? '',
  }
}

export const post = (body: Record<string, string>, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  body: new URLSearchParams(body).toString(),
  headers: { 'content-type': 'application/x-www-form-urlencoded', ...headers },
})

const visit = async (): Promise<Reply> => {
  const session = await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
  return { body: JSON.stringify(sessionRef('visits')(session)) }
}

const show = async (): Promise<Reply> => ({
  body: JSON.stringify((await currentSession()).store.filterNot((_, key) => key.startsWith('keyrow:'))),
})

export const set = (key: string, value: string | number | boolean) =>
  updateCurrentSession(sessionSet(key, value))

/** `/show` shows the session. The test's handler gets all other paths. */
export const shown =
  (handler: CallHandler): CallHandler =>
  (call) =>
    call.path === '/show' ? show() : handler(call)

const gate = () => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

const reasonOf = (settled: PromiseSettledResult<unknown>): unknown =>
  settled.status === 'rejected' ? (settled.reason as { readonly _tag?: unknown })._tag : settled.status

/** Returns the store with writes that wait at a gate. */
const slow = (store: SessionStore) => {
  const { opened, open } = gate()
  const slowStore: SessionStore = {
    ...store,
    create:
      (...all) =>
      () =>
        opened.then(() => store.create(...all)()),
    save:
      (...all) =>
      () =>
        opened.then(() => store.save(...all)()),
  }
  return { store: slowStore, open }
}

const broken = (store: SessionStore, ...names: readonly ('load' | 'create' | 'save')[]): SessionStore => ({
  ...store,
  ...Object.fromEntries(
    names.map((name) => [
      name,
      () => async () =>
        Promise.resolve({
          _tag: 'Left',
          left: new DriverError('host db.internal is down', { retryable: true }),
        }),
    ]),
  ),
})

/** Tests an adapter on this database. */
export const doorSuite = (t: Test, door: SpecDoor, database: Database): void => {
  const open = (lifetime: Parameters<typeof sessionStore>[1] = {}) => {
    const schema = freshSchema()
    return { schema, store: sessionStore(database, { ...lifetime, schema }) }
  }
  const serve = async (t: Test, handler: CallHandler, options: Partial<Serving> = {}) => {
    const { url, close } = await door.serve(shown(handler), { store: open().store, ...options })
    t.teardown(close)
    return url
  }

  t.test('law 2: a request costs one statement to load and one to save; a visitor has no row', async (t) => {
    const schema = freshSchema()
    const { database: counted, events } = counting(database)
    const store = sessionStore(counted, { schema })
    await store.prepare()
    events.splice(0)
    const url = await serve(t, async ({ path }) => (path === '/visit' ? visit() : { body: 'hello' }), {
      store,
    })
    const stranger = await ask(`${url}/hello`)
    t.strictSame([stranger.body, stranger.setCookie, events.length], ['hello', [], 0])
    const { cookie } = await ask(`${url}/visit`)
    const named = () => events.splice(0).map(({ query }) => query.name)
    t.strictSame(named(), ['session.create'])
    t.equal((await ask(`${url}/visit`, cookie)).body, '2')
    t.strictSame(named(), ['session.load', 'session.save'])
    t.strictSame((await ask(`${url}/show`, cookie)).setCookie, [])
    t.strictSame(named(), ['session.load'])
  })

  t.test('a malformed token costs no query', async (t) => {
    const { database: counted, events } = counting(database)
    const store = sessionStore(counted, { schema: freshSchema() })
    await store.prepare()
    const { cookie } = await ask(`${await serve(t, visit, { store })}/`)
    events.splice(0)
    const url = await serve(t, visit, { store })
    for (const bad of ['session=x', `${cookie}0`, `session=${"' or 1=1 --".repeat(7)}`, 'session=%00'])
      t.equal((await ask(`${url}/show`, bad)).body, '{}')
    t.strictSame(events, [])
  })

  t.test('a cookie of the same name that comes first hides no session', async (t) => {
    const { database: counted, events } = counting(database)
    const store = sessionStore(counted, { schema: freshSchema() })
    await store.prepare()
    const guard = tokenGuard({ limit: 1 })
    const url = await serve(t, visit, { store, guard })
    const { cookie } = await ask(`${url}/`)
    const stale = () => `session=${sessionToken(buildSession(store))}`
    events.splice(0)
    const loads = () => events.splice(0).filter(({ query }) => query.name === 'session.load').length
    for (const [before, count] of [
      ['session=', 1],
      ['session=x; session=%00', 1],
      [cookie, 1],
      [stale(), 2],
      [`${stale()}; other=1; session=x; ${stale()}`, 3],
    ] as const) {
      const shown = await ask(`${url}/show`, `${before}; ${cookie}; session=late`)
      t.strictSame([shown.status, shown.body, shown.setCookie], [200, '{"visits":1}', []], before)
      t.equal(loads(), count, 'what could be no token is not asked for, and no token twice')
    }
    const many = await ask(`${url}/show`, `${Array.from({ length: 20 }, stale).join('; ')}; ${cookie}`)
    t.strictSame([many.body, loads()], ['{}', 3], 'but not however many there are')
    t.equal((await ask(`${url}/show`, `${stale()}; ${cookie}`)).body, '{"visits":1}', 'none was a guess')
  })

  t.test('a cookie is 256 random bits and a random id, and tells nothing', async (t) => {
    const url = await serve(t, async () => {
      await signIn('ada')
      return { body: 'done' }
    })
    const cookies = await Promise.all(Array.from({ length: 100 }, async () => (await ask(`${url}/`)).cookie))
    const parts = cookies.map((cookie) => cookie.slice('session='.length).split('.'))
    t.equal(new Set(parts.flat()).size, 200)
    const secrets = parts.map(([, secret = '']) => Buffer.from(secret, 'base64url'))
    t.ok(secrets.every(({ length }) => length === 32))
    const ones = secrets.reduce((sum, bytes) => sum + bytes.reduce((some, byte) => some + bitsOf(byte), 0), 0)
    // There are 25,600 bits, and 800 is ten standard deviations.
    t.ok(Math.abs(ones - 12_800) < 800, `${String(ones)} ones`)
  })

  t.test(
    `law 4 and 5: ${String(OVERLAPPING)} overlapping requests of one browser lose no key and no update`,
    async (t) => {
      const url = await serve(t, async ({ path }) => {
        await set(path, true)
        return visit()
      })
      const { cookie } = await ask(`${url}/first`)
      const answers = await Promise.all(
        Array.from({ length: OVERLAPPING }, (_, index) => ask(`${url}/key/${String(index)}`, cookie)),
      )
      t.strictSame(
        answers.filter(({ status }) => status !== 200).map(({ status, body }) => [status, body]),
        [],
        'all are answered',
      )
      const values = JSON.parse((await ask(`${url}/show`, cookie)).body) as Record<string, unknown>
      t.strictSame([Object.keys(values).length, values['visits']], [OVERLAPPING + 2, OVERLAPPING + 1])
    },
  )

  t.test('law 6: a request that ends after the logout stores nothing and brings nothing back', async (t) => {
    const late = gate()
    const reached = gate()
    const url = await serve(t, async ({ path }) => {
      if (path === '/out') await signOut()
      if (path === '/slow') {
        reached.open()
        await late.opened
      }
      if (path !== '/out') await set('cart', path)
      return { body: 'done' }
    })
    const { cookie } = await ask(`${url}/in`)
    const pending = ask(`${url}/slow`, cookie)
    await reached.opened
    const out = await ask(`${url}/out`, cookie)
    t.match(out.setCookie, [/^session=; Max-Age=0; Path=\/; HttpOnly; SameSite=Lax$/])
    late.open()
    const answer = await pending
    t.strictSame([answer.status, answer.setCookie], [409, []])
    t.equal((await ask(`${url}/show`, cookie)).body, '{}')
  })

  t.test('a sign-in stores the device of the request only if it is asked for', async (t) => {
    let listed: readonly unknown[] = []
    const url = await serve(
      t,
      async ({ path }) => {
        await signIn('ada', path === '/told' ? { device: true } : {})
        const session = await currentSession()
        listed = [session.store.get('keyrow:device'), session.store.has('keyrow:signed-in')]
        return { body: 'done' }
      },
      { trustProxy: true },
    )
    const headers = { 'user-agent': `a browser ${'x'.repeat(600)}` }
    const { cookie } = await ask(`${url}/told`, undefined, {
      headers: { ...headers, 'x-forwarded-for': '203.0.113.77' },
    })
    const userAgent = headers['user-agent'].slice(0, 500)
    t.strictSame(listed, [{ userAgent, network: '203.0.113.0/24' }, true])
    await ask(`${url}/told`, cookie, { headers: { ...headers, 'x-forwarded-for': '2001:db8:1:2::3' } })
    t.strictSame(listed, [{ userAgent, network: '2001:db8:1::/48' }, true])
    await ask(`${url}/`, cookie, { headers })
    t.strictSame(listed, [undefined, true])
  })

  t.test('law 6: a reset replaces the cookie if the new session is stored, and else clears it', async (t) => {
    const url = await serve(t, async ({ path }) => {
      if (path !== '/in') await resetSession()
      if (path !== '/out') await set('path', path)
      return { body: 'done' }
    })
    const first = await ask(`${url}/in`)
    const second = await ask(`${url}/goodbye`, first.cookie)
    t.strictSame([second.setCookie.length, second.cookie.length], [1, first.cookie.length])
    t.equal((await ask(`${url}/show`, first.cookie)).body, '{}')
    t.equal((await ask(`${url}/show`, second.cookie)).body, '{"path":"/goodbye"}')
    t.match((await ask(`${url}/out`, second.cookie)).setCookie, [/^session=; Max-Age=0; /])
    t.equal((await ask(`${url}/show`, second.cookie)).body, '{}')
    t.strictSame((await ask(`${url}/out`)).setCookie, [], 'without a session there is no cookie to clear')
  })

  t.test('law 7: a handler that throws after changing the session leaves nothing behind', async (t) => {
    const url = await serve(t, async ({ path }) => {
      await set('stored', path)
      if (path === '/throw') throw new Error('mine')
      if (path === '/refuse') throw Object.assign(new Error('mine'), { status: 400, statusCode: 400 })
      return { body: 'done' }
    })
    const { cookie } = await ask(`${url}/first`)
    for (const path of ['/throw', '/refuse']) {
      const failed = await ask(`${url}${path}`, cookie)
      t.ok(failed.status >= 400, `${path} is answered ${String(failed.status)}`)
      t.strictSame(failed.setCookie, [])
    }
    t.equal((await ask(`${url}/show`, cookie)).body, '{"stored":"/first"}')
    t.equal((await ask(`${url}/throw`)).status, 500)
  })

  t.test('law 8: what outlives its request has no current session, and cannot change it', async (t) => {
    const answered = gate()
    let outcomes: readonly unknown[] = []
    let ended: Promise<unknown> = Promise.resolve()
    const url = await serve(t, async () => {
      const held = await set('early', true)
      const late = () => Promise.allSettled([set('late', true), currentSession(), takeFlashes(), csrfToken()])
      ended = answered.opened.then(late).then((settled) => {
        outcomes = [sessionRef('early')(held), ...settled.map(reasonOf)]
      })
      return { body: 'done' }
    })
    const { cookie } = await ask(`${url}/`)
    answered.open()
    await ended
    t.strictSame(outcomes, [true, ...Array.from({ length: 4 }, () => 'SessionClosed')])
    t.equal((await ask(`${url}/show`, cookie)).body, '{"early":true}')
  })

  t.test('law 9: a nested withSession joins the request, and one save stores both', async (t) => {
    const schema = freshSchema()
    const { database: counted, events } = counting(database)
    const store = sessionStore(counted, { schema })
    const url = await serve(
      t,
      async () => {
        await set('outer', 1)
        await withSession(await currentSession(), () => set('inner', 2))
        return { body: 'done' }
      },
      { store },
    )
    const { cookie } = await ask(`${url}/`)
    t.strictSame(JSON.parse((await ask(`${url}/show`, cookie)).body), { outer: 1, inner: 2 })
    t.equal(events.filter(({ query }) => /^session[.](create|save)$/.test(query.name)).length, 1)
  })

  t.test('law 10: not a byte goes out before the save is done', async (t) => {
    const { store, open: letGo } = slow(open().store)
    const url = await serve(t, visit, { store })
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    const parts: string[] = []
    socket.on('data', (data) => parts.push(data.toString()))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    await new Promise((resolve) => setTimeout(resolve, 60))
    t.strictSame(parts, [])
    letGo()
    await once(socket, 'close')
    t.match(parts.join(''), /^HTTP\/1\.1 200 .*session=/s)
  })

  t.test(`law 10: a redirect is followed only to the new session, in ${String(TRIES)} tries`, async (t) => {
    const url = await serve(t, async ({ path, query }) => {
      if (path === '/read') return { body: JSON.stringify(sessionRef('n')(await currentSession())) }
      await set('n', Number(query.get('n')))
      return { status: 303, headers: { Location: '/read' } }
    })
    let { cookie } = await ask(`${url}/write?n=-1`)
    const wrong: unknown[] = []
    const browse = async (from: number) => {
      let own = cookie
      for (let n = from; n < from + TRIES / 10; n += 1) {
        const moved = await ask(`${url}/write?n=${String(n)}`, own)
        own = moved.cookie === '' ? own : moved.cookie
        const read = await ask(`${url}${String(moved.headers.get('location'))}`, own)
        if (read.body !== String(n)) wrong.push([n, read.body])
      }
    }
    const cookies = await Promise.all(Array.from({ length: 10 }, () => ask(`${url}/write?n=-1`)))
    await Promise.all(
      cookies.map((given, index) => {
        cookie = given.cookie
        return browse((index * TRIES) / 10)
      }),
    )
    t.strictSame(wrong, [])
  })

  t.test('law 10: a save that fails is an error, not a success with lost data', async (t) => {
    const { store } = open()
    const url = await serve(
      t,
      async () => {
        const { body = '' } = await visit()
        return { headers: { 'X-Own': 'x', 'Set-Cookie': 'a=1' }, body }
      },
      { store: broken(store, 'create', 'save') },
    )
    const failed = await ask(`${url}/`)
    t.strictSame([failed.status, failed.setCookie, failed.headers.get('x-own')], [503, [], null])
    t.equal(failed.headers.get('retry-after'), '5')
  })

  t.test('a store that is down is a 503, and the handler does not run', async (t) => {
    const { store } = open()
    const url = await serve(t, async () => t.fail('it ran') as never, { store: broken(store, 'load') })
    t.equal((await ask(`${url}/`, `session=${sessionToken(buildSession(store))}`)).status, 503)
  })

  t.test('a value that cannot be stored is a 400, and nothing of the request is stored', async (t) => {
    const url = await serve(t, async ({ form }) => {
      await set('seen', 1)
      await set('name', (await form()).get('name') ?? '')
      return { body: 'done' }
    })
    const bad = await ask(`${url}/`, undefined, post({ name: 'a\u0000b' }))
    t.strictSame([bad.status, bad.setCookie], [400, []])
    const good = await ask(`${url}/`, undefined, post({ name: 'Ada' }))
    t.strictSame(JSON.parse((await ask(`${url}/show`, good.cookie)).body), { seen: 1, name: 'Ada' })
  })

  t.test(
    'law 12: an id from anywhere but a cookie, a foreign one, a forged one is not adopted',
    async (t) => {
      const { store } = open()
      const url = await serve(t, visit, { store })
      const [ada, bob] = [(await ask(`${url}/`)).cookie, (await ask(`${url}/`)).cookie]
      const token = ada.slice('session='.length)
      const forged = [
        'session=',
        'session=x',
        'session=%E0%A4%A',
        `session=${'x'.repeat(8_000)}`,
        ada.slice(0, -1),
        `${ada}x`,
        `${ada.split('.')[0] ?? ''}.${bob.split('.')[1] ?? ''}`,
        `session=${sessionToken(buildSession(store))}`,
        `Session=${token}`,
        `__Host-${ada}`,
        '; ; =; session',
      ]
      for (const cookie of forged) {
        const answer = await ask(`${url}/`, cookie)
        t.strictSame(
          [answer.status, answer.body, answer.setCookie.length],
          [200, '1', 1],
          cookie.slice(0, 60),
        )
        t.notOk(answer.cookie.includes(token.slice(0, 36)), 'it is not adopted')
      }
      const elsewhere = await ask(`${url}/?session=${token}`, undefined, {
        ...post({ session: token }, { authorization: `Bearer ${token}`, 'x-session': token }),
      })
      t.equal(elsewhere.body, '1', 'neither from the address, nor from a header, nor from a form')
      t.equal((await ask(`${url}/`, `other=1; ${ada}; ${bob}`)).body, '2', 'of two the first is taken')
    },
  )

  t.test('law 12: signing in rotates: the old cookie is dead, what the visitor had stays', async (t) => {
    const { store } = open()
    const url = await serve(
      t,
      async ({ path }) => {
        if (path === '/in') await signIn('ada')
        else await set('cart', 'tea')
        return { body: 'done' }
      },
      { store },
    )
    const visitor = await ask(`${url}/`)
    const signedIn = await ask(`${url}/in`, visitor.cookie)
    t.not(signedIn.cookie, visitor.cookie)
    t.equal((await ask(`${url}/show`, visitor.cookie)).body, '{}', 'the old cookie is dead')
    t.equal((await ask(`${url}/show`, signedIn.cookie)).body, '{"cart":"tea"}')
    t.equal((await sessionsOf(store, 'ada')).length, 1)
  })

  t.test(
    'law 12: a rotation stands when the handler fails afterwards: the answer has the new cookie',
    async (t) => {
      const url = await serve(t, async ({ path }) => {
        await set('path', path)
        if (path === '/fail') {
          await rotateSession(await currentSession())
          throw new Error('after the rotation')
        }
        return { body: 'done' }
      })
      const { cookie } = await ask(`${url}/first`)
      const failed = await ask(`${url}/fail`, cookie)
      t.equal(failed.status, 500)
      t.equal((await ask(`${url}/show`, failed.cookie)).body, '{"path":"/first"}')
      t.equal((await ask(`${url}/show`, cookie)).body, '{}')
    },
  )

  t.test('law 12: signing out deletes the session on the server and takes the cookie away', async (t) => {
    const { store } = open()
    const url = await serve(
      t,
      async ({ path }) => {
        if (path === '/out') await signOut()
        else await set('a', 1)
        return { body: 'done' }
      },
      { store },
    )
    const { cookie } = await ask(`${url}/`)
    const out = await ask(`${url}/out`, cookie)
    t.match(out.setCookie, [/^session=; Max-Age=0; Path=\/; HttpOnly; SameSite=Lax$/])
    t.equal(await loadSession(store, cookie.slice('session='.length)), undefined)
    t.strictSame((await ask(`${url}/out`)).setCookie, [], 'nothing to take away')
  })

  t.test(
    'law 11: a session expires on the server: unused, and by its age, whatever the cookie says',
    async (t) => {
      const { store, schema } = open({ idleMs: 60_000, absoluteMs: 150_000 })
      const url = await serve(t, visit, { store })
      const { cookie } = await ask(`${url}/`)
      await age(database, schema, 50_000)
      t.equal((await ask(`${url}/`, cookie)).body, '2')
      await age(database, schema, 50_000)
      t.equal((await ask(`${url}/`, cookie)).body, '3', 'use keeps it alive')
      await age(database, schema, 55_000)
      t.equal((await ask(`${url}/`, cookie)).body, '1', 'but not past its absolute age')
      const idle = await ask(`${url}/`)
      await age(database, schema, 61_000)
      t.equal((await ask(`${url}/`, idle.cookie)).body, '1')
    },
  )

  t.test(
    'the cookie is HttpOnly, SameSite, without Domain, and its answer is not stored by caches',
    async (t) => {
      const url = await serve(t, async () => ({
        ...(await visit()),
        headers: { 'Cache-Control': 'public, max-age=60' },
      }))
      const first = await ask(`${url}/`)
      t.match(first.setCookie, [/^session=[0-9a-f-]{36}\.[\w-]{43}; Path=\/; HttpOnly; SameSite=Lax$/])
      t.equal(first.headers.get('cache-control'), 'no-store')
      const second = await ask(`${url}/`, first.cookie)
      t.strictSame([second.setCookie, second.headers.get('cache-control')], [[], 'public, max-age=60'])
    },
  )

  t.test(
    'the cookie is Secure and __Host- behind a trusted proxy that says https, and only then',
    async (t) => {
      const trusting = await serve(t, visit, { trustProxy: true })
      const wary = await serve(t, visit)
      const https = { headers: { 'x-forwarded-proto': 'https' } }
      const secure = await ask(`${trusting}/`, undefined, https)
      t.match(secure.setCookie, [/^__Host-session=[^;]+; Path=\/; HttpOnly; Secure; SameSite=Lax$/])
      t.equal((await ask(`${trusting}/`, secure.cookie, https)).body, '2')
      t.equal(
        (await ask(`${trusting}/`, secure.cookie.replace('__Host-', ''), https)).body,
        '1',
        'a cookie without the prefix is not taken over https',
      )
      t.match((await ask(`${wary}/`, undefined, https)).setCookie, [
        /^session=[^;]+; Path=\/; HttpOnly; SameSite=Lax$/,
      ])
    },
  )

  t.test("two Set-Cookie headers of the handler's own are kept beside ours", async (t) => {
    const url = await serve(t, async ({ path }) => ({
      ...(await visit()),
      status: path === '/moved' ? 302 : 201,
      headers: { 'Set-Cookie': ['a=1; Path=/', 'b=2; Path=/'], 'X-Own': 'x', Location: '/' },
    }))
    for (const path of ['/', '/moved']) {
      const answer = await ask(`${url}${path}`)
      t.match(answer.setCookie, ['a=1; Path=/', 'b=2; Path=/', /^session=/])
      t.equal(answer.headers.get('x-own'), 'x')
    }
  })

  t.test('a message is shown once, on the next page', async (t) => {
    const url = await serve(t, async ({ path }) => {
      if (path === '/add') await updateCurrentSession(sessionFlash('info', 'Saved.'))
      if (path === '/page') return { body: JSON.stringify((await takeFlashes()).map(({ text }) => text)) }
      return { status: 303, headers: { Location: '/page' } }
    })
    const { cookie } = await ask(`${url}/add`)
    t.equal((await ask(`${url}/page`, cookie)).body, '["Saved."]')
    t.equal((await ask(`${url}/page`, cookie)).body, '[]')
  })

  /** Makes a store with an old schema, so that no older session is live. */
  const settled = async (options: Parameters<typeof sessionStore>[1]) => {
    const schema = freshSchema()
    await sessionStore(database, { schema }).prepare()
    const text = `update ${schema}.metadata set made_at = made_at - interval '1 day'`
    await database.query({ name: 'age', text }, [])()
    const { database: counted, events } = counting(database)
    return { schema, events, store: sessionStore(counted, { ...options, schema }) }
  }

  const signing = async ({ path }: Call): Promise<Reply> => {
    if (path === '/in') await signIn('ada')
    if (path === '/out') await signOut()
    return path === '/' ? visit() : { body: 'done' }
  }

  const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })

  t.test('bad tokens are reported without the credential, and nobody is locked out for them', async (t) => {
    const told: [string, unknown][] = []
    for (const name of ['badToken', 'tokenAbuse', 'created', 'rotated', 'destroyed', 'expired'] as const)
      t.teardown(onSessionEvent(name, (event) => told.push([name, event])))
    const { store, schema, events } = await settled({ idleMs: 60_000 })
    const guard = tokenGuard({ limit: 3 })
    const url = await serve(t, signing, { store, guard, trustProxy: true })
    const office = from('203.0.113.1')
    const first = await ask(`${url}/`, undefined, office)
    const second = await ask(`${url}/in`, first.cookie, office)
    await ask(`${url}/out`, second.cookie, office)
    const expired = await ask(`${url}/`, undefined, office)
    await age(database, schema, 61_000)
    await ask(`${url}/show`, expired.cookie, from('203.0.113.9'))
    const kept = await ask(`${url}/`, undefined, office)
    const guess = () => `session=${sessionToken(buildSession(memoryStore()))}`
    const stale = guess()
    const shown = [stale, stale, stale, stale, second.cookie, guess(), 'session=x', guess(), guess()]
    for (const [index, cookie] of shown.entries()) {
      // Proxies may add the port, which differs each time.
      const address = from(`203.0.113.1:${String(4_000 + index)}`)
      t.equal((await ask(`${url}/show`, cookie, address)).body, '{}')
    }
    t.strictSame(
      told.filter(([name]) => name === 'tokenAbuse'),
      [['tokenAbuse', { address: '203.0.113.1', tokens: 4, blocked: true }]],
      'one token counts once, and none that was ours',
    )
    events.splice(0)
    t.equal((await ask(`${url}/show`, guess(), office)).body, '{}')
    t.equal(events.length, 0, 'what was never ours is not looked up any more')
    await ask(`${url}/show`, guess(), from('203.0.113.2'))
    t.equal(events.length, 1, 'of another client it is')
    t.equal((await ask(`${url}/show`, kept.cookie, office)).body, '{"visits":1}', 'a right one is served')
    const signedIn = await ask(`${url}/in`, guess(), office)
    t.equal(signedIn.status, 200)
    t.equal((await ask(`${url}/`, signedIn.cookie, office)).body, '1', 'who guessed can sign in')
    t.strictSame(
      new Set(told.map(([name]) => name)),
      new Set(['created', 'rotated', 'destroyed', 'expired', 'badToken', 'tokenAbuse']),
    )
    const secrets = [first, second, expired, kept].map(({ cookie }) => cookie.split('.')[1] ?? '')
    for (const secret of [...secrets, stale.split('.')[1] ?? ''])
      t.notOk(JSON.stringify(told).includes(secret), 'no secret is told')
  })

  t.test('visitors of one office whose sessions have ended do not lock out the next one', async (t) => {
    const guessing: unknown[] = []
    t.teardown(onSessionEvent('tokenAbuse', (event) => guessing.push(event)))
    const { store, schema } = await settled({ idleMs: 60_000 })
    // A new process makes ids without a tag until it has read the key.
    await store.prepare()
    const url = await serve(t, signing, { store, guard: tokenGuard(), trustProxy: true })
    const office = from('203.0.113.1')
    const visitors = () =>
      Promise.all(Array.from({ length: 60 }, () => ask(`${url}/`, undefined, office).then((a) => a.cookie)))
    const comeBack = async (cookies: readonly string[]): Promise<void> => {
      for (const { status, body } of await Promise.all(
        cookies.map((cookie) => ask(`${url}/show`, cookie, office)),
      ))
        t.strictSame([status, body], [200, '{}'])
    }
    const [aged, ended] = [await visitors(), await visitors()]
    const last = await ask(`${url}/in`, undefined, office)
    await age(database, schema, 61_000)
    await comeBack(aged)
    await deleteExpiredSessions(store, { delayMs: 0 })
    await comeBack(aged)
    const again = await visitors()
    const operator = adminOver(database, schema)
    t.match(await operator.endBatch({ kind: 'all' }, FIRST_ID, 1_000)(), { right: { ended: 60 } })
    await comeBack([...again, ...ended, last.cookie])
    t.strictSame(guessing, [])
    const next = await ask(`${url}/in`, undefined, office)
    t.equal((await ask(`${url}/`, next.cookie, office)).body, '1')
  })

  t.test('HEAD and 304 have a head and no body, and save', async (t) => {
    const url = await serve(t, async ({ path }) => {
      await set('seen', true)
      return path === '/304'
        ? { status: 304, headers: { ETag: '"1"' } }
        : { headers: { 'Content-Type': 'text/plain' }, body: 'hello' }
    })
    const head = await ask(`${url}/`, undefined, { method: 'HEAD' })
    t.strictSame([head.status, head.body, head.setCookie.length], [200, '', 1])
    const unchanged = await ask(`${url}/304`)
    t.strictSame([unchanged.status, unchanged.body, unchanged.headers.get('etag')], [304, '', '"1"'])
    t.equal((await ask(`${url}/show`, unchanged.cookie)).body, '{"seen":true}')
  })

  if (door.pipelines ?? true)
    t.test(
      'pipelined requests on a kept connection are answered in order, each with its own session',
      async (t) => {
        const url = await serve(t, async ({ path }) => {
          await visit()
          return { body: `<${path}>` }
        })
        const socket = connect(Number(new URL(url).port), '127.0.0.1')
        const parts: string[] = []
        socket.on('data', (data) => parts.push(data.toString()))
        const request = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
        socket.write(request('/one') + request('/two') + request('/three', 'Connection: close\r\n'))
        await once(socket, 'close')
        const said = parts.join('')
        t.strictSame(said.match(/<\/\w+>/g), ['</one>', '</two>', '</three>'])
        t.equal(new Set(said.match(/session=[^;]+/g)).size, 3)
      },
    )

  t.test('a header that would inject another does not go out', async (t) => {
    const url = await serve(t, async ({ query }) => {
      await set('a', 1)
      return { headers: { 'X-Name': query.get('name') ?? '' }, body: 'done' }
    })
    const answer = await ask(`${url}/?name=${encodeURIComponent('x\r\nSet-Cookie: session=mine')}`)
    t.equal(answer.status, 500)
    t.notMatch(answer.setCookie.join('\n'), /session=mine/)
  })

  t.test(
    'a session that was destroyed in its own request can be read, and its change is refused',
    async (t) => {
      const url = await serve(t, async ({ path }) => {
        if (path === '/in') await set('a', 1)
        else {
          await destroySession(await currentSession())
          await set('b', 2)
        }
        return { body: 'done' }
      })
      const { cookie } = await ask(`${url}/in`)
      const answer = await ask(`${url}/out`, cookie)
      t.equal(answer.status, 409)
      t.match(answer.setCookie, [/^session=; Max-Age=0/], 'the cookie is taken away all the same')
    },
  )

  if (!door.streams) return

  t.test('a stream: its head waits for the save, its parts go out one by one', async (t) => {
    const more = gate()
    async function* parts(): AsyncIterable<string> {
      yield 'one '
      await more.opened
      yield 'two'
    }
    const url = await serve(t, async () => {
      await set('streamed', true)
      return { headers: { 'Content-Type': 'text/event-stream' }, body: parts() }
    })
    const response = await fetch(`${url}/`)
    const reader = response.body?.getReader()
    t.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), 'one ')
    const cookie = response.headers.getSetCookie()[0]?.split(';')[0]
    t.equal((await ask(`${url}/show`, cookie)).body, '{"streamed":true}', 'it was saved before')
    more.open()
    t.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), 'two')
  })

  t.test(
    'a client that goes away in the middle of the response does no harm; what was saved stays',
    async (t) => {
      let left = 0
      async function* endless(): AsyncIterable<string> {
        try {
          for (;;) {
            yield 'x'.repeat(10_000)
            await new Promise((resolve) => setImmediate(resolve))
          }
        } finally {
          left += 1
        }
      }
      const url = await serve(t, async ({ path }) => {
        if (path !== '/endless') return visit()
        await set('asked', true)
        return { body: endless() }
      })
      const { cookie } = await ask(`${url}/`)
      const socket = connect(Number(new URL(url).port), '127.0.0.1')
      socket.write(`GET /endless HTTP/1.1\r\nHost: x\r\nCookie: ${cookie}\r\n\r\n`)
      await once(socket, 'data')
      socket.destroy()
      for (let turn = 0; left === 0 && turn < 1_000; turn += 1)
        await new Promise((resolve) => setTimeout(resolve, 5))
      t.equal(left, 1, 'the stream was ended')
      t.strictSame(JSON.parse((await ask(`${url}/show`, cookie)).body), { visits: 1, asked: true })
      t.equal((await ask(`${url}/`, cookie)).body, '2')
    },
  )
}
