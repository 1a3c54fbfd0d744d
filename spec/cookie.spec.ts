// Tests the session's cookie and its options.

import { createServer } from 'node:http'
import t from 'tap'
import { type CookieOptions, sessionCookies } from '../lib/http/cookie.js'
import { sessionListener } from '../lib/http/node.js'
import { sessionUpdate, signIn, signOut, updateCurrentSession } from '../lib/promise/index.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening } from './support/adapters.js'

const none = { sameSite: 'none' } as const

t.test('what is written, over TLS and without', async (t) => {
  for (const [options, secure, plain] of [
    [
      {},
      '__Host-session=x; Path=/; HttpOnly; Secure; SameSite=Lax',
      'session=x; Path=/; HttpOnly; SameSite=Lax',
    ],
    [
      { ...none, partitioned: true },
      '__Host-session=x; Path=/; HttpOnly; Secure; Partitioned; SameSite=None',
      'session=x; Path=/; HttpOnly; SameSite=None',
    ],
    [
      { domain: 'shop.example' },
      '__Secure-session=x; Domain=shop.example; Path=/; HttpOnly; Secure; SameSite=Lax',
      'session=x; Domain=shop.example; Path=/; HttpOnly; SameSite=Lax',
    ],
    [
      { path: '/app', cookieName: 'a' },
      '__Secure-a=x; Path=/app; HttpOnly; Secure; SameSite=Lax',
      'a=x; Path=/app; HttpOnly; SameSite=Lax',
    ],
    [
      { ...none, partitioned: true, domain: 'a.b-c.example', path: '/x/' },
      '__Secure-session=x; Domain=a.b-c.example; Path=/x/; HttpOnly; Secure; Partitioned; SameSite=None',
      'session=x; Domain=a.b-c.example; Path=/x/; HttpOnly; SameSite=None',
    ],
  ] as const) {
    const cookie = sessionCookies(options).session
    t.equal(cookie.serialize('x', true, 1), secure)
    t.equal(cookie.serialize('x', false, 1), plain)
    for (const isSecure of [true, false]) {
      const given = cookie.serialize('token', isSecure, 1).split(';')[0]
      t.strictSame(cookie.read(given, isSecure), ['token'])
      t.strictSame(cookie.read(given, !isSecure), [])
      const taken = cookie.clear(isSecure)
      t.equal(taken.replace('Max-Age=0; ', '').replace('=;', '=x;'), isSecure ? secure : plain, 'taken alike')
    }
  }
})

t.test('how long it is kept', async (t) => {
  const ageOf = (options: CookieOptions, ...times: [number, number?]) =>
    /Max-Age=(\d+)/.exec(sessionCookies(options).session.serialize('x', true, ...times))?.[1]
  t.equal(ageOf({}, 60_000), undefined)
  t.equal(ageOf({ persistent: true }, 60_000), '60')
  t.equal(ageOf({}, 60_000, 90_000), '90', 'its own time outlives the browser')
  t.equal(ageOf({ persistent: true }, 60_000, 30_000), '30')
  t.equal(ageOf({ persistent: true }, 1), '1', 'zero would take it away')
})

t.test('what browsers would drop is refused at once, and says why', async (t) => {
  const wrong: readonly [CookieOptions, string][] = [
    [{ partitioned: true }, "partitioned needs sameSite: 'none'"],
    [{ partitioned: true, sameSite: 'strict' }, "partitioned needs sameSite: 'none'"],
    ...[
      '',
      'localhost',
      '.shop.example',
      'shop.example.',
      'shop.example:443',
      'https://shop.example',
      '127.0.0.1',
      '::1',
    ]
      .concat(
        'a..b',
        'shop example',
        'shop.example;',
        '-a.example',
        `${'a'.repeat(64)}.example`,
        'b\u00fcro.example',
      )
      .map((domain): [CookieOptions, string] => [{ domain }, `domain: "${domain}"`]),
    [{ path: '' }, 'path: ""'],
    [{ path: 'app' }, 'path: "app"'],
    [{ path: '/a;b' }, 'path'],
    [{ path: '/a\n' }, 'path'],
    [{ path: '/b\u00fcro' }, 'path'],
    [{ cookieName: '__Secure-a' }, 'cookieName'],
    [{ cookieName: 'a b' }, 'name'],
  ]
  for (const [options, message] of wrong) {
    const store = memoryStore()
    t.throws(
      () => sessionListener({ store, ...options }),
      { name: 'TypeError', message },
      JSON.stringify(options),
    )
  }
})

t.test('a session that is signed in to be remembered has a cookie of its own time', async (t) => {
  const day = 86_400_000
  const lifetime = { idleMs: 14 * day, absoluteMs: 60 * day }
  const listener = sessionListener({ store: memoryStore(), path: '/shop', trustProxy: true })(
    async (req, res) => {
      if (req.url === '/shop/remember') await signIn('ada', { lifetime })
      else if (req.url === '/shop/in') await signIn('ada')
      else if (req.url === '/shop/out') await signOut()
      else await updateCurrentSession(sessionUpdate('n', () => 1))
      res.end()
    },
  )
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  const ask = async (path: string, cookie = '') => {
    const answer = await fetch(`${url}/shop/${path}`, { headers: { cookie, 'x-forwarded-proto': 'https' } })
    return answer.headers.getSetCookie()[0] ?? ''
  }
  const pairOf = (line: string): string => line.split(';')[0] ?? ''
  const visitor = await ask('')
  t.match(visitor, /^__Secure-session=[^;]+; Path=\/shop; HttpOnly; Secure; SameSite=Lax$/)
  const remembered = await ask('remember', pairOf(visitor))
  t.match(remembered, 'Max-Age=5184000;')
  t.equal(await ask('', pairOf(remembered)), '', 'given once')
  const again = await ask('in', pairOf(remembered))
  t.match(again, /^__Secure-session=/)
  t.notMatch(again, 'Max-Age', 'a sign-in without it ends with the browser')
  t.match(await ask('out', pairOf(again)), /^__Secure-session=; Max-Age=0; Path=\/shop;/)
})
