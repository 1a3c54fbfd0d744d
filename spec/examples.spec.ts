// Starts the small shop of each framework, and uses it over HTTP.

import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import t from 'tap'
import { startExample } from './support/example.js'
import { newDatabase } from './support/postgres-server.js'

const file = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url))
if (!existsSync(file('build/examples/node.js'))) {
  t.fail('build/examples is missing: run "npm run build && npm run build:examples" first')
  process.exit(1)
}

// The examples use the default schema, so they need a new database.
const server = await newDatabase()
t.teardown(() => server.stop())

/** Makes a browser with cookies. It sends `Origin` with each form, unless the test passes a token. */
const browser = (url: string) => {
  let cookie = ''
  const keep = async (answering: Promise<Response>) => {
    const response = await answering
    for (const given of response.headers.getSetCookie()) cookie = given.split(';')[0] ?? ''
    return response
  }
  const look = async () => (await keep(fetch(url, { headers: { cookie } }))).text()
  const send = async (path: string, fields: Readonly<Record<string, string>>, token?: string) => {
    const csrf = token ?? /name="csrf" value="([^"]*)"/.exec(await look())?.[1] ?? ''
    const body = new URLSearchParams({ csrf, ...fields })
    const headers = token === undefined ? { cookie, origin: url } : { cookie }
    return (await keep(fetch(url + path, { method: 'POST', body, headers, redirect: 'manual' }))).status
  }
  return { look, send, cookie: () => cookie }
}

for (const name of ['node', 'express', 'fastify', 'koa', 'hono', 'fetch'])
  t.test(name, async (t) => {
    t.ok(readFileSync(file(`examples/${name}.ts`), 'utf8').split('\n').length < 60, 'it is under 60 lines')
    const url = await startExample(t, name, server.url)
    const { look, send, cookie } = browser(url)
    t.match(await look(), 'Nobody is signed in.')
    t.equal(await send('/add', { item: 'tea' }), 303)
    t.match(await look(), 'tea is in your cart.')
    t.notMatch(await look(), 'tea is in your cart.')
    const visitor = cookie()
    t.equal(await send('/in', { user: 'Ada <3' }), 303)
    t.not(cookie(), visitor)
    t.match(await look(), /Hello Ada &#60;3\.[\s\S]*<li>tea<\/li>/)
    t.equal(await send('/add', { item: 'milk' }, 'a guess'), 403)
    t.equal(await send('/in', { user: '' }), 400, 'nobody is no principal')
    t.notMatch(await look(), 'milk')
    t.equal(await send('/out', {}), 303)
    t.match(await look(), 'Nobody is signed in.')
  })

/** Locks the table of orders. The result waits until two inserts wait for the lock, and releases it. */
const lockOrders = async (): Promise<() => Promise<void>> => {
  const client = new pg.Client({ connectionString: server.url })
  await client.connect()
  await client.query('begin')
  await client.query('lock table orders in exclusive mode')
  const waiting = async (): Promise<number> =>
    (await client.query("select from pg_locks where relation = 'orders'::regclass and not granted")).rows
      .length
  return async () => {
    while ((await waiting()) < 2) await delay(10)
    await client.query('commit')
    await client.end()
  }
}

for (const name of ['drizzle', 'kysely'])
  t.test(`${name}: the order and the cart change together, or not at all`, async (t) => {
    const url = await startExample(t, name, server.url)
    let cookie = ''
    const request = async (path: string) => {
      const headers = { origin: url, cookie }
      const response = await fetch(url + path, {
        method: path === '/' ? 'GET' : 'POST',
        headers,
        redirect: 'manual',
      })
      for (const given of response.headers.getSetCookie()) cookie = given.split(';')[0] ?? ''
      return response
    }
    const page = async () =>
      (await request('/')).json() as Promise<Record<'cart' | 'orders', readonly string[]>>
    const { orders } = await page()
    for (const sku of ['tea', 'milk']) t.equal((await request(`/add/${sku}`)).status, 303)
    t.strictSame(await page(), { cart: ['tea', 'milk'], orders })
    t.equal((await request('/buy')).status, 303)
    t.strictSame(await page(), { cart: [], orders: [...orders, 'tea', 'milk'] })
    await request('/add/bread')
    const release = await lockOrders()
    const clicks = [request('/buy'), request('/buy')]
    await release()
    const statuses = (await Promise.all(clicks)).map(({ status }) => status)
    t.strictSame(statuses.sort(), [303, 500], 'a double click makes one order')
    t.strictSame(await page(), { cart: [], orders: [...orders, 'tea', 'milk', 'bread'] })
    for (const sku of ['tea', 'sold']) await request(`/add/${sku}`)
    t.equal((await request('/buy')).status, 500)
    t.strictSame(await page(), { cart: ['tea', 'sold'], orders: [...orders, 'tea', 'milk', 'bread'] })
  })
