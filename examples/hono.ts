// A small shop that uses keyrow with Hono.
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { sessionMiddleware } from 'keyrow/hono'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import { add, page, port, store } from './page.js'

const text = (field: unknown): string => (typeof field === 'string' ? field : '')

const app = new Hono()
app.use(sessionMiddleware({ store }))
app.use(async (c, next) => {
  if (c.req.method === 'POST') await verifyCsrf(c.req.raw, (await c.req.parseBody())['csrf'])
  await next()
})
app.get('/', async (c) => c.html(await page()))
app.post('/add', async (c) => {
  await add(text((await c.req.parseBody())['item']))
  return c.redirect('/', 303)
})
app.post('/in', async (c) => {
  await signIn(text((await c.req.parseBody())['user']))
  return c.redirect('/', 303)
})
app.post('/out', async (c) => {
  await signOut()
  return c.redirect('/', 303)
})

serve({ fetch: app.fetch, port, hostname: '127.0.0.1' }, (address) => console.log(address))
