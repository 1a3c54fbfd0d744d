// Builds and starts the example for Next.js, and uses it as a browser does: by form posts, and by the requests with which
// the scripts of Next.js call a server action.

import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { quietPool, rowsOf } from '../support/databases.js'
import { buildExample } from '../support/example-project.js'
import { newDatabase } from '../support/postgres-server.js'
import { right } from '../support/stores.js'

const route = (body: string, imports = ''): string => `
import { buildSession, currentSession, saveSession, sessionRef, sessionSet, sessionUpdate, updateCurrentSession, destroySession, rotateSession } from 'keyrow/promise'
import { forbidden, notFound, redirect } from 'next/navigation'
import { cartOf, sessions } from '${'../'.repeat(2)}sessions'
${imports}
${body}
`

const set = `await updateCurrentSession(sessionSet('cart', ['set']))`

/** Files that only the spec needs. */
const files = {
  'instrumentation.ts': `
import { onSessionEvent } from 'keyrow/promise'
import { sessions } from './app/sessions'
export const register = () => {
  if (process.env.NEXT_RUNTIME !== 'nodejs') return
  for (const event of ['created', 'loaded', 'saved', 'rotated', 'destroyed'] as const)
    onSessionEvent(event, ({ id }) => console.log('event', event, id))
}
export const store = () => sessions.store()
`,
  'app/api/redirect/route.ts': route(
    `export const GET = sessions.route(async () => { ${set}; redirect('/order') })`,
  ),
  'app/api/missing/route.ts': route(`export const GET = sessions.route(async () => { ${set}; notFound() })`),
  'app/api/fail/route.ts': route(
    `export const GET = sessions.route(async () => { ${set}; throw new Error('failed') })`,
  ),
  'app/api/gone/route.ts': route(
    `export const GET = sessions.route(async () => { await destroySession(await currentSession()); ${set}; return new Response('no') })`,
  ),
  'app/api/task/route.ts': route(
    `export const GET = sessions.route((_request: Request, context: { params: Promise<object> }) => pipe(K.updateCurrentSession(K.sessionSet('cart', ['task'])), TE.chainTaskK(() => () => context.params), TE.map((params) => Response.json({ params: String(params) }))))`,
    `import { pipe } from 'fp-ts/lib/function.js'; import * as TE from 'fp-ts/lib/TaskEither.js'; import * as K from 'keyrow'`,
  ),
  // Each copy of a module with a memory store of its own would have other sessions.
  'app/memory.ts': `
import { memoryStore } from 'keyrow/memory'
import { nextSessions } from 'keyrow/next'
export const memory = nextSessions(() => { console.log('a memory store is made'); return memoryStore() }, { name: 'pages', cookieName: 'other' })
`,
  'app/api/memory/route.ts': route(
    `export const GET = memory.route(async () => { ${set}; return new Response('stored') })`,
    `import { memory } from '../../memory'`,
  ),
  'app/memory/page.tsx': `
import { cartOf, sessions } from '../sessions'
import { memory } from '../memory'
export default async function Page() {
  return <p id="memory">{cartOf(await memory.session()).join()} and {cartOf(await sessions.session()).join()}</p>
}
`,
  'app/late/actions.ts': `'use server'
import { notFound } from 'next/navigation'
import { after } from 'next/server'
import { sessionSet, signIn, updateCurrentSession } from 'keyrow/promise'
import { sessions } from '../sessions'
export const late = sessions.action(async () => {
  after(async () => {
    await updateCurrentSession(sessionSet('cart', ['late'])).then(() => console.log('late: stored'), (error) => console.log('late:', error._tag))
  })
})
export const enterAndFail = sessions.action(async () => {
  await signIn('eve')
  throw new Error('failed after the sign-in')
})
const inner = sessions.action(async () => {
  await signIn('bob')
})
export const outer = sessions.action(async () => {
  ${set}
  await inner()
})
export const missing = sessions.action(async () => {
  ${set}
  notFound()
})
`,
  'app/late/page.tsx': `
import { enterAndFail, late, missing, outer } from './actions'
export default function Page() {
  return <main><form action={late}><button id="late">Late</button></form><form action={enterAndFail}><button id="fail">Fail</button></form><form action={outer}><button id="outer">Outer</button></form><form action={missing}><button id="missing">Missing</button></form></main>
}
`,
}

const server = await newDatabase()
const database = postgresDatabase(quietPool(server.url))
t.teardown(async () => {
  await right(database.close)
  await server.stop()
})
const { url, log } = await (await buildExample(t, 'next', server.url, files)).start()
t.teardown(() => {
  if (!t.passing()) t.comment(log.join('\n'))
})

/** A browser with cookies and without scripts. `send` submits the form that has a button with this id. */
const browser = () => {
  const jar = new Map<string, string>()
  const visit = async (path: string, init: RequestInit = {}) => {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const headers = { cookie, origin: url, ...(init.headers as object) }
    const response = await fetch(url + path, { redirect: 'manual', ...init, headers })
    for (const given of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(given) ?? []
      if (/max-age=0|expires=thu, 01 jan 1970/i.test(given)) jar.delete(name)
      else jar.set(name, value)
    }
    return response
  }
  const fields = async (path: string, button: string): Promise<FormData> => {
    const page = await (await visit(path)).text()
    const form =
      page.split('<form').find((part) => part.split('</form>')[0]?.includes(`id="${button}"`)) ?? ''
    const data = new FormData()
    for (const [input] of form.split('</form>')[0]?.matchAll(/<input[^>]*type="hidden"[^>]*>/g) ?? []) {
      const value = /value="([^"]*)"/.exec(input)?.[1] ?? ''
      data.append(/name="([^"]*)"/.exec(input)?.[1] ?? '', value.replaceAll('&quot;', '"'))
    }
    return data
  }
  const send = async (path: string, button: string, own: Readonly<Record<string, string>> = {}) => {
    const body = await fields(path, button)
    for (const [name, value] of Object.entries(own)) body.append(name, value)
    return visit(path, { method: 'POST', body })
  }
  return { jar, visit, send }
}

type Browser = ReturnType<typeof browser>

const cartIn = (page: string): readonly string[] =>
  [...(/<ul id="cart">(.*?)<\/ul>/.exec(page)?.[1] ?? '').matchAll(/<li>(.*?)<\/li>/g)].map(
    ([, sku]) => sku ?? '',
  )

const cart = async ({ visit }: Browser): Promise<readonly string[]> => cartIn(await (await visit('/')).text())

const events = (): readonly string[] => log.flatMap((line) => /^event (\w+)/.exec(line)?.[1] ?? [])

/** Waits for the events that the program has still to write. */
const settled = async (): Promise<readonly string[]> => {
  for (let count = -1; count !== log.length; ) {
    count = log.length
    await pause(100)
  }
  return events()
}

t.test('by form posts: the basket on the screen is the one that was saved', async (t) => {
  const visitor = browser()
  t.strictSame(await cart(visitor), [])
  t.equal(visitor.jar.size, 0, 'a visitor who only looks gets no cookie')
  const added = await visitor.send('/', 'add', { sku: 'tea' })
  t.equal(added.status, 200)
  t.strictSame(cartIn(await added.text()), ['tea'], 'the answer to the first post')
  t.match(added.headers.get('cache-control'), /no-store/)
  t.match(added.headers.getSetCookie()[0], /^session=[^;]+; Path=\/; HttpOnly; SameSite=lax$/i)
  t.strictSame(cartIn(await (await visitor.send('/', 'add', { sku: 'milk' })).text()), ['tea', 'milk'])
  t.strictSame(await cart(visitor), ['tea', 'milk'])
})

t.test('three actions at once: all changes are kept', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  await Promise.all(['a', 'b', 'c'].map((sku) => visitor.send('/', 'add', { sku })))
  t.strictSame([...(await cart(visitor))].sort(), ['a', 'b', 'c', 'tea'])
})

t.test('a failed action saves nothing and sets no cookie', async (t) => {
  const visitor = browser()
  const failed = await visitor.send('/', 'add', { sku: 'sold out' })
  t.equal(failed.status, 500)
  t.equal(visitor.jar.size, 0)
  await visitor.send('/', 'add', { sku: 'tea' })
  await visitor.send('/', 'add', { sku: 'sold out' })
  t.strictSame(await cart(visitor), ['tea'])
})

t.test('an action that redirects saves', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  const bought = await visitor.send('/', 'buy')
  t.equal(bought.status, 303)
  t.match(await (await visitor.visit('/order')).text(), '<p id="order">tea</p>')
  t.strictSame(await cart(visitor), [])
})

t.test('an action that finds nothing saves', async (t) => {
  for (const visitor of [browser(), browser()]) {
    t.equal((await visitor.send('/late', 'missing')).status, 404)
    t.strictSame(await cart(visitor), ['set'])
  }
})

t.test('an action inside an action takes part in its session', async (t) => {
  const visitor = browser()
  t.equal((await visitor.send('/late', 'outer')).status, 200)
  t.match(await (await visitor.visit('/')).text(), /bob<!-- --> is here/)
  t.strictSame(await cart(visitor), ['set'])
})

t.test('the value of a cookie is never read as another cookie, and never breaks a page', async (t) => {
  const owner = browser()
  await owner.send('/', 'add', { sku: 'tea' })
  const foreign = owner.jar.get('session') ?? ''
  for (const [name, value] of [
    ['a', `1%3B%20session=${foreign}`],
    ['city', '%E2%82%AC'],
    ['line', 'a%0Ab'],
  ] as const) {
    const visitor = browser()
    visitor.jar.set(name, value)
    const page = await visitor.visit('/')
    t.equal(page.status, 200)
    t.strictSame(cartIn(await page.text()), [])
    t.strictSame(await (await visitor.visit('/api/cart')).json(), [])
    await visitor.send('/', 'add', { sku: 'milk' })
    t.strictSame(await cart(visitor), ['milk'])
  }
})

t.test('a sign-in changes the secret, and a sign-out removes the cookie', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  const before = visitor.jar.get('session')
  const entered = await visitor.send('/', 'in', { user: 'Ada' })
  t.match(await entered.text(), /Ada<!-- --> is here/, 'the page of the answer reads the new cookie')
  t.not(visitor.jar.get('session'), before)
  t.match(await (await visitor.visit('/')).text(), /Ada<!-- --> is here/)
  await visitor.send('/', 'out')
  t.equal(visitor.jar.size, 0)
  t.match(await (await visitor.visit('/')).text(), /Nobody<!-- --> is here/)
})

t.test('an action that fails after a sign-in has signed nobody in, and loses no session', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  t.equal((await visitor.send('/late', 'fail')).status, 500)
  const page = await (await visitor.visit('/')).text()
  t.match(page, /Nobody<!-- --> is here/)
  t.strictSame(cartIn(page), ['tea'])
})

const expectCart = async (t: Test, path: string, status: number, expected: readonly string[]) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  const response = await visitor.visit(path)
  t.equal(response.status, status)
  t.strictSame(await cart(visitor), expected)
  const stranger = browser()
  t.equal((await stranger.visit(path)).status, status)
  t.strictSame(await cart(stranger), expected[0] === 'tea' ? [] : expected)
  return response
}

t.test('route handlers: redirect and notFound save, a failure saves nothing', async (t) => {
  await expectCart(t, '/api/redirect', 307, ['set'])
  await expectCart(t, '/api/missing', 404, ['set'])
  await expectCart(t, '/api/task', 200, ['task'])
  const failed = await expectCart(t, '/api/fail', 500, ['tea'])
  t.equal(await failed.text(), 'Something went wrong.\n')
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  t.equal((await visitor.visit('/api/gone')).status, 409, 'an error of keyrow has its status')
})

t.test('a route handler for programs', async (t) => {
  const visitor = browser()
  const post = (sku: string) =>
    visitor.visit('/api/cart', {
      method: 'POST',
      body: JSON.stringify({ sku }),
      headers: { 'content-type': 'application/json' },
    })
  t.strictSame(await (await post('tea')).json(), ['tea'])
  const answers = await Promise.all(['a', 'b', 'c', 'd'].map(post))
  for (const answer of answers) t.equal(answer.status, 200)
  const found = await visitor.visit('/api/cart')
  t.strictSame(((await found.json()) as string[]).toSorted(), ['a', 'b', 'c', 'd', 'tea'], 'law 5')
  t.match(found.headers.get('cache-control'), 'no-store')
  t.match(found.headers.get('vary'), /cookie/i)
})

t.test('layout and page share one load, and neither writes', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  const before = await settled()
  await visitor.visit('/')
  t.strictSame((await settled()).slice(before.length), ['loaded'])
  await visitor.send('/', 'add', { sku: 'milk' })
  t.strictSame(
    (await settled()).slice(before.length + 1),
    ['loaded', 'loaded', 'saved', 'loaded'],
    'the page with the form, the action, and the page after it',
  )
})

t.test('a visitor who only reads pages keeps the session', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  const id = visitor.jar.get('session')?.slice(0, 36) ?? ''
  const minutes = async () => {
    const [row] = await rowsOf(
      database,
      `select (extract(epoch from expires_at - now()) / 60)::float8 as minutes from keyrow.session where id = '${id}'`,
    )
    return Number(row?.['minutes'])
  }
  await rowsOf(
    database,
    `update keyrow.session set expires_at = now() + interval '10 minutes' where id = '${id}'`,
  )
  t.ok((await minutes()) < 11)
  await visitor.visit('/order')
  await settled()
  t.ok((await minutes()) > 29)
})

t.test('code that outlives its action cannot change the session', async (t) => {
  const visitor = browser()
  await visitor.send('/', 'add', { sku: 'tea' })
  await visitor.send('/late', 'late')
  await settled()
  t.ok(log.includes('late: SessionClosed'))
  t.strictSame(await cart(visitor), ['tea'])
})

t.test('all copies of a module share one store', async (t) => {
  const visitor = browser()
  t.match(await (await visitor.visit('/memory')).text(), '<p id="memory"> and </p>')
  await visitor.visit('/api/memory')
  await visitor.send('/', 'add', { sku: 'tea' })
  t.match(await (await visitor.visit('/memory')).text(), 'set<!-- --> and <!-- -->tea')
  t.equal(log.filter((line) => line === 'a memory store is made').length, 1)
})
