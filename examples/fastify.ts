// A small shop that uses keyrow with Fastify.
import fastify from 'fastify'
import { sessionPlugin } from 'keyrow/fastify'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import { add, page, port, store } from './page.js'

type Form = URLSearchParams | undefined

const app = fastify()
app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_request, body, done) =>
  done(null, new URLSearchParams(String(body))),
)
app.register(sessionPlugin, { store })
app.addHook('preHandler', async (request) => {
  await verifyCsrf(request, (request.body as Form)?.get('csrf'))
})
app.get('/', async (_request, reply) => reply.type('text/html; charset=utf-8').send(await page()))
app.post('/add', async (request, reply) => {
  await add((request.body as Form)?.get('item') ?? '')
  return reply.redirect('/', 303)
})
app.post('/in', async (request, reply) => {
  await signIn((request.body as Form)?.get('user') ?? '')
  return reply.redirect('/', 303)
})
app.post('/out', async (_request, reply) => {
  await signOut()
  return reply.redirect('/', 303)
})

await app.listen({ port, host: '127.0.0.1' })
console.log(app.server.address())
