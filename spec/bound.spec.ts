// Tests sessions that are bound to a browser, over each adapter with its real framework, by a browser that sends what
// Chromium sends. The real Chromium is in slow/bound-browser.spec.ts.

import { createServer } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { withEntries } from '../lib/core/well-known-keys.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import type { BoundOptions } from '../lib/http/bound.js'
import { sessionListener } from '../lib/http/node.js'
import { dropFlow, effect, flow, flowHandler, suspend } from '../lib/promise/flow.js'
import {
  buildSession,
  callWithSession,
  currentProof,
  currentSession,
  destroySession,
  destroySessionsOf,
  flash,
  loadCurrentKeys,
  loadSession,
  observedDatabase,
  onSessionEvent,
  refreshSession,
  requireProof,
  resetSession,
  rotateSession,
  saveSession,
  sessionRef,
  sessionSet,
  sessionUpdate,
  signIn,
  signOut,
  takeFlashes,
  updateCurrentSession,
  withSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import type { Session, SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { type CallHandler, documentedDoor, doors, listening, type SpecDoor } from './support/adapters.js'
import { BoundBrowser, newKeys, proofOf } from './support/bound-browser.js'
import { quietPool } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { age, freshSchema, right } from './support/stores.js'

const MINUTE = 60_000

/** The program: each path does one thing, and every page says what it sees. */
const program: CallHandler = async ({ path, query }) => {
  if (path === '/in') await signIn(query.get('user') ?? 'ada')
  if (path === '/keep') await signIn('ada', { keep: ['cart'] })
  if (path === '/steal') await signIn('ada', { keep: ['cart', 'keyrow:bound'] })
  if (path === '/out') await signOut()
  if (path === '/leave') {
    await resetSession()
    await flash('info', 'Goodbye.')
  }
  if (path === '/rotate') await rotateSession(await currentSession())
  if (path === '/add') await updateCurrentSession(sessionUpdate('cart', (n) => Number(n) + 1, 0))
  if (path === '/nested')
    await withSession(sessionSet('cart', 99)(await currentSession()), () => Promise.resolve(undefined))
  if (path === '/saved') await saveSession(sessionSet('cart', 98)(await currentSession()))
  if (path === '/end') await destroySessionsOf((await currentSession()).handle, 'ada')
  if (path === '/more') await loadCurrentKeys('cart')
  if (path === '/fresh') await refreshSession(await currentSession())
  if (path === '/flash') await flash('info', 'Hi')
  if (path === '/flashes') return { body: (await takeFlashes()).map(({ text }) => text).join() }
  if (path === '/sure') await requireProof()
  if (path === '/out') return { body: 'out' }
  const session = await currentSession()
  return { body: `${await currentProof()} ${JSON.stringify(sessionRef('cart', 0)(session))}` }
}

interface Served {
  readonly browser: () => BoundBrowser
  readonly store: SessionStore
  readonly elapse: (ms: number) => void
}

const served = async (
  t: Test,
  door: SpecDoor,
  bound: BoundOptions = {},
  change: (store: SessionStore) => SessionStore = (store) => store,
): Promise<Served> => {
  let now = Date.now()
  const store = change(memoryStore({ clock: () => now }))
  const { url, close } = await door.serve(program, { store, bound, trustProxy: true })
  t.teardown(close)
  return {
    browser: () => new BoundBrowser(url),
    store,
    elapse: (ms) => {
      now += ms
    },
  }
}

/** The paths that change or end the session. */
const CHANGES = ['/add', '/in', '/keep', '/out', '/leave', '/end', '/rotate', '/nested', '/saved', '/flash']

const post = { method: 'POST' }
const textOf = async (response: Promise<Response>): Promise<string> => (await response).text()
const statusOf = async (response: Promise<Response>): Promise<number> => (await response).status

const boundBrowser = async (t: Test, { browser }: Pick<Served, 'browser'>): Promise<BoundBrowser> => {
  const own = browser()
  await own.send('/add', post)
  t.equal((await own.register(await own.send('/in', post)))?.status, 200)
  return own
}

// Express and Fastify log failures.
const quiet = (t: Test): void => {
  const log = console.error
  console.error = () => undefined
  t.teardown(() => {
    console.error = log
  })
}

for (const door of [...doors, await documentedDoor()])
  t.test(door.name, async (t) => {
    quiet(t)

    t.test('a browser registers, refreshes and signs out', async (t) => {
      const server = await served(t, door)
      const browser = server.browser()
      t.equal((await browser.send('/add', post)).headers.get('secure-session-registration'), null)
      const offer = await browser.send('/in', post)
      t.equal(await textOf(browser.send('/')), 'unbound 1')
      const registered = await browser.register(offer)
      t.equal(registered?.status, 200)
      t.match(registered?.headers.get('cache-control'), 'no-store')
      t.match(browser.instructions, {
        refresh_url: '/session-binding/refresh',
        scope: { include_site: false },
        credentials: [
          {
            type: 'cookie',
            name: '__Host-session-bound',
            attributes: 'Path=/; HttpOnly; Secure; SameSite=Lax',
          },
        ],
      })
      t.match(registered?.headers.getSetCookie(), [
        /^__Host-session-bound=[^;]+; Max-Age=600; Path=\/; HttpOnly; Secure; SameSite=Lax$/,
      ])
      t.equal(await textOf(browser.send('/')), 'proven 1')
      t.equal(await textOf(browser.send('/add', post)), 'proven 2')
      server.elapse(9 * MINUTE)
      const near = await browser.send('/')
      t.equal(await near.text(), 'proven 2')
      t.match(near.headers.get('secure-session-challenge'), /^"[^"]+";id="[^"]+"$/, 'a challenge in advance')
      t.equal(await statusOf(browser.refresh()), 200)
      server.elapse(12 * MINUTE)
      browser.loseBoundCookie()
      t.equal(await textOf(browser.send('/')), 'unproven 2')
      t.equal(await statusOf(browser.refresh()), 200)
      t.equal(await textOf(browser.send('/')), 'proven 2')
      t.equal(await textOf(browser.send('/out', post)), 'out')
      t.strictSame([...browser.jar], [])
      t.equal(await statusOf(browser.refresh()), 404, 'the browser ends its binding')
    })

    t.test('copied cookies read for a while, and change nothing after it', async (t) => {
      const server = await served(t, door)
      const browser = await boundBrowser(t, server)
      const thief = browser.thief()
      t.equal(await textOf(thief.send('/add', post)), 'proven 2', 'as long as the bound cookie lives')
      server.elapse(12 * MINUTE)
      for (const path of CHANGES) {
        const refused = await thief.send(path, post)
        t.equal(refused.status, 403)
        t.equal(refused.headers.get('retry-after'), '5')
      }
      for (const path of [...CHANGES, '/sure']) t.equal(await statusOf(thief.send(path)), 403, path)
      t.equal(await textOf(thief.send('/')), 'unproven 2')
      t.equal(await statusOf(thief.refresh()), 403)
      t.equal(thief.challenge, undefined, 'no second chance')
      t.equal(await textOf(thief.send('/')), 'unproven 2')
      browser.loseBoundCookie()
      t.equal(await statusOf(browser.refresh()), 200)
      t.equal(await textOf(browser.send('/add', post)), 'proven 3', 'the owner goes on')
    })

    t.test('a rotation keeps what the browser has proved', async (t) => {
      const server = await served(t, door)
      const browser = await boundBrowser(t, server)
      t.equal(await textOf(browser.send('/rotate', post)), 'proven 1')
      t.equal(await textOf(browser.send('/')), 'proven 1')
      t.equal(await textOf(browser.send('/in?user=bob', post)), 'proven 1')
      t.equal(await textOf(browser.send('/')), 'proven 1')
      server.elapse(11.5 * MINUTE)
      t.equal(await textOf(browser.send('/')), 'unproven 1')
      t.ok(
        browser.jar.has('__Host-session-bound'),
        'a refresh of a cookie that has just ended may be under way',
      )
      server.elapse(MINUTE)
      t.equal(await textOf(browser.send('/')), 'unproven 1')
      t.notOk(browser.jar.has('__Host-session-bound'), 'a cookie that is no longer valid is deleted')
      t.equal(await statusOf(browser.refresh()), 200)
    })

    t.test('a strict policy answers nothing, and a new session can sign in', async (t) => {
      const unproven: BoundOptions['unproven'] = ({ url = '' }) =>
        url.includes('/in') ? 'anonymous' : 'refuse'
      const server = await served(t, door, { unproven })
      const browser = await boundBrowser(t, server)
      const thief = browser.thief()
      server.elapse(12 * MINUTE)
      for (const path of ['/', '/flashes', '/add']) t.equal(await statusOf(thief.send(path)), 403)
      const signedIn = await thief.send('/in?user=eve', post)
      t.equal(await signedIn.text(), 'unbound 0')
      t.equal((await thief.register(signedIn))?.status, 200)
      t.equal(await textOf(thief.send('/')), 'proven 0')
      browser.loseBoundCookie()
      t.equal(await statusOf(browser.refresh()), 200)
      t.equal(await textOf(browser.send('/')), 'proven 1')
    })

    t.test('a store that is down keeps the binding', async (t) => {
      let isDown = false
      const server = await served(t, door, {}, (store) => ({
        ...store,
        load: (...input) =>
          isDown
            ? TE.left(new DriverError('down', { kind: 'unavailable', retryable: true }))
            : store.load(...input),
      }))
      const browser = await boundBrowser(t, server)
      isDown = true
      browser.loseBoundCookie()
      t.ok((await statusOf(browser.refresh())) >= 500)
      isDown = false
      t.equal(await statusOf(browser.refresh()), 200)
    })
  })

const node = doors[0] as SpecDoor

t.test('a browser that does not know bound sessions loses nothing', async (t) => {
  const server = await served(t, node, { unproven: 'refuse' })
  const browser = server.browser()
  await browser.send('/in', post)
  server.elapse(60 * MINUTE)
  t.equal(await textOf(browser.send('/add', post)), 'unbound 1')
  t.equal(await textOf(browser.send('/sure')), 'unbound 1')
})

t.test('nothing is offered without TLS, without a principal, or twice', async (t) => {
  const server = await served(t, node)
  const browser = server.browser()
  const offers = async (path: string, headers = {}): Promise<boolean> =>
    (await browser.send(path, { ...post, headers })).headers.has('secure-session-registration')
  t.notOk(await offers('/add'))
  t.notOk(await offers('/rotate'))
  t.ok(await offers('/in'))
  t.notOk(await offers('/add'), 'the token is not sent again')
  t.ok(await offers('/rotate'))
  const plain = server.browser()
  const headers = { 'x-forwarded-proto': 'http' }
  t.notOk((await plain.send('/in', { ...post, headers })).headers.has('secure-session-registration'))
})

t.test('a bound session is not proven over plain HTTP', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  server.elapse(MINUTE)
  const token = browser.jar.get('__Host-session') ?? ''
  const headers = { 'x-forwarded-proto': 'http', cookie: `session=${token}` }
  t.equal(await textOf(browser.send('/', { headers })), 'unproven 1')
})

t.test('a registration binds once, and only with a fresh challenge of the session', async (t) => {
  const refusals: string[] = []
  t.teardown(onSessionEvent('proofRefused', ({ reason }) => refusals.push(reason)))
  const server = await served(t, node)
  const browser = server.browser()
  const offer = await browser.send('/in', post)
  const challenge =
    /challenge="([^"]+)"/.exec(offer.headers.get('secure-session-registration') ?? '')?.[1] ?? ''
  const attempt = async (proof: string | undefined, from = browser): Promise<number> =>
    statusOf(
      from.send('/session-binding/register', {
        ...post,
        headers: proof === undefined ? {} : { 'secure-session-response': proof },
      }),
    )
  const rsa = newKeys('RS256')
  const other = server.browser()
  await other.send('/in', post)
  t.equal(await attempt(undefined), 403)
  t.equal(await attempt(proofOf(newKeys(), 'a guess')), 403)
  t.equal(await attempt(proofOf(newKeys(), challenge), other), 403, 'the challenge of another session')
  t.equal(await attempt(proofOf(newKeys(), challenge), server.browser()), 403, 'without a session')
  t.equal(
    await attempt(proofOf({ ...newKeys(), jwk: newKeys().jwk }, challenge)),
    403,
    'the key of somebody else',
  )
  t.equal(await attempt(proofOf(rsa, challenge, { jwk: newKeys().jwk })), 403)
  t.equal(await attempt(proofOf(newKeys(), challenge, { jwk: undefined })), 403)
  t.strictSame(refusals.splice(0), [
    'noProof',
    'challenge',
    'challenge',
    'noSession',
    'signature',
    'key',
    'key',
  ])
  server.elapse(3 * MINUTE)
  t.equal(await attempt(proofOf(newKeys(), challenge)), 403, 'too late')
  const again = await browser.send('/rotate', post)
  const fresh = /challenge="([^"]+)"/.exec(again.headers.get('secure-session-registration') ?? '')?.[1] ?? ''
  t.equal(await attempt(proofOf(newKeys(), challenge)), 403, 'the challenge of an earlier secret')
  t.equal(await attempt(proofOf(rsa, fresh)), 200)
  t.equal(await attempt(proofOf(newKeys(), fresh)), 403, 'bound already')
  t.strictSame(refusals, ['challenge', 'challenge', 'alreadyBound'])
  t.equal(await textOf(browser.send('/')), 'proven 0')
})

t.test('of two registrations at the same moment, one binds, and the other gets no cookie', async (t) => {
  quiet(t)
  const server = await served(t, node)
  const browser = server.browser()
  const offer = await browser.send('/in', post)
  const both = [browser.thief(), browser.thief()]
  const statuses = await Promise.all(both.map((one) => one.register(offer)))
  t.strictSame(statuses.map((response) => response?.status).sort(), [200, 403])
  t.equal(both.filter(({ jar }) => jar.has('__Host-session-bound')).length, 1)
})

t.test(
  'a refresh needs the registered key, its algorithm, and a challenge of the last two minutes',
  async (t) => {
    const server = await served(t, node)
    const browser = await boundBrowser(t, server)
    await browser.refreshWith(undefined)
    const challenge = browser.challenge ?? ''
    const proof = proofOf(browser.keys, challenge)
    t.equal(await statusOf(browser.refreshWith(proof)), 200)
    t.equal(await statusOf(browser.refreshWith(proof)), 200, 'within its time it can be sent again')
    const isRetried = async (proof: string): Promise<boolean> => {
      const response = await browser.refreshWith(proof)
      t.equal(response.status, 403)
      return response.headers.has('secure-session-challenge')
    }
    t.notOk(await isRetried(proofOf(newKeys(), challenge)))
    t.notOk(await isRetried(proofOf(newKeys('RS256'), challenge)))
    t.notOk(await isRetried(proofOf(browser.keys, challenge, { alg: 'none' })))
    t.notOk(await isRetried(proofOf(browser.keys, challenge, { alg: 'HS256' })))
    t.notOk(await isRetried(proofOf(browser.keys, challenge, { typ: 'JWT' })))
    t.notOk(await isRetried(proofOf(browser.keys, challenge, { crit: ['exp'] })))
    t.notOk(await isRetried(`${proof}.${'a'.repeat(5000)}`))
    t.notOk(await isRetried(proof.slice(0, -1)))
    t.ok(await isRetried(proofOf(browser.keys, 'a guess')), 'the browser gets another challenge')
    server.elapse(3 * MINUTE)
    t.ok(await isRetried(proof), 'too late')
    const wrong = browser.thief()
    wrong.instructions = {
      ...(browser.instructions as never as object),
      session_identifier: 'another',
    } as never
    t.equal(await statusOf(wrong.refreshWith(proof)), 404, 'the identifier of another session')
  },
)

t.test('no changed proof is accepted', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  await browser.refreshWith(undefined)
  const proof = proofOf(browser.keys, browser.challenge ?? '')
  const statuses = new Map<number, number>()
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.="% '
  const anyChar = (): string => alphabet[Math.floor(Math.random() * alphabet.length)] ?? ''
  const mutated = (): string => {
    const at = Math.floor(Math.random() * proof.length)
    const kind = Math.floor(Math.random() * 4)
    if (kind === 0) return proof.slice(0, at) + anyChar() + proof.slice(at + 1)
    if (kind === 1) return proof.slice(0, at) + proof.slice(at + 1)
    if (kind === 2) return proof.slice(0, at) + anyChar() + proof.slice(at)
    return (
      proof.slice(0, at) +
      proof
        .slice(at, at + 20)
        .split('')
        .reverse()
        .join('') +
      proof.slice(at + 20)
    )
  }
  // A quoted proof, and one with spaces around it, are the same proof.
  const isOther = (text: string): boolean => text.trim().replace(/^"(.*)"$/, '$1') !== proof
  let count = 0
  while (count < 10_000) {
    const some = Array.from({ length: 50 }, mutated).filter(isOther)
    count += some.length
    for (const { status } of await Promise.all(some.map((text) => browser.refreshWith(text))))
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
  }
  t.strictSame([...statuses.keys()], [403])
  t.equal(await statusOf(browser.refreshWith(proof)), 200, 'the proof itself is accepted')
})

t.test('a page of an unproven request keeps flash messages, and does not extend the session', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  await browser.send('/flash', post)
  const token = browser.jar.get('__Host-session') ?? ''
  server.elapse(15 * MINUTE)
  browser.loseBoundCookie()
  const before = (await loadSession(server.store, token))?.expiration
  t.equal(await textOf(browser.send('/flashes')), 'Hi')
  t.equal(await textOf(browser.send('/flashes')), 'Hi')
  t.strictSame((await loadSession(server.store, token))?.expiration, before)
  await browser.refresh()
  t.equal(await textOf(browser.send('/flashes')), 'Hi')
  t.equal(await textOf(browser.send('/flashes')), '')
})

t.test('whoever signs in without a proof registers a key of his own', async (t) => {
  const server = await served(t, node, { unproven: 'allow' })
  const browser = await boundBrowser(t, server)
  server.elapse(15 * MINUTE)
  const other = browser.thief()
  t.equal(await textOf(other.send('/add', post)), 'unproven 2')
  t.equal(await statusOf(other.send('/sure', post)), 403)
  const offer = await other.send('/in', post)
  t.equal(await offer.text(), 'unbound 2')
  t.equal((await other.register(offer))?.status, 200)
  t.equal(await textOf(other.send('/')), 'proven 2')
})

t.test('a new session after a sign-in with `keep` or after a sign-out is not bound', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  const offer = await browser.send('/keep', post)
  t.equal(await textOf(browser.send('/')), 'unbound 1')
  t.equal(await statusOf(browser.refresh()), 404, 'the old binding ends')
  t.equal((await browser.register(offer))?.status, 200)
  t.equal(await textOf(browser.send('/')), 'proven 1')
  t.equal(await textOf(browser.send('/steal', post)), 'unbound 1', 'the key stays in its session')
  t.equal(await statusOf(browser.send('/leave', post)), 200)
  t.notOk(browser.jar.has('__Host-session-bound'))
  t.equal(await textOf(browser.send('/')), 'unbound 0')
})

t.test('right after a registration no cookie is needed, since requests may be under way', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  browser.loseBoundCookie()
  server.elapse(20_000)
  t.equal(await textOf(browser.send('/add', post)), 'proven 2')
  server.elapse(20_000)
  t.equal(await statusOf(browser.send('/add', post)), 403)
})

const tokenOf = ({ jar }: BoundBrowser): string => jar.get('__Host-session') ?? ''

t.test(
  'a cross-site cookie brings neither a key into a bound session, nor a bound session into another',
  async (t) => {
    const policies = ['read', 'refuse', 'anonymous'] as const
    for (const [unproven, isBound] of policies.flatMap((policy) => [
      [policy, true] as const,
      [policy, false] as const,
    ])) {
      const server = await served(t, node, { unproven })
      const owner = await boundBrowser(t, server)
      const thief = server.browser()
      await thief.send('/in?user=eve', post)
      if (isBound) t.equal((await thief.register(await thief.send('/rotate', post)))?.status, 200)
      await thief.send('/add', post)
      server.elapse(12 * MINUTE)
      if (isBound) await thief.refresh()
      const own = new Map(thief.jar)
      // The session of the owner, with the session of the thief to merge.
      thief.jar.set('__Host-session-cross-site', tokenOf(thief))
      thief.jar.set('__Host-session', tokenOf(owner))
      for (const path of ['/session-binding/refresh', '/session-binding/register', '/', '/add'])
        for (const method of ['GET', 'POST']) await thief.send(path, { method })
      // The session of the thief, with the session of the owner to merge.
      for (const [name, value] of own) thief.jar.set(name, value)
      thief.jar.set('__Host-session-cross-site', tokenOf(owner))
      for (const path of ['/', '/add'])
        t.match(await textOf(thief.send(path, post)), isBound ? /^proven/ : /^unbound/)
      owner.loseBoundCookie()
      t.equal(await statusOf(owner.refresh()), 200, 'the owner has the key, and the session is alive')
      t.equal(await textOf(owner.send('/')), 'proven 1', 'and nothing has changed')
    }
  },
)

t.test('the key of a session is not copied with its other values', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  const bound = (await loadSession(server.store, tokenOf(browser))) as Session
  t.ok(bound.store.has('keyrow:bound'))
  const copy = withEntries(bound.store)(buildSession(server.store))
  t.strictSame([copy.store.has('keyrow:bound'), copy.store.get('cart')], [false, 1])
})

t.test('neither a queue nor a second adapter changes a session without a proof', async (t) => {
  let now = Date.now()
  const store = memoryStore({ clock: () => now })
  const other = sessionListener({ store: memoryStore(), cookieName: 'other' })
  const queue: (() => Promise<unknown>)[] = []
  const results: unknown[] = []
  const listener = sessionListener({ store, bound: {}, trustProxy: true })(async (req, res) => {
    if (req.url === '/in') await signIn('ada')
    if (req.url !== '/try') return res.end()
    const session = await currentSession()
    const edited = sessionSet('x', 1)(session)
    const acts = [
      () => saveSession(edited),
      () => rotateSession(session),
      () => destroySession(session),
      () => callWithSession(edited, (same) => [1, same]),
    ]
    queue.push(...acts)
    const all = [...acts, () => destroySessionsOf(store, 'ada'), () => refreshSession(session)]
    return new Promise<void>((resolve) => {
      const inner = other(async (_req, response) => {
        const tagOf = (error: { readonly _tag: string }) => error._tag
        for (const act of all) results.push(await act().then(() => 'done', tagOf))
        response.end()
        resolve()
      })
      inner(req, res)
    })
  })
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  const browser = new BoundBrowser(url)
  await browser.register(await browser.send('/in', post))
  now += 15 * MINUTE
  const before = (await loadSession(store, tokenOf(browser)))?.snapshot
  await browser.thief().send('/try')
  t.strictSame(results, [...Array.from({ length: 5 }, () => 'ProofRequired'), 'done'])
  for (const act of queue) await t.rejects(act(), { name: 'ProofRequired' })
  t.strictSame((await loadSession(store, tokenOf(browser)))?.snapshot, before, 'not even its expiration')
})

t.test('a forged token keeps no session alive', async (t) => {
  const server = await served(t, node)
  const owner = server.browser()
  await owner.send('/in', post)
  const [id = ''] = tokenOf(owner).split('.')
  const thief = server.browser()
  await thief.send('/add', post)
  server.elapse(15 * MINUTE)
  const before = (await loadSession(server.store, tokenOf(owner)))?.expiration
  thief.jar.set('__Host-session-cross-site', tokenOf(thief))
  thief.jar.set('__Host-session', `${id}.${'A'.repeat(43)}`)
  await thief.send('/')
  t.strictSame((await loadSession(server.store, tokenOf(owner)))?.expiration, before)
})

t.test('an adapter without the option proves nothing', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  quiet(t)
  const { url, close } = await node.serve(program, { store: server.store, trustProxy: true })
  t.teardown(close)
  const other = new BoundBrowser(url)
  for (const [name, value] of browser.jar) other.jar.set(name, value)
  t.equal(await textOf(other.send('/')), 'unproven 1')
  t.equal(await statusOf(other.send('/sure')), 403)
})

t.test('an unproven request keeps no session alive', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  server.elapse(15 * MINUTE)
  const before = (await loadSession(server.store, tokenOf(browser)))?.expiration
  for (const path of ['/', '/more', '/fresh']) t.match(await textOf(browser.send(path)), 'unproven')
  await browser.refreshWith(undefined)
  await browser.send('/session-binding/register', post)
  t.strictSame((await loadSession(server.store, tokenOf(browser)))?.expiration, before)
})

t.test('a challenge is of no use later, whoever has made it', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  const { id } = (await loadSession(server.store, tokenOf(browser))) as Session
  const expires = (Date.now() + 100 * MINUTE).toString(36)
  const mac = server.store.ids?.authenticate?.(`bound refresh ${id} ${expires}`).toString('base64url')
  t.equal(await statusOf(browser.refreshWith(proofOf(browser.keys, `${expires}.${String(mac)}`))), 403)
})

t.test('an ordinary session cannot be bound long after its sign-in', async (t) => {
  const server = await served(t, node)
  const owner = server.browser()
  const offer = await owner.send('/in', post)
  server.elapse(20 * MINUTE)
  const thief = owner.thief()
  t.equal((await thief.register(offer))?.status, 403)
  t.notOk((await thief.send('/')).headers.has('secure-session-registration'), 'no other challenge is given')
  t.equal(await textOf(owner.send('/add', post)), 'unbound 1')
})

t.test('a browser whose registration was not answered can repeat it', async (t) => {
  const server = await served(t, node)
  const browser = server.browser()
  const offer = await browser.send('/in', post)
  t.equal((await browser.register(offer))?.status, 200)
  browser.loseBoundCookie()
  t.equal((await browser.register(offer))?.status, 200)
  t.equal(await textOf(browser.send('/')), 'proven 0')
})

t.test('a cookie is valid for a minute after its end, because a request may be under way', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  server.elapse(10.5 * MINUTE)
  t.equal(await textOf(browser.send('/add', post)), 'proven 2')
  server.elapse(MINUTE)
  t.equal(await statusOf(browser.send('/add', post)), 403)
})

t.test('right after a registration an old cookie does no harm', async (t) => {
  const server = await served(t, node)
  const browser = await boundBrowser(t, server)
  const old = browser.jar.get('__Host-session-bound') ?? ''
  const offer = await browser.send('/keep', post)
  browser.jar.set('__Host-session-bound', old)
  t.equal((await browser.register(offer))?.status, 200)
  browser.jar.set('__Host-session-bound', old)
  t.equal(await textOf(browser.send('/add', post)), 'proven 2')
})

t.test(
  'a sign-in by a form of another site is offered a registration when its session becomes the regular one',
  async (t) => {
    const server = await served(t, node)
    const browser = server.browser()
    const headers = {
      'sec-fetch-site': 'cross-site',
      'sec-fetch-mode': 'navigate',
      'sec-fetch-dest': 'document',
    }
    const form = await browser.send('/in', { ...post, headers })
    t.notOk(form.headers.has('secure-session-registration'))
    const page = await browser.send('/')
    t.equal((await browser.register(page))?.status, 200)
    t.equal(await textOf(browser.send('/')), 'proven 0')
  },
)

t.test('a flow of a bound session takes no answer without a proof', async (t) => {
  let now = Date.now()
  const store = memoryStore({ clock: () => now })
  const word = io.strict({ word: io.string })
  let effects = 0
  const asking = flow({ name: 'asking', input: io.strict({}) }, function* () {
    yield* suspend('first', word, ({ url }) => url)
    yield* suspend('second', word, ({ url }) => url)
    yield* effect('count', io.number, () => {
      effects += 1
      return Promise.resolve(effects)
    })
  })
  const handler = flowHandler(asking, { at: '/ask', start: () => ({}), done: () => '/done' })
  const listener = sessionListener({ store, bound: {}, trustProxy: true })(async (req, res) => {
    const { pathname, searchParams } = new URL(req.url ?? '', 'http://localhost')
    if (pathname === '/in') await signIn('ada')
    if (pathname === '/drop') await dropFlow(searchParams.get('k') ?? '')
    if (pathname !== '/ask') return res.end()
    // This program lets a link send a form.
    const isForm = searchParams.has('post')
    const reply = await right(
      handler({
        method: isForm ? 'POST' : 'GET',
        url: req.url ?? '',
        headers: { ...req.headers, 'sec-fetch-site': 'same-origin' },
        body: isForm ? { word: 'x' } : undefined,
      }),
    )
    return res.writeHead(reply.status, reply.headers).end(reply.body)
  })
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  const browser = new BoundBrowser(url)
  await browser.register(await browser.send('/in', post))
  const { id } = (await loadSession(store, tokenOf(browser))) as Session
  const flows = async (): Promise<string> =>
    JSON.stringify(await right(store.flows?.list(id) ?? TE.right([])))
  const answer = (from: BoundBrowser, page: string) => from.send(`${page}&post=1`)
  const nextOf = async (response: Promise<Response>): Promise<string> =>
    (await response).headers.get('location') ?? ''
  const first = await nextOf(browser.send('/ask'))
  now += 15 * MINUTE
  quiet(t)
  t.equal(await statusOf(answer(browser.thief(), first)), 403)
  t.equal(await flows(), '[]')
  browser.loseBoundCookie()
  await browser.refresh()
  const second = await nextOf(answer(browser, first))
  const stored = await flows()
  t.not(stored, '[]')
  now += 12 * MINUTE
  t.equal(await statusOf(answer(browser.thief(), second)), 403)
  t.equal(await statusOf(browser.thief().send(`/drop${new URL(second, url).search}`)), 403)
  t.strictSame([await flows(), effects], [stored, 0])
  browser.loseBoundCookie()
  await browser.refresh()
  t.equal(await nextOf(answer(browser, second)), '/done')
  t.equal(effects, 1)
})

t.test('invalid options are refused when the adapter is made', async (t) => {
  const store = memoryStore()
  const make = (options: object) => () => sessionListener({ store, bound: {}, ...options })
  t.throws(make({ domain: 'shop.example' }), { name: 'TypeError', message: /^bound needs/ })
  t.throws(make({ path: '/app' }), { name: 'TypeError', message: /^bound needs/ })
  t.throws(make({ sameSite: 'none', partitioned: true }), { name: 'TypeError', message: /^bound needs/ })
  t.throws(make({ bound: { path: 'binding' } }), { name: 'TypeError', message: /^bound\.path/ })
  t.throws(make({ bound: { path: '/a"b' } }), { name: 'TypeError', message: /^bound\.path/ })
  t.throws(make({ bound: { maxAgeMs: 60_000 } }), { name: 'RangeError', message: /^bound\.maxAgeMs/ })
  t.doesNotThrow(make({ bound: { path: '/a/b-c', maxAgeMs: 300_000 } }))
})

t.test('in PostgreSQL, a refresh is one load, and writes nothing', async (t) => {
  const server = await startPostgres()
  t.teardown(() => server.stop())
  const statements: string[] = []
  const database = observedDatabase(
    postgresDatabase(() => quietPool(server.url)),
    ({ query: { name } }) => void statements.push(name),
  )
  t.teardown(() => right(database.close))
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  t.equal(E.isRight(await store.prepare()), true)
  t.ok(Math.abs((store.clock?.() ?? 0) - Date.now()) < 5_000, 'the clock of the database')
  const { url, close } = await node.serve(program, { store, bound: {}, trustProxy: true })
  t.teardown(close)
  const browser = await boundBrowser(t, { browser: () => new BoundBrowser(url) })
  await browser.refreshWith(undefined)
  statements.splice(0)
  t.equal(await statusOf(browser.refresh()), 200)
  t.strictSame(statements, ['session.load'])
  t.equal(await textOf(browser.send('/add', post)), 'proven 2')
  await age(database, schema, 15 * MINUTE)
  browser.loseBoundCookie()
  const expiration = async () => (await loadSession(store, tokenOf(browser)))?.expiration
  const before = await expiration()
  // The clock of the database goes on, so the registration is made older, too.
  await right(
    database.query(
      {
        name: 'older',
        text: `update ${schema}.entry set value = jsonb_set(value, '{at}', '0') where key = 'keyrow:bound'`,
      },
      [],
    ),
  )
  t.equal(await textOf(browser.send('/fresh')), 'unproven 2')
  t.strictSame(await expiration(), before, 'an unproven request extends nothing')
})
