// A flow in Firefox, which fetches a page again after Back: `npm run spec:browser`. Firefox is no npm package.

import { existsSync } from 'node:fs'
import { launch, type Page } from 'puppeteer-core'
import t from 'tap'
import { serveWizard } from '../support/wizard.js'

const executablePath = [process.env['FIREFOX'], '/usr/bin/firefox-esr', '/usr/bin/firefox'].find(
  (path) => path !== undefined && existsSync(path),
)
if (executablePath === undefined) {
  t.fail(
    'Firefox is not found: install it (Debian: apt-get install firefox-esr), or say where it is by FIREFOX',
  )
  process.exit(1)
}

const browser = await launch({ browser: 'firefox', executablePath })
t.teardown(() => browser.close())

const textOf = async (page: Page, element: string): Promise<string> =>
  String(await page.evaluate(`document.querySelector('${element}')?.textContent`))

const title = (page: Page): Promise<string> => textOf(page, 'h1')

const key = (page: Page): Promise<string> => textOf(page, '#back')

const submit = async (page: Page): Promise<void> => {
  await Promise.all([page.waitForNavigation(), page.click('#go')])
}

const say = async (page: Page, word: string): Promise<void> => {
  await page.locator('input[name=word]').fill(word)
  await submit(page)
}

/** Goes some pages back or forward, and waits for the page with this title. */
const travel = async (page: Page, pages: number, to: string): Promise<void> => {
  await page.evaluate(`history.go(${String(pages)})`)
  await page.waitForFunction(`document.querySelector('h1')?.textContent === ${JSON.stringify(to)}`)
}

t.test('a flow: back, tabs, reload and ten payments', async (t) => {
  const { url, charges, requests } = await serveWizard(t)
  const context = await browser.createBrowserContext()
  const page = await context.newPage()
  await page.goto(url)
  for (const word of ['a', 'b', 'c']) await say(page, word)
  t.equal(await title(page), 'pay: a b c')
  const posts = requests.filter((request) => request.startsWith('POST')).length
  await page.reload()
  t.equal(await title(page), 'pay: a b c')
  t.equal(
    requests.filter((request) => request.startsWith('POST')).length,
    posts,
    'a reload sends no form again',
  )
  const before = page.url()
  await travel(page, -3, 'one')
  await say(page, 'x')
  t.equal(await title(page), 'two: x', 'another answer to the first page')
  const second = await context.newPage()
  await second.goto(page.url())
  await say(page, 'left')
  await say(second, 'right')
  t.strictSame([await title(page), await title(second)], ['three: x left', 'three: x right'], 'two branches')
  const [place, shownKey] = [new URL(page.url()), await key(page)]
  await say(page, 'end')
  const seen = requests.length
  await travel(page, -1, 'three: x left')
  t.strictSame(requests.slice(seen), [`GET ${place.pathname}${place.search}`], 'the page is fetched again')
  t.strictSame([page.url(), await key(page)], [place.href, shownKey], 'it is the same page with the same key')
  await travel(page, 1, 'pay: x left end')
  const tabs = await Promise.all(Array.from({ length: 10 }, () => context.newPage()))
  await Promise.all(tabs.map((tab) => tab.goto(before)))
  await Promise.all(
    tabs.map(async (tab) => {
      await Promise.all([
        tab.waitForFunction("location.pathname === '/paid'"),
        tab.click('#go', { count: 2 }).catch(() => undefined),
      ])
    }),
  )
  for (const tab of tabs) t.equal(await title(tab), '/paid?words=a b c')
  t.equal(charges.length, 1, 'one charge')
  await context.close()
})
