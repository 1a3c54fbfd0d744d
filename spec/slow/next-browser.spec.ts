// Builds and starts the example for Next.js, and uses it in Chromium, with and without scripts.

import { chromium, type Page } from 'playwright-core'
import t from 'tap'
import { chromiumPath } from '../support/chromium.js'
import { buildExample } from '../support/example-project.js'
import { newDatabase } from '../support/postgres-server.js'

const server = await newDatabase()
t.teardown(() => server.stop())
const { url } = await (await buildExample(t, 'next', server.url)).start()
const browser = await chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox'] })
t.teardown(() => browser.close())

const shown = async (
  page: Page,
): Promise<readonly [cart: readonly string[], count: string, user: string]> => [
  await page.locator('#cart li').allTextContents(),
  (await page.locator('#count').textContent()) ?? '',
  (await page.locator('#user').textContent()) ?? '',
]

for (const javaScriptEnabled of [true, false])
  t.test(javaScriptEnabled ? 'with scripts' : 'without scripts', async (t) => {
    const context = await browser.newContext({ javaScriptEnabled })
    t.teardown(() => context.close())
    const page = await context.newPage()
    const loads: string[] = []
    page.on('request', (request) => {
      if (request.isNavigationRequest()) loads.push(request.url())
    })
    const cookies = async () => (await context.cookies()).map(({ value }) => value)
    /** Sends a form, and waits for the answer and for what the page then shows. */
    const submit = async (
      button: string,
      expected: string,
      fields: Readonly<Record<string, string>> = {},
    ) => {
      for (const [name, value] of Object.entries(fields)) await page.fill(`input[name=${name}]`, value)
      const answered = page.waitForResponse((response) => response.request().method() === 'POST')
      await page.click(`#${button}`)
      const answer = await answered
      await page.locator(expected).waitFor()
      return answer
    }
    await page.goto(url)
    t.strictSame(await shown(page), [[], '0', 'Nobody is here.'])
    t.strictSame(await cookies(), [])
    await submit('add', '#cart li:text-is("tea")', { sku: 'tea' })
    t.strictSame(
      await shown(page),
      [['tea'], '1', 'Nobody is here.'],
      'the first change, which sets the cookie',
    )
    const [visitor] = await cookies()
    t.ok(visitor)
    await submit('add', '#cart li:text-is("milk")', { sku: 'milk' })
    t.strictSame(await shown(page), [['tea', 'milk'], '2', 'Nobody is here.'], 'a change that sets no cookie')
    t.strictSame(await cookies(), [visitor])
    await submit('in', '#user:text-is("Ada is here.")', { user: 'Ada' })
    t.strictSame(await shown(page), [['tea', 'milk'], '2', 'Ada is here.'])
    t.notSame(await cookies(), [visitor])
    t.equal(loads.length, javaScriptEnabled ? 1 : 4, 'scripts load the page once')
    const failed = page.waitForResponse((response) => response.request().method() === 'POST')
    await page.fill('input[name=sku]', 'sold out')
    await page.click('#add')
    t.equal((await failed).status(), 500)
    await page.goto(url)
    t.strictSame(
      await shown(page),
      [['tea', 'milk'], '2', 'Ada is here.'],
      'a failed action has changed nothing',
    )
    await submit('buy', '#order')
    t.equal(await page.locator('#order').textContent(), 'tea, milk')
    t.equal(new URL(page.url()).pathname, '/order')
    t.equal(await page.locator('#count').textContent(), '0')
    await page.goto(url)
    await submit('out', '#user:text-is("Nobody is here.")')
    t.strictSame(await shown(page), [[], '0', 'Nobody is here.'])
    t.strictSame(await cookies(), [])
  })
