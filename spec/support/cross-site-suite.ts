// Tests requests from other sites, without the session's cookie. The visitor's session is not replaced, the handler's
// values are not lost, and in the end one session remains.

import type { Test } from 'tap'
import { DriverError } from '../../lib/core/errors.js'
import type { Database } from '../../lib/db/database.js'
import {
  currentSession,
  sessionFlash,
  sessionPrincipal,
  sessionRef,
  signIn,
  signOut,
  takeFlashes,
  updateCurrentSession,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import type { SessionStore } from '../../lib/store/contract.js'
import { ask, post, set } from './adapter-suite.js'
import type { Call, Reply, Serving, SpecDoor } from './adapters.js'
import { rowsOf } from './databases.js'
import { age, freshSchema } from './stores.js'

type From = 'own' | 'other'

interface Cookie {
  readonly value: string
  readonly sameSite: string
}

/** Makes a browser that sends the cookies that `SameSite` allows. If `says` is true, it also sends `Sec-Fetch-Site`. */
const browserOf = (url: string, says: boolean) => {
  const jar = new Map<string, Cookie>()
  const keep = (line: string): void => {
    const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
    if (/Max-Age=0/.test(line)) jar.delete(name)
    else jar.set(name, { value, sameSite: /SameSite=(\w+)/.exec(line)?.[1] ?? 'none' })
  }
  const shown = (from: From, method: string): string =>
    [...jar]
      .filter(([, { sameSite }]) => from === 'own' || (sameSite === 'Lax' && method === 'GET'))
      .map(([name, { value }]) => `${name}=${value}`)
      .join('; ')
  const headersOf = (from: From, method: string): Record<string, string> => ({
    ...(method === 'POST' ? { origin: from === 'own' ? new URL(url).origin : 'https://bank.example' } : {}),
    ...(says
      ? {
          'sec-fetch-site': from === 'own' ? 'same-origin' : 'cross-site',
          'sec-fetch-mode': 'navigate',
          'sec-fetch-dest': 'document',
        }
      : {}),
  })
  const send = async (
    path: string,
    from: From,
    method: 'GET' | 'POST',
    more: Record<string, string> = {},
  ) => {
    const headers = { ...headersOf(from, method), ...more }
    const init = method === 'POST' ? post({ field: 'x' }, headers) : { headers }
    const answer = await ask(url + path, shown(from, method), init)
    return { ...answer, keep: () => answer.setCookie.forEach(keep) }
  }
  const go = async (
    path: string,
    from: From = 'own',
    method: 'GET' | 'POST' = 'GET',
    more = {},
  ): Promise<Awaited<ReturnType<typeof send>>> => {
    const answer = await send(path, from, method, more)
    answer.keep()
    const location = answer.headers.get('location')
    // The site that started a chain of redirects counts for the whole chain.
    return answer.status === 303 && location !== null ? go(location, from) : answer
  }
  return { jar, send, go, names: () => [...jar.keys()].sort() }
}

/** The handler of a shop. Other sites send forms to `/acs` and `/pay`. */
const shop = async ({ path, query }: Call): Promise<Reply> => {
  if (path === '/basket') await set('basket', 'tea')
  if (path === '/in') await signIn('ada')
  if (path === '/out') await signOut()
  if (path === '/acs') await signIn(query.get('user') ?? 'ada')
  if (path === '/pay') {
    await set('paid', true)
    await updateCurrentSession(sessionFlash('info', 'Paid.'))
  }
  if (path === '/messages') return { body: (await takeFlashes()).map(({ text }) => text).join() }
  if (path === '/fail') throw new Error('mine')
  if (query.has('to')) return { status: 303, headers: { Location: query.get('to') ?? '' }, body: 'moved' }
  const session = await currentSession()
  const values = session.store.filterNot((_, key) => key.startsWith('keyrow:')).toJSON()
  return { body: JSON.stringify({ who: sessionRef(sessionPrincipal)(session) ?? null, ...values }) }
}

const ADA = { who: 'ada', basket: 'tea', paid: true }

/** Tests an adapter on this database. */
export const crossSiteSuite = (t: Test, door: SpecDoor, database: Database): void => {
  const open = async (t: Test, options: Partial<Serving> = {}, wrap = (store: SessionStore) => store) => {
    const schema = freshSchema()
    const store = wrap(sessionStore(database, { schema, idleMs: 60_000 }))
    const { url, close } = await door.serve(shop, { store, ...options })
    t.teardown(close)
    const rows = async () =>
      Number((await rowsOf(database, `select count(*) as n from ${schema}.session`))[0]?.['n'])
    return { url, schema, store, rows }
  }
  const said = ({ body }: { readonly body: string }): unknown => JSON.parse(body)

  t.test('a request of another site does not replace a session it cannot show', async (t) => {
    for (const says of [true, false])
      t.test(`Sec-Fetch-Site: ${String(says)}`, async (t) => {
        const { url, rows } = await open(t)
        const { jar, go, names } = browserOf(url, says)
        await go('/basket')
        await go('/in')
        const before = jar.get('session')
        t.strictSame(said(await go('/pay', 'other', 'POST')), { who: null, paid: true }, 'it sees no session')
        t.strictSame([jar.get('session'), names()], [before, ['session', 'session-cross-site']])
        t.strictSame(said(await go('/')), ADA, 'then both are one')
        t.strictSame([jar.get('session'), names()], [before, ['session']], 'with the same secret')
        t.equal(await rows(), 1, 'no row is left over')
        t.equal((await go('/messages')).body, 'Paid.')
        const last = await go('/')
        t.strictSame([said(last), last.setCookie], [ADA, []])
      })
  })

  t.test('a sign-in by a form of another site', async (t) => {
    for (const says of [true, false])
      for (const to of ['', '&to=/'])
        t.test(`Sec-Fetch-Site: ${String(says)}${to}`, async (t) => {
          const { url, rows } = await open(t)
          const ends = async (basket: boolean, sameSite: string) => {
            const { jar, go, names } = browserOf(url, says)
            if (basket) await go('/basket')
            const before = jar.get('session')?.value
            await go(`/acs?user=ada${to}`, 'other', 'POST')
            t.strictSame(said(await go('/')), { who: 'ada', ...(basket ? { basket: 'tea' } : {}) })
            t.strictSame(names(), ['session'])
            t.strictSame(
              [jar.get('session')?.sameSite, jar.get('session')?.value === before],
              [sameSite, false],
            )
            const stranger = before === undefined ? undefined : await ask(`${url}/`, `session=${before}`)
            if (stranger !== undefined) t.strictSame(said(stranger), { who: null }, 'the old secret is dead')
            await go('/pay', 'other', 'POST')
            t.match(said(await go('/')), { who: 'ada', paid: true })
          }
          await ends(true, 'Lax')
          t.equal(await rows(), 1)
          await ends(false, 'Lax')
          t.equal(await rows(), 2, 'one for each visitor')
        })
  })

  t.test('with sameSite strict a link does not replace the session either', async (t) => {
    for (const says of [true, false])
      t.test(`Sec-Fetch-Site: ${String(says)}`, async (t) => {
        const { url, rows } = await open(t, { sameSite: 'strict' })
        const { jar, go, names } = browserOf(url, says)
        await go('/basket')
        await go('/in')
        await go('/')
        const before = jar.get('session')
        t.strictSame([before?.sameSite, names()], ['Strict', ['session']])
        t.strictSame(said(await go('/pay', 'other')), { who: null, paid: true })
        t.strictSame(
          said(await go('/', 'other')),
          { who: null, paid: true },
          'a link that follows sees what arrived',
        )
        t.strictSame(jar.get('session'), before)
        t.strictSame(said(await go('/')), ADA)
        t.strictSame([jar.get('session'), names(), await rows()], [before, ['session'], 1])

        const other = browserOf(url, says)
        t.strictSame(said(await other.go('/acs?user=bob&to=/', 'other', 'POST')), { who: 'bob' })
        t.strictSame(said(await other.go('/')), { who: 'bob' })
        t.strictSame(
          [other.names(), other.jar.get('session')?.sameSite, await rows()],
          [['session'], 'Strict', 2],
        )
      })
  })

  t.test('the cross-site cookie is short-lived, and __Host- where it can be', async (t) => {
    const { url } = await open(t, { trustProxy: true })
    const lines = (await browserOf(url, true).send('/pay', 'other', 'POST', { 'x-forwarded-proto': 'https' }))
      .setCookie
    t.match(lines, [/^__Host-session-cross-site=[^;]+; Max-Age=60; Path=\/; HttpOnly; Secure; SameSite=Lax$/])
    const none = await open(t, { sameSite: 'none' })
    const { setCookie } = await browserOf(none.url, true).send('/pay', 'other', 'POST')
    t.match(setCookie, [/^session=/], 'a cookie that is never kept back needs none')
  })

  /** Sends all requests at once. The browser stores the cookies in the order of the responses. */
  const together = async (
    sent: readonly Promise<{ readonly status: number; readonly keep: () => void }>[],
  ) => {
    const kept = sent.map(async (answering) => {
      const answer = await answering
      answer.keep()
      return answer.status
    })
    return new Set(await Promise.all(kept))
  }

  t.test('requests at once make one session of both, also beside a sign-in', async (t) => {
    const { url, rows } = await open(t)
    for (const [arrives, signsIn] of [
      ['/acs', false],
      ['/pay', true],
    ] as const)
      for (const basket of [true, false]) {
        const { go, send, names } = browserOf(url, true)
        if (basket) await go('/basket')
        await go(arrives, 'other', 'POST')
        const reads = Array.from({ length: 4 }, () => send('/', 'own', 'GET'))
        const statuses = await together(signsIn ? [send('/in', 'own', 'POST'), ...reads] : reads)
        t.strictSame([statuses, names()], [new Set([200]), ['session']])
        const expected = {
          who: 'ada',
          ...(signsIn ? { paid: true } : {}),
          ...(basket ? { basket: 'tea' } : {}),
        }
        t.strictSame(said(await go('/')), expected)
      }
    t.equal(await rows(), 4)
  })

  t.test('one of both is gone or expired: the other goes on', async (t) => {
    const { url, schema, rows } = await open(t)
    const { jar, go, names } = browserOf(url, true)
    await go('/basket')
    await age(database, schema, 61_000)
    await go('/acs', 'other', 'POST')
    t.strictSame(said(await go('/')), { who: 'ada' }, 'the session had expired')
    t.strictSame(names(), ['session'])

    await go('/basket')
    await go('/pay', 'other', 'POST')
    const crossSite = jar.get('session-cross-site')
    await age(database, schema, 50_000)
    await go('/', 'own', 'GET', { 'sec-purpose': 'prefetch' })
    t.strictSame(
      jar.get('session-cross-site'),
      crossSite,
      'a page that is fetched ahead leaves it to the visit',
    )
    await rowsOf(database, `delete from ${schema}.entry where key = 'paid'`)
    await rowsOf(
      database,
      `delete from ${schema}.session where id = '${crossSite?.value.split('.')[0] ?? ''}'`,
    )
    t.strictSame(said(await go('/')), { who: 'ada', basket: 'tea' }, 'what arrived is gone')
    t.equal(await rows(), 2)
  })

  t.test(
    'a process that dies before the cross-site session is destroyed loses nothing; a failed request neither',
    async (t) => {
      let dies = true
      const { url, rows } = await open(t, {}, (store) => ({
        ...store,
        destroy: (id) =>
          dies
            ? async () =>
                Promise.resolve({ _tag: 'Left', left: new DriverError('gone', { retryable: true }) })
            : store.destroy(id),
      }))
      const { go, names } = browserOf(url, true)
      await go('/basket')
      await go('/acs', 'other', 'POST')
      await go('/pay', 'other', 'GET')
      const both = { who: 'ada', basket: 'tea', paid: true }
      t.strictSame(said(await go('/')), both)
      t.strictSame([names(), await rows()], [['session', 'session-cross-site'], 2])
      dies = false
      t.equal((await go('/fail')).status, 500)
      t.strictSame([names(), await rows()], [['session', 'session-cross-site'], 2])
      t.strictSame(said(await go('/')), both)
      t.strictSame([names(), await rows()], [['session'], 1])
    },
  )

  t.test('a sign-out ends what arrived, too', async (t) => {
    const { url, rows } = await open(t)
    const { go, names } = browserOf(url, true)
    await go('/basket')
    await go('/acs', 'other', 'POST')
    await go('/out')
    t.strictSame([names(), await rows()], [[], 0])
    await go('/acs', 'other', 'POST')
    await go('/out')
    t.strictSame([names(), await rows()], [[], 0], 'also of a visitor who had nothing else')
    t.strictSame(said(await go('/')), { who: null })
  })

  t.test('a token in both cookies is one session, and is not destroyed', async (t) => {
    const { url, rows } = await open(t)
    const { jar, go } = browserOf(url, true)
    await go('/basket')
    const token = jar.get('session')?.value ?? ''
    const both = await ask(`${url}/`, `session=${token}; session-cross-site=${token}`)
    t.strictSame([said(both), await rows()], [{ who: null, basket: 'tea' }, 1])
  })
}
