// A small shop as a function that takes a `Request` and returns a `Response`. Bun and Deno can serve such a function.
// This example serves it on Node.js with @hono/node-server.
import { serve } from '@hono/node-server'
import { fetchHandler } from 'keyrow/fetch'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import { add, page, port, store } from './page.js'

const actions: Readonly<Record<string, (form: URLSearchParams) => Promise<unknown>>> = {
  '/add': (form) => add(form.get('item') ?? ''),
  '/in': (form) => signIn(form.get('user') ?? ''),
  '/out': () => signOut(),
}

export const handle = fetchHandler({ store })(async (request) => {
  const action = request.method === 'POST' ? actions[new URL(request.url).pathname] : undefined
  if (action === undefined)
    return new Response(await page(), { headers: { 'Content-Type': 'text/html; charset=utf-8' } })
  const form = new URLSearchParams(await request.text())
  await verifyCsrf(request, form.get('csrf'))
  await action(form)
  return new Response(null, { status: 303, headers: { Location: '/' } })
})

serve({ fetch: (request) => handle(request), port, hostname: '127.0.0.1' }, (address) => console.log(address))
