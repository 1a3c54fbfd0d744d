// An example in a real browser: `npm run spec:browser`. It needs Chromium, which is no npm package.

import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { generate } from 'selfsigned'
import t, { type Test } from 'tap'
import type { CookieOptions } from '../../lib/http/cookie.js'
import { type SessionHandler, sessionListener } from '../../lib/http/node.js'
import {
  currentSession,
  sessionFlash,
  sessionPrincipal,
  sessionRef,
  sessionSet,
  sessionUpdate,
  signIn as signInAs,
  signOut,
  takeFlashes,
  updateCurrentSession,
} from '../../lib/promise/index.js'
import { memoryStore } from '../../lib/store/memory.js'
import { listening } from '../support/adapters.js'
import { chromiumPath } from '../support/chromium.js'
import { codeBlocks } from '../support/code-blocks.js'
import { startExample, startProgram } from '../support/example.js'
import { startPostgres } from '../support/postgres-server.js'
import { serveWizard } from '../support/wizard.js'

const server = await startPostgres()
t.teardown(() => server.stop())
const browser = await chromium.launch({
  executablePath: chromiumPath(),
  args: ['--no-sandbox'],
  // As in the hands of a person: a page that was left is kept for Back.
  ignoreDefaultArgs: ['--disable-back-forward-cache'],
})
t.teardown(() => browser.close())

const cart = (page: Page) => page.locator('#cart li').allTextContents()

/** Sends a form, and waits for the page that its answer leads to: a click alone does not. */
const submit = async (page: Page, button: string): Promise<void> => {
  await Promise.all([page.waitForEvent('load'), page.click(button)])
}

const add = async (page: Page, item: string): Promise<void> => {
  await page.fill('input[name=item]', item)
  await submit(page, '#add')
}

const signIn = async (page: Page, user: string): Promise<void> => {
  await page.fill('input[name=user]', user)
  await submit(page, '#in')
}

const sessionCookie = async (context: BrowserContext) =>
  (await context.cookies()).find(({ name }) => name === 'session')

t.test('sign in, a cart in two tabs, sign out', async (t) => {
  const url = await startExample(t, 'express', server.url)
  const context = await browser.newContext()
  const [one, two] = [await context.newPage(), await context.newPage()]
  await one.goto(url)
  t.equal(await sessionCookie(context), undefined, 'a form by itself makes no session')
  await two.goto(url)
  await add(one, 'cocoa')
  const visitor = await sessionCookie(context)
  await add(two, 'juice')
  t.strictSame(new Set(await cart(two)), new Set(['cocoa', 'juice']), 'the first forms of both tabs work')
  t.match(visitor, { httpOnly: true, sameSite: 'Lax', secure: false, expires: -1 })
  t.equal(await one.evaluate('document.cookie'), '', 'no script can read it')
  await signIn(one, 'ada')
  t.equal(await one.textContent('#user'), 'Hello ada.')
  t.not((await sessionCookie(context))?.value, visitor?.value, 'it was rotated')
  await two.goto(url)
  t.equal(await two.textContent('#user'), 'Hello ada.')

  await Promise.all([add(one, 'tea'), add(two, 'milk')])
  await one.reload()
  await two.reload()
  t.strictSame(
    new Set(await cart(one)),
    new Set(['cocoa', 'juice', 'tea', 'milk']),
    'neither tab lost what the other did',
  )
  t.strictSame(await cart(one), await cart(two))

  await submit(one, '#out')
  t.equal(await one.textContent('#user'), 'Nobody is signed in.')
  await two.reload()
  t.equal(await two.textContent('#user'), 'Nobody is signed in.')
  t.strictSame(await cart(two), [])
})

t.test('a page of another site cannot use the session', async (t) => {
  const url = await startExample(t, 'express', server.url)
  const page = await (await browser.newContext()).newPage()
  await page.goto(url)
  await signIn(page, 'ada')
  // The same machine by another name is another site.
  const foreign = url.replace('127.0.0.1', 'localhost')
  const evil = `<form method="post" action="${url}/out"><button id="go">Win</button></form>`
  await page.route(`${foreign}/evil`, (route) => route.fulfill({ contentType: 'text/html', body: evil }))
  await page.goto(`${foreign}/evil`)
  const [answer] = await Promise.all([page.waitForResponse(`${url}/out`), page.click('#go')])
  t.equal(answer.status(), 403)
  await page.goto(url)
  t.equal(await page.textContent('#user'), 'Hello ada.')
})

/** Two sites over TLS: `top.example` shows the other one, which counts visits, in a frame. */
const framed = async (t: Test, options: CookieOptions) => {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'frame.example' }])
  const listener = sessionListener({ store: memoryStore(), ...options })(async (req, res) => {
    res.setHeader('Content-Type', 'text/html')
    const { port } = req.socket.address() as AddressInfo
    if (req.headers.host?.startsWith('top.example'))
      res.end(`<iframe src="https://frame.example:${String(port)}/"></iframe>`)
    else {
      const session = await updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))
      res.end(`<p>${JSON.stringify(sessionRef('n')(session))}</p>`)
    }
  })
  const tls = createTlsServer({ key, cert }, listener)
  tls.listen(0, '127.0.0.1')
  await once(tls, 'listening')
  t.teardown(() => tls.close())
  const { port } = tls.address() as AddressInfo
  const own = await chromium.launch({
    executablePath: chromiumPath(),
    args: ['--no-sandbox', '--host-resolver-rules=MAP *.example 127.0.0.1'],
  })
  t.teardown(() => own.close())
  const page = await (await own.newContext({ ignoreHTTPSErrors: true })).newPage()
  const visits: string[] = []
  for (let visit = 0; visit < 3; visit += 1) {
    await page.goto(`https://top.example:${String(port)}/`)
    visits.push((await page.frameLocator('iframe').locator('p').textContent()) ?? '')
  }
  await page.goto(`https://frame.example:${String(port)}/`)
  return [...visits, await page.textContent('p')]
}

t.test('in a frame of another site a partitioned cookie is kept, for that site alone', async (t) => {
  t.strictSame(await framed(t, { sameSite: 'none', partitioned: true }), ['1', '2', '3', '1'])
  const plain = await framed(t, { sameSite: 'none' })
  t.not(plain.join(), '1,2,3,1', 'one that is not is blocked there, or shared with our own pages')
})

/** A small site whose handler is the test's; its requests, as the browser sent them. */
const startSite = async (t: Test, handler: SessionHandler) => {
  const requests: IncomingMessage[] = []
  const listener = sessionListener({ store: memoryStore() })(async (req, res) => {
    requests.push(req)
    res.setHeader('Content-Type', 'text/html')
    return handler(req, res)
  })
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  return { url, requests }
}

const user = async () => sessionRef(sessionPrincipal, 'nobody')(await currentSession())

t.test('after a sign-out Back does not show the signed-in page', async (t) => {
  const { url } = await startSite(t, async (req, res) => {
    if (req.url === '/in') await signInAs('ada')
    if (req.url === '/out') {
      await signOut()
      return res.writeHead(303, { Location: '/bye' }).end()
    }
    const page = `<p id="user">${await user()}</p><form method="post" action="/out"><button id="out">Out</button></form>`
    return res.end(page)
  })
  const page = await (await browser.newContext()).newPage()
  await page.goto(`${url}/in`)
  await page.goto(`${url}/account`)
  t.equal(await page.textContent('#user'), 'ada')
  await page.click('#out')
  t.equal(await page.textContent('#user'), 'nobody')
  await page.goBack({ waitUntil: 'commit' })
  t.equal(new URL(page.url()).pathname, '/account')
  t.equal(await page.textContent('#user'), 'nobody')
})

t.test('a form of another site signs in, and the visitor keeps the basket', async (t) => {
  const { url, requests } = await startSite(t, async (req, res) => {
    const { pathname } = new URL(req.url ?? '/', 'http://x')
    // The same machine by another name is another site.
    if (pathname === '/bank')
      return res.end(
        `<form method="post" action="${url}/acs"><button id="go">Back to the shop</button></form>`,
      )
    if (pathname === '/basket') await updateCurrentSession(sessionSet('basket', 'tea'))
    if (pathname === '/acs') {
      await signInAs('ada')
      return res.writeHead(303, { Location: '/done' }).end()
    }
    const basket = JSON.stringify(sessionRef('basket')(await currentSession()) ?? null)
    return res.end(`<p id="user">${await user()} ${basket}</p>`)
  })
  const context = await browser.newContext()
  const page = await context.newPage()
  const comeBack = async () => {
    await page.goto(`${url.replace('127.0.0.1', 'localhost')}/bank`)
    await page.click('#go')
    return page.textContent('#user')
  }
  const names = async () => (await context.cookies(url)).map(({ name }) => name)
  t.equal(await comeBack(), 'ada null', 'a visitor without a session')
  t.strictSame(await names(), ['session'])
  await context.clearCookies()
  await page.goto(`${url}/basket`)
  const before = (await sessionCookie(context))?.value
  t.equal(await comeBack(), 'ada "tea"', 'and one with a basket')
  t.strictSame(await names(), ['session'])
  t.not((await sessionCookie(context))?.value, before, 'with a new secret')
  const acs = requests.filter((req) => req.url === '/acs')
  t.strictSame(
    acs.map(({ headers }) => [headers['sec-fetch-site'], headers.cookie]),
    [
      ['cross-site', undefined],
      ['cross-site', undefined],
    ],
  )
})

t.test('a page that is fetched ahead leaves its message to the visit', async (t) => {
  let fetched: (req: IncomingMessage) => void
  const ahead = new Promise<IncomingMessage>((resolve) => (fetched = resolve))
  const { url } = await startSite(t, async (req, res) => {
    if (req.url === '/add') await updateCurrentSession(sessionFlash('info', 'Saved.'))
    if (req.url === '/messages') {
      const taken = (await takeFlashes()).map(({ text }) => text)
      res.end(`<p id="messages">${taken.join()}</p>`)
      if (req.headers['sec-purpose'] !== undefined) res.once('finish', () => fetched(req))
      return
    }
    const rules = '{"prefetch": [{"urls": ["/messages"], "eagerness": "immediate"}]}'
    res.end(req.url === '/ahead' ? `<script type="speculationrules">${rules}</script>` : 'added')
  })
  const context = await browser.newContext()
  const page = await context.newPage()
  await page.goto(`${url}/add`)
  await page.goto(`${url}/ahead`)
  t.match((await ahead).headers['sec-purpose'], /prefetch/)
  await page.close()
  const visit = await context.newPage()
  await visit.goto(`${url}/messages`)
  t.equal(await visit.textContent('#messages'), 'Saved.')
  await visit.reload()
  t.equal(await visit.textContent('#messages'), '')
})

t.test("the README's first program counts visits", async (t) => {
  const program = (await codeBlocks()).find(({ place, serves }) => place.startsWith('README.md') && serves)
  const url = await startProgram(t, 'readme', program?.code ?? '', server.url)
  const page = await (await browser.newContext()).newPage()
  for (const visits of [1, 2, 3]) {
    await page.goto(url)
    // A browser with a window asks by itself.
    await page.evaluate("fetch('/favicon.ico').then((icon) => icon.status)")
    t.match(await page.textContent('body'), `This is visit ${String(visits)}.`)
  }
})

const title = (page: Page) => page.textContent('h1')

const say = async (page: Page, word: string): Promise<void> => {
  await page.fill('input[name=word]', word)
  await submit(page, '#go')
}

for (const javaScriptEnabled of [true, false])
  t.test(
    `a flow: back, tabs, reload and ten payments, JavaScript ${javaScriptEnabled ? 'on' : 'off'}`,
    async (t) => {
      const { url, charges } = await serveWizard(t)
      const context = await browser.newContext({ javaScriptEnabled })
      const page = await context.newPage()
      await page.goto(url)
      t.equal(await sessionCookie(context), undefined, 'who only looks has no session')
      for (const word of ['a', 'b', 'c']) await say(page, word)
      t.equal(await title(page), 'pay: a b c')
      await page.reload()
      t.equal(await title(page), 'pay: a b c', 'a reload sends no form again')
      const before = page.url()
      for (let pages = 0; pages < 3; pages += 1) await page.goBack({ waitUntil: 'commit' })
      t.equal(await title(page), 'one')
      await say(page, 'x')
      t.equal(await title(page), 'two: x', 'another answer to the first page')
      const second = await context.newPage()
      await second.goto(page.url())
      await say(page, 'left')
      await say(second, 'right')
      t.strictSame(
        [await title(page), await title(second)],
        ['three: x left', 'three: x right'],
        'two branches',
      )
      const key = await page.textContent('#back')
      await say(page, 'end')
      await page.goBack({ waitUntil: 'commit' })
      t.strictSame(
        [await title(page), await page.textContent('#back')],
        ['three: x left', key],
        'the same page and key',
      )
      await page.goForward({ waitUntil: 'commit' })
      t.equal(await title(page), 'pay: x left end')
      const tabs = await Promise.all(Array.from({ length: 10 }, () => context.newPage()))
      await Promise.all(tabs.map((tab) => tab.goto(before)))
      await Promise.all(tabs.map((tab) => tab.dblclick('#go', { noWaitAfter: true }).catch(() => undefined)))
      for (const tab of tabs) {
        await tab.waitForURL(/\/paid/)
        t.equal(await title(tab), '/paid?words=a b c')
      }
      t.equal(charges.length, 1, 'one charge')
      await page.goto(page.url())
      t.equal(await title(page), '/paid?words=a b c', 'the other branch has ended, too')
      await context.close()
    },
  )
