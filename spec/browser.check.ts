// An example in a real browser: `npm run spec:browser`. It needs Chromium, which is no npm package.

import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { generate } from 'selfsigned'
import t, { type Test } from 'tap'
import type { CookieOptions } from '../lib/door/cookie.js'
import { sessionListener } from '../lib/door/node.js'
import { memoryStore } from '../lib/driver/memory.js'
import { sessionRef, sessionUpdate, updateCurrentSession } from '../lib/promise.js'
import { startExample } from './support/example.js'
import { startPostgres } from './support/postgres-server.js'

const executablePath = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser'].find(
  (path) => path !== undefined && existsSync(path),
)
if (executablePath === undefined) {
  t.fail(
    'Chromium is not found: install it (Debian: apt-get install chromium), or say where it is by CHROMIUM',
  )
  process.exit(1)
}

const server = await startPostgres()
t.teardown(() => server.stop())
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
t.teardown(() => browser.close())

const cart = (page: Page) => page.locator('#cart li').allTextContents()

const add = async (page: Page, item: string): Promise<void> => {
  await page.fill('input[name=item]', item)
  await page.click('#add')
}

const signIn = async (page: Page, user: string): Promise<void> => {
  await page.fill('input[name=user]', user)
  await page.click('#in')
}

const sessionCookie = async (context: BrowserContext) =>
  (await context.cookies()).find(({ name }) => name === 'session')

t.test('sign in, a cart in two tabs, sign out', async (t) => {
  const url = await startExample(t, 'express', server.url)
  const context = await browser.newContext()
  const [one, two] = [await context.newPage(), await context.newPage()]
  await one.goto(url)
  const visitor = await sessionCookie(context)
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
  t.strictSame(new Set(await cart(one)), new Set(['tea', 'milk']), 'neither tab lost what the other did')
  t.strictSame(await cart(one), await cart(two))

  await one.click('#out')
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
    executablePath,
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
