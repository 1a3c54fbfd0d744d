// A small shop that uses keyrow with node:http, without a framework.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { sessionListener } from 'keyrow/node'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import { add, page, port, store } from './page.js'

const actions: Readonly<Record<string, (form: URLSearchParams) => Promise<unknown>>> = {
  '/add': (form) => add(form.get('item') ?? ''),
  '/in': (form) => signIn(form.get('user') ?? ''),
  '/out': () => signOut(),
}

const shop = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
  const action = req.method === 'POST' ? actions[req.url ?? ''] : undefined
  if (action === undefined) {
    res.setHeader('Content-Type', 'text/html; charset=utf-8').end(await page())
    return
  }
  const form = new URLSearchParams(await text(req))
  await verifyCsrf(req, form.get('csrf'))
  await action(form)
  res.writeHead(303, { Location: '/' }).end()
}

const server = createServer(sessionListener({ store })(shop))
server.listen(port, '127.0.0.1', () => console.log(server.address()))
