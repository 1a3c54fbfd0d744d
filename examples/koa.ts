// A small shop that uses keyrow with Koa.
import { text } from 'node:stream/consumers'
import { sessionMiddleware } from 'keyrow/koa'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import Koa from 'koa'
import { add, page, port, store } from './page.js'

const actions: Readonly<Record<string, (form: URLSearchParams) => Promise<unknown>>> = {
  '/add': (form) => add(form.get('item') ?? ''),
  '/in': (form) => signIn(form.get('user') ?? ''),
  '/out': () => signOut(),
}

const app = new Koa()
app.use(sessionMiddleware({ store }))
app.use(async (ctx) => {
  const action = ctx.method === 'POST' ? actions[ctx.path] : undefined
  if (action === undefined) {
    ctx.type = 'html'
    ctx.body = await page()
    return
  }
  const form = new URLSearchParams(await text(ctx.req))
  await verifyCsrf(ctx, form.get('csrf'))
  await action(form)
  ctx.status = 303
  ctx.redirect('/')
})

const server = app.listen(port, '127.0.0.1', () => console.log(server.address()))
