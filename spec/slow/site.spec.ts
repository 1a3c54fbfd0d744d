// Builds the site, checks each of its links, and looks at it in Chromium at three widths.

import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { chromium } from 'playwright-core'
import t from 'tap'
import { chromiumPath } from '../support/chromium.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const site = join(root, 'build', 'site')
await promisify(execFile)(process.execPath, [join(root, 'docs', '.vitepress', 'build.js')], { cwd: root })

const files = readdirSync(site, { recursive: true }).map(String)
const pages = new Map(
  files
    .filter((name) => name.endsWith('.html') && name !== '404.html')
    .map((name) => [
      `/${name.replace(/(^|\/)index\.html$|\.html$/, '$1')}`,
      readFileSync(join(site, name), 'utf8'),
    ]),
)

t.test('each link leads to a page, and to a place on it', (t) => {
  const dead: string[] = []
  for (const [path, page] of pages)
    for (const [, link = ''] of page.matchAll(/<a [^>]*?href="([^"]*)"/g)) {
      if (/^(https?|mailto):/.test(link)) continue
      const { pathname, hash } = new URL(link.replaceAll('&amp;', '&'), `http://site${path}`)
      const found = pages.get(pathname)
      const place = decodeURIComponent(hash.slice(1))
      if (found === undefined) dead.push(`${path}: ${link}`)
      else if (place !== '' && !found.includes(`id="${place}"`)) dead.push(`${path}: ${link}`)
    }
  t.strictSame([...new Set(dead)], [])
  t.ok(pages.size > 40, `${String(pages.size)} pages`)
  t.end()
})

t.test('each entry point has a page of reference, and each interface of options a table', (t) => {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly exports: Readonly<Record<string, string>>
  }
  for (const name of Object.keys(exports)) {
    const path = `/api/${name.replace('.', 'keyrow')}`
    t.ok(pages.has(path) || pages.has(`${path}/`), path)
  }
  for (const name of [
    'SessionStoreOptions',
    'AdapterOptions',
    'ReadyStoreOptions',
    'NextSessionsOptions',
    'CookieOptions',
  ])
    t.match(pages.get('/options') ?? '', `id="${name.toLowerCase()}"`)
  t.end()
})

t.test('in Chromium', async (t) => {
  const pictures = join(root, 'build', 'site-pictures')
  mkdirSync(pictures, { recursive: true })
  const types = new Map([
    ['html', 'text/html'],
    ['js', 'text/javascript'],
    ['css', 'text/css'],
    ['svg', 'image/svg+xml'],
  ])
  const server = createServer((req, res) => {
    const path = new URL(req.url ?? '/', 'http://localhost').pathname
    const name = [path, `${path}.html`, `${path}index.html`].find(
      (name) => /\.\w+$/.test(name) && existsSync(join(site, name)),
    )
    if (name === undefined) res.writeHead(404).end()
    else {
      res.setHeader('Content-Type', types.get(name.split('.').at(-1) ?? '') ?? 'application/octet-stream')
      res.end(readFileSync(join(site, name)))
    }
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const url = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`
  const browser = await chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox'] })
  t.teardown(async () => {
    await browser.close()
    server.close()
  })
  const page = await browser.newPage()
  const errors: string[] = []
  page.on('pageerror', (error) => void errors.push(error.message))
  for (const width of [390, 900, 1400]) {
    await page.setViewportSize({ width, height: 900 })
    for (const path of pages.keys()) {
      if (path.startsWith('/decisions') || (path.startsWith('/api/') && path !== '/api/keyrow/promise'))
        continue
      await page.goto(url + path)
      t.ok(
        await page.evaluate('document.documentElement.scrollWidth <= window.innerWidth'),
        `${path} at ${String(width)}`,
      )
      if (['/', '/tutorial', '/options', '/comparison'].includes(path))
        await page.screenshot({
          path: join(pictures, `${path === '/' ? 'home' : path.slice(1)}-${String(width)}.png`),
        })
    }
  }
  await page.goto(url)
  await page.keyboard.press('Control+k')
  await page.fill('.VPLocalSearchBox input', 'touchFraction')
  await page.locator('.VPLocalSearchBox .result').first().waitFor()
  t.ok((await page.locator('.VPLocalSearchBox .result').count()) > 1, 'the search finds an option')
  t.strictSame(errors, [])
})
