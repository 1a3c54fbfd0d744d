// Builds the example for NestJS, starts it on Express and on Fastify, and uses it.

import t from 'tap'
import { buildExample } from '../support/example-project.js'
import { newDatabase } from '../support/postgres-server.js'

const server = await newDatabase()
t.teardown(() => server.stop())
const example = await buildExample(t, 'nest', server.url)

for (const PLATFORM of ['express', 'fastify'])
  t.test(PLATFORM, async (t) => {
    const { url } = await example.start({ PLATFORM })
    let cookie = ''
    const request = async (path: string, body?: object) => {
      const headers = { cookie, ...(body && { 'content-type': 'application/json' }) }
      const init = body === undefined ? { headers } : { method: 'POST', headers, body: JSON.stringify(body) }
      const response = await fetch(url + path, init)
      for (const given of response.headers.getSetCookie())
        cookie = /max-age=0/i.test(given) ? '' : (given.split(';')[0] ?? '')
      return response
    }
    const shown = async () => (await request('/')).json()
    t.strictSame(await shown(), { user: 'nobody', cart: [] })
    t.equal(cookie, '', 'who only looks gets no cookie')
    t.equal((await request('/out', {})).status, 403, 'the guard reads the session')
    t.strictSame(await (await request('/cart', { sku: 'tea' })).json(), ['tea'])
    const visitor = cookie
    t.equal((await request('/in', { user: 'ada' })).status, 204)
    t.not(cookie, visitor)
    t.equal((await request('/cart', { sku: 'sold out' })).status, 500)
    t.strictSame(await shown(), { user: 'ada', cart: ['tea'] }, 'a failed request changes nothing')
    t.equal((await request('/cart', { sku: 'unknown' })).status, 400)
    const { cart } = (await shown()) as { readonly cart: readonly string[] }
    t.strictSame(cart, ['tea', 'unknown'], 'NestJS itself has answered 400, so the request has not failed')
    await Promise.all(['a', 'b', 'c'].map((sku) => request('/cart', { sku })))
    const after = (await shown()) as { readonly cart: readonly string[] }
    t.strictSame(after.cart.toSorted(), [...cart, 'a', 'b', 'c'].sort())
    t.equal((await request('/out', {})).status, 204)
    t.strictSame([cookie, await shown()], ['', { user: 'nobody', cart: [] }])
  })
