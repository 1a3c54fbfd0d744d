// An example in a real browser: `npm run spec:browser`. It needs Chromium, which is no npm package.

import { existsSync } from 'node:fs'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import t from 'tap'
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
