// Tests with every adapter the headers that a browser adds to a request. The headers show the site of a form's page, a
// prefetch, and whether the browser could send the session's cookie.

import * as O from 'fp-ts/lib/Option.js'
import type { Test } from 'tap'
import type { Database } from '../../lib/db/database.js'
import {
  buildSession,
  csrfToken,
  currentSession,
  loadSession,
  sessionFlash,
  signIn,
  takeFlashes,
  updateCurrentSession,
  verifyCsrf,
  withSession,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { memoryStore } from '../../lib/store/memory.js'
import { ask, post, set, shown } from './adapter-suite.js'
import type { Call, CallHandler, Serving, SpecDoor } from './adapters.js'
import { counting } from './databases.js'
import { age, freshSchema } from './stores.js'

type Sent = Readonly<Record<string, string>>

const SAME_ORIGIN: Sent = { 'sec-fetch-site': 'same-origin' }
/** `/form` shows a token, `/in` signs in, and every other path accepts a form. */
const forms: CallHandler = async (call: Call) => {
  if (call.path === '/form') return { body: await csrfToken() }
  if (call.path === '/in') await signIn('ada')
  else if (call.path !== '/set') await verifyCsrf(call, (await call.form()).get('csrf') ?? undefined)
  await set('sent', true)
  return { body: 'sent' }
}

/** Tests an adapter on this database. */
export const browserSuite = (t: Test, door: SpecDoor, database: Database): void => {
  const open = () => {
    const { database: counted, events } = counting(database)
    const schema = freshSchema()
    return { schema, store: sessionStore(counted, { schema }), events }
  }
  const serve = async (t: Test, handler: CallHandler, options: Partial<Serving> = {}) => {
    const { url, close } = await door.serve(shown(handler), { store: open().store, ...options })
    t.teardown(close)
    return url
  }
  /** Returns a function that sends a form with these headers, and returns the status. */
  const sender =
    (url: string) =>
    async (headers: Sent, csrf = '', cookie?: string) =>
      (await ask(`${url}/`, cookie, post({ csrf }, headers))).status

  t.test(
    'a form is taken from our own pages, and asked for its token where the browser says nothing',
    async (t) => {
      const url = await serve(t, forms)
      const send = sender(url)
      const { host, port } = new URL(url)
      const { cookie } = await ask(`${url}/set`)
      const token = async () => (await ask(`${url}/form`, cookie)).body
      const [good, again] = [await token(), await token()]
      t.not(good, again, 'no two answers show the same text')

      t.equal(await send(SAME_ORIGIN), 200, 'the browser says that it is ours')
      t.equal(await send({ origin: `http://${host}` }), 200, 'and so does an older one')
      t.equal(await send({ ...SAME_ORIGIN, origin: `http://${host}` }, 'a guess', cookie), 200)

      for (const said of [
        {},
        { origin: 'null' },
        { 'sec-fetch-site': 'same-site', origin: 'https://other.shop.example' },
        { 'sec-fetch-site': 'none' },
        { 'sec-fetch-site': 'something new' },
      ]) {
        t.equal(await send(said, good, cookie), 200, `${JSON.stringify(said)} with the token`)
        t.equal(await send(said, again, cookie), 200)
        t.equal(await send(said, '', cookie), 403, `${JSON.stringify(said)} without it`)
      }
      for (const said of [
        { 'sec-fetch-site': 'cross-site' },
        { 'sec-fetch-site': 'cross-site', origin: `http://${host}` },
        { origin: 'https://evil.example' },
        { origin: `http://127.0.0.1:${String(Number(port) + 1)}` },
        { origin: `ftp://${host}` },
        { origin: `http://${host} http://evil.example` },
      ])
        t.equal(await send(said, good, cookie), 403, `${JSON.stringify(said)} is foreign, with a token too`)

      const header = { method: 'POST', headers: { 'x-csrf-token': good } }
      t.equal((await ask(`${url}/`, cookie, header)).status, 200, 'the token in a header')
      const forged = good.replace(/^./, (first) => (first === 'A' ? 'B' : 'A'))
      const others = await ask(`${url}/form`, (await ask(`${url}/set`)).cookie)
      for (const bad of ['', 'x', good.slice(1), forged, others.body])
        t.equal(await send({}, bad, cookie), 403, bad)
      const signedIn = await ask(`${url}/in`, cookie)
      t.equal(await send({}, good, signedIn.cookie), 403, 'another token after signing in')
    },
  )

  t.test('a token by itself makes no session; two first tabs both send their forms', async (t) => {
    const { store, events } = open()
    await store.prepare()
    events.splice(0)
    const url = await serve(t, forms, { store })
    const { origin } = new URL(url)
    const [one, two] = [await ask(`${url}/form`), await ask(`${url}/form`)]
    t.match(one.body, /^[\w-]{86}$/)
    t.strictSame([one.setCookie, two.setCookie, events], [[], [], []], 'no cookie, no row')

    const first = await ask(`${url}/`, undefined, post({ csrf: one.body }, { origin }))
    t.equal(first.status, 200, 'a browser that sends only an Origin signs in')
    t.equal((await ask(`${url}/`, first.cookie, post({ csrf: two.body }, { origin }))).status, 200)
    t.equal((await ask(`${url}/`, first.cookie, post({ csrf: two.body }, SAME_ORIGIN))).status, 200)

    const silent = await ask(`${url}/`, undefined, post({ csrf: one.body }))
    t.equal(silent.status, 403, 'a browser that says nothing and has no session')
    t.strictSame(silent.setCookie, [])
  })

  t.test('a token that is shown before the first value is stored is good afterwards', async (t) => {
    const url = await serve(t, async (call) => {
      if (call.method === 'POST') return forms(call)
      const token = await csrfToken()
      await set('shown', true)
      return { body: token }
    })
    const form = await ask(`${url}/`)
    t.equal(await sender(url)({}, form.body, form.cookie), 200)
  })

  t.test('equal origins are equal, behind a proxy too', async (t) => {
    const [trusting, wary] = [await serve(t, forms, { trustProxy: true }), await serve(t, forms)]
    const https = { 'x-forwarded-proto': 'https' }
    const shop = { origin: 'https://shop.example' }
    const send = sender(trusting)
    for (const said of ['shop.example', 'shop.example:443', 'SHOP.example'])
      t.equal(await send({ ...https, ...shop, 'x-forwarded-host': said }), 200, said)
    for (const said of [
      'shop.example:8443',
      'shop.example.',
      'other.example',
      'shop.example@evil',
      '',
      'a b',
    ])
      t.equal(await send({ ...https, ...shop, 'x-forwarded-host': said }), 403, said)
    const literal = { ...https, 'x-forwarded-host': '[0:0:0::1]:8443' }
    t.equal(await send({ ...literal, origin: 'https://[::1]:8443' }), 200, 'an IPv6 address')
    const shopHost = { 'x-forwarded-host': 'shop.example' }
    t.equal(await send({ ...https, ...shopHost, origin: 'http://shop.example' }), 403, 'not over TLS')
    t.equal(await sender(wary)({ ...shop, ...shopHost }), 403, 'anybody could say so')

    // The other adapters get the host and the scheme from their framework or gateway.
    if (!['node:http', 'Express', 'Koa', 'Hono', 'fetch'].includes(door.name)) return
    // The one trusted proxy has added the last element. The client may have sent the others.
    for (const forwarded of [
      'host=shop.example;proto=https',
      'host=evil.example, for=192.0.2.1; Proto=https; Host="shop.example:443"',
      'for=192.0.2.1, host=shop.example',
      'for="a, host=evil.example;"; host="shop.\\example"',
    ])
      t.equal(await send({ ...shop, forwarded }), 200, forwarded)
    for (const forwarded of [
      'host=shop.example, for=192.0.2.1; host=inner.example',
      'host="shop.example',
      'host=',
      'xhost=shop.example',
    ])
      t.equal(await send({ ...shop, forwarded }), 403, forwarded)
    t.equal(await sender(wary)({ ...shop, forwarded: 'host=shop.example' }), 403)
  })

  const caching = ({ headers }: { readonly headers: Headers }) => [
    headers.get('cache-control'),
    headers.get('vary'),
  ]

  t.test('law 10: an answer that read a session is for that visitor alone', async (t) => {
    const looks: Readonly<Record<string, () => Promise<unknown>>> = {
      '/read': currentSession,
      '/edit': () => set('n', 1),
      '/message': takeFlashes,
      '/token': csrfToken,
      '/nested': async () => withSession(buildSession(memoryStore()), currentSession),
    }
    const url = await serve(t, async ({ path, query, headers }) => {
      await looks[path]?.()
      if (path === '/fail') {
        await currentSession()
        throw new Error('mine')
      }
      const own = Object.fromEntries(query) as Record<string, string>
      return headers['if-none-match'] === undefined
        ? { headers: own, body: 'done' }
        : { status: 304, headers: { ...own, ETag: '"1"' } }
    })
    const { cookie } = await ask(`${url}/edit`)
    t.strictSame(
      caching(await ask(`${url}/plain`, cookie)),
      [null, null],
      'the load by itself does not count',
    )
    const own = '?Cache-Control=public,max-age=60&Vary=Accept-Encoding'
    t.strictSame(caching(await ask(`${url}/plain${own}`, cookie)), ['public,max-age=60', 'Accept-Encoding'])
    for (const path of Object.keys(looks)) {
      for (const shown of [cookie, undefined].slice(0, path === '/edit' ? 1 : 2))
        t.strictSame(caching(await ask(`${url}${path}`, shown)), ['no-store', 'Cookie'], path)
      t.strictSame(
        caching(await ask(`${url}${path}${own}`, cookie)),
        ['public,max-age=60', 'Accept-Encoding, Cookie'],
        'the handler decides for itself',
      )
    }
    for (const vary of ['*', 'Accept-Encoding, cookie'])
      t.equal((await ask(`${url}/read?Vary=${vary}`, cookie)).headers.get('vary'), vary)
    const unchanged = await ask(`${url}/read`, cookie, { headers: { 'if-none-match': '"1"' } })
    t.strictSame([unchanged.status, ...caching(unchanged)], [304, 'no-store', 'Cookie'])
    t.equal((await ask(`${url}/fail`, cookie)).status, 500)
  })

  t.test('a page that is fetched ahead keeps its messages and moves no expiration', async (t) => {
    const schema = freshSchema()
    const store = sessionStore(database, { schema, idleMs: 60_000, touchFraction: 0.1 })
    const url = await serve(
      t,
      async ({ path }) => {
        if (path === '/add') await updateCurrentSession(sessionFlash('info', 'Saved.'))
        if (path === '/store') await set('stored', true)
        return { body: JSON.stringify((await takeFlashes()).map(({ text }) => text)) }
      },
      { store },
    )
    const { cookie } = await ask(`${url}/store`)
    await ask(`${url}/add`, cookie, { headers: { 'sec-purpose': 'prefetch' } })
    const expiration = async () =>
      O.toUndefined((await loadSession(store, cookie.slice('session='.length)))?.expiration ?? O.none)
    await age(database, schema, 30_000)
    const before = await expiration()
    for (const headers of [
      { 'sec-purpose': 'prefetch' },
      { 'sec-purpose': 'prefetch;prerender' },
      { 'sec-purpose': 'prefetch;anonymous-client-ip' },
      { purpose: 'prefetch' },
    ]) {
      const ahead = await ask(`${url}/`, cookie, { headers })
      t.strictSame([ahead.body, ahead.setCookie], ['["Saved."]', []], JSON.stringify(headers))
      t.equal(await expiration(), before)
    }
    t.equal((await ask(`${url}/`, cookie, { headers: { 'sec-purpose': 'other' } })).body, '["Saved."]')
    t.equal((await ask(`${url}/`, cookie)).body, '[]', 'the visit takes it')
    t.ok(Number(await expiration()) > Number(before), 'and moves the expiration')

    await age(database, schema, 30_000)
    const again = await expiration()
    const stored = await ask(`${url}/add`, cookie, { headers: { 'sec-purpose': 'prefetch' } })
    t.equal(stored.body, '["Saved."]')
    t.ok(Number(await expiration()) > Number(again), 'what its handler stores is stored')
  })
}
