// Drives the lab of the example shop in Chromium, with and without scripts, at three widths, light and dark.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium, type Locator, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { chromiumPath } from '../support/chromium.js'
import { startExample } from '../support/example.js'
import { newDatabase } from '../support/postgres-server.js'

/** The screenshots of the last run, for the eyes of a person. */
const pictures = fileURLToPath(new URL('../../build/lab/', import.meta.url))
mkdirSync(pictures, { recursive: true })

const server = await newDatabase()
t.teardown(() => server.stop())
const url = await startExample(t, 'shop/main', server.url)
const browser = await chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox'] })
t.teardown(() => browser.close())

interface Bar {
  readonly kind: string
  readonly from: number
  readonly to: number
}

interface Drawn {
  getAttribute(name: string): string | null
}

/** Returns the bars of the slow request and of the quick request, by their places in the drawing. */
const barsIn = async (card: Locator): Promise<readonly [slow: readonly Bar[], quick: readonly Bar[]]> => {
  const bars = await card.locator('svg rect').evaluateAll((rects: readonly Drawn[]) =>
    rects.map((rect) => {
      const [x, y, width] = ['x', 'y', 'width'].map((name) => Number(rect.getAttribute(name)))
      return { kind: rect.getAttribute('class') ?? '', from: x ?? 0, to: (x ?? 0) + (width ?? 0), y: y ?? 0 }
    }),
  )
  const top = Math.min(...bars.map(({ y }) => y))
  return [bars.filter(({ y }) => y === top), bars.filter(({ y }) => y > top)]
}

const kinds = (bars: readonly Bar[]): readonly string[] => bars.map(({ kind }) => kind)

const fits = (page: Page): Promise<boolean> =>
  page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')

const cards = (page: Page, experiment: string): readonly [keyrow: Locator, whole: Locator] => {
  const pair = page.locator(`#${experiment} .card`)
  return [pair.nth(0), pair.nth(1)]
}

const runsTabs = async (t: Test, page: Page): Promise<void> => {
  await page.click('text=Run two tabs')
  const [keyrow, whole] = cards(page, 'tabs')
  await keyrow.waitFor()
  for (const card of [keyrow, whole]) {
    const [slow, quick] = await barsIn(card)
    t.strictSame(kinds(slow), ['load', 'work', 'save'])
    t.strictSame(kinds(quick), ['load', 'work', 'save'])
    t.ok((slow[1]?.from ?? 0) < (quick[0]?.from ?? 0), 'the slow request works before the quick one begins')
    t.ok((quick[2]?.to ?? 0) < (slow[2]?.from ?? 0), 'and saves after the quick one has saved')
  }
  t.equal(await keyrow.getAttribute('data-lost'), '0')
  t.match(await keyrow.textContent(), 'Both requests have kept everything')
  t.strictSame(await whole.locator('.lost li').allTextContents(), ['oar is in the cart', 'the theme is dark'])
}

const runsSignOut = async (t: Test, page: Page, user: string): Promise<void> => {
  await page.click('text=Run the sign-out')
  const [keyrow, whole] = cards(page, 'sign-out')
  await keyrow.waitFor()
  const [slow, quick] = await barsIn(keyrow)
  t.strictSame(kinds(slow), ['load', 'work', 'failed'])
  t.strictSame(kinds(quick), ['load', 'save'])
  t.ok((quick[1]?.to ?? 0) < (slow[2]?.from ?? 0))
  t.strictSame(kinds((await barsIn(whole))[0]), ['load', 'work', 'save'])
  t.equal(await keyrow.getAttribute('data-lost'), '0')
  t.match(await keyrow.textContent(), 'is told that the session is gone')
  t.match(await whole.locator('.lost li').allTextContents(), [`${user} is signed in`])
}

const runsTheft = async (t: Test, page: Page): Promise<void> => {
  await page.click('text=Run the theft')
  const [bound, ordinary] = cards(page, 'theft')
  await bound.waitFor()
  const steps = async (card: Locator) =>
    (await card.locator('.steps li').allTextContents()).map((text) => text.trim())
  t.strictSame(await steps(bound), [
    'the customer signs in: done (200)',
    'the customer registers a public key: done (200)',
    'the thief copies the cookies, and adds a boat: done (200)',
    'the thief adds an oar, eleven minutes later: refused (403)',
    'the thief asks for a new bound cookie, with a key of the thief: refused (403)',
    'the customer proves to have the key: done (200)',
    'the customer adds tea: done (200)',
  ])
  t.equal((await steps(ordinary)).at(2), 'the thief adds an oar, eleven minutes later: done (200)')
  t.equal(await bound.getAttribute('data-lost'), '0')
  t.strictSame(await ordinary.locator('.lost li').allTextContents(), ['oar is in the cart'])
}

for (const [javaScriptEnabled, colorScheme] of [
  [true, 'light'],
  [true, 'dark'],
  [false, 'light'],
] as const)
  t.test(`${colorScheme}, ${javaScriptEnabled ? 'with' : 'without'} scripts`, async (t) => {
    const context = await browser.newContext({ javaScriptEnabled, colorScheme })
    t.teardown(() => context.close())
    const page = await context.newPage()
    await page.goto(`${url}/lab`)
    t.strictSame(await context.cookies(), [], 'who only looks gets no cookie')
    t.match(await page.locator('main').textContent(), 'sessions of an imaginary Ada')
    await runsTabs(t, page)
    await runsSignOut(t, page, 'Ada')
    await runsTheft(t, page)
    t.match(await page.locator('footer').textContent(), /Your last click, \/lab\/theft, took \d+ statements/)
    for (const width of [390, 900, 1400]) {
      await page.setViewportSize({ width, height: 900 })
      t.ok(await fits(page), `nothing sticks out at ${String(width)} pixels`)
      const name = `${colorScheme}-${javaScriptEnabled ? '' : 'plain-'}${String(width)}.png`
      await page.screenshot({ path: join(pictures, name), fullPage: true })
    }
  })

t.test('the rows are live, and the texts fit who is signed in', async (t) => {
  const context = await browser.newContext({ javaScriptEnabled: false })
  t.teardown(() => context.close())
  const [lab, shop] = [await context.newPage(), await context.newPage()]
  await lab.goto(`${url}/lab`)
  const rows = lab.frameLocator('iframe')
  await rows.locator('text=The database has no row for you').waitFor()
  await shop.goto(url)
  await shop.click('text=Add to cart')
  await rows.locator('td:text-is("cart/key")').waitFor()
  await shop.goto(`${url}/sign-in`)
  await shop.fill('input[name=name]', 'Grace')
  await shop.fill('input[name=password]', 'sesame')
  await shop.click('main button')
  await rows.locator('td:text-is("keyrow:principal")').waitFor()
  await lab.goto(`${url}/lab`)
  t.match(await lab.locator('main').textContent(), 'sessions of their own with your name, Grace')
  await runsSignOut(t, lab, 'Grace')
  t.match(await lab.locator('header').textContent(), 'Grace', 'the visitor is still signed in')
  const foreign = await fetch(`${url}/lab/tabs`, {
    method: 'POST',
    headers: { 'sec-fetch-site': 'cross-site' },
  })
  t.equal(foreign.status, 403, 'its forms are protected')
})
