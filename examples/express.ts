// A small shop that uses keyrow with Express.
import express from 'express'
import { sessionMiddleware } from 'keyrow/express'
import { signIn, signOut, verifyCsrf } from 'keyrow/promise'
import { add, page, port, store } from './page.js'

type Form = Readonly<Record<string, string | undefined>>

const app = express()
app.use(sessionMiddleware({ store }))
app.use(express.urlencoded({ extended: false }))
app.use(async (req, _res, next) => {
  await verifyCsrf(req, (req.body as Form | undefined)?.['csrf'])
  next()
})
app.get('/', async (_req, res) => {
  res.send(await page())
})
app.post('/add', async (req, res) => {
  await add((req.body as Form)['item'] ?? '')
  res.redirect(303, '/')
})
app.post('/in', async (req, res) => {
  await signIn((req.body as Form)['user'] ?? '')
  res.redirect(303, '/')
})
app.post('/out', async (_req, res) => {
  await signOut()
  res.redirect(303, '/')
})

const server = app.listen(port, '127.0.0.1', () => console.log(server.address()))
