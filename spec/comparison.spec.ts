// Runs the first two rows of docs/comparison.md: requests that overlap, and a slow request that ends after the sign-out.

import { createServer } from 'node:http'
import connectPgSimple from 'connect-pg-simple'
import express, { type Express, type RequestHandler } from 'express'
import session from 'express-session'
import { getIronSession } from 'iron-session'
import pg from 'pg'
import t from 'tap'
import { pgStore } from '../lib/entry/pg.js'
import { sessionMiddleware } from '../lib/http/express.js'
import { currentSession, sessionSet, signIn, signOut, updateCurrentSession } from '../lib/promise/index.js'
import { listening } from './support/adapters.js'
import { newDatabase } from './support/postgres-server.js'

type Data = Record<string, unknown>

/** The functions with which a way to keep sessions serves the same three routes. */
interface Way {
  readonly name: string
  readonly use: RequestHandler
  readonly set: (key: string) => RequestHandler
  readonly leave: RequestHandler
  readonly show: RequestHandler
  readonly keepsBoth: boolean
  readonly staysSignedOut: boolean
}

const server = await newDatabase()
const pool = new pg.Pool({ connectionString: server.url })
const store = pgStore(new pg.Pool({ connectionString: server.url }))
t.teardown(async () => {
  await store.close()
  await pool.end()
  await server.stop()
})

/** A value that differs each time. */
let values = 0
const fresh = (): number => (values += 1)

const ironOptions = {
  password: 'a password that has at least 32 characters',
  cookieName: 'iron',
  cookieOptions: { secure: false },
}
const iron = (...[req, res]: Parameters<RequestHandler>) => getIronSession<Data>(req, res, ironOptions)

const later: RequestHandler = (_req, _res, next) => next()

const ways: readonly Way[] = [
  {
    name: 'keyrow',
    use: sessionMiddleware({ store }) as RequestHandler,
    set: (key) => async (_req, res) => {
      await updateCurrentSession(sessionSet(key, fresh()))
      if (key === 'user') await signIn('ada')
      res.end()
    },
    leave: async (_req, res) => {
      await signOut()
      res.end()
    },
    show: async (_req, res) => {
      const { store: stored } = await currentSession()
      res.json(['user', 'slow', 'quick'].filter((key) => stored.has(key)))
    },
    keepsBoth: true,
    staysSignedOut: true,
  },
  {
    name: 'connect-pg-simple',
    use: session({
      store: new (connectPgSimple(session))({
        pool,
        createTableIfMissing: true,
        pruneSessionInterval: false,
      }),
      secret: 'secret',
      resave: false,
      saveUninitialized: false,
    }),
    set: (key) => (req, res) => {
      ;(req.session as unknown as Data)[key] = fresh()
      res.end()
    },
    leave: (req, res) => {
      req.session.destroy(() => res.end())
    },
    show: (req, res) => {
      res.json(['user', 'slow', 'quick'].filter((key) => key in req.session))
    },
    keepsBoth: false,
    staysSignedOut: false,
  },
  {
    name: 'iron-session',
    use: later,
    set: (key) => async (req, res, next) => {
      const data = (res.locals['iron'] as Data | undefined) ?? (await iron(req, res, next))
      data[key] = fresh()
      await (data['save'] as () => Promise<void>)()
      res.end()
    },
    leave: async (req, res, next) => {
      ;(await iron(req, res, next)).destroy()
      res.end()
    },
    show: async (req, res, next) => {
      const data = await iron(req, res, next)
      res.json(['user', 'slow', 'quick'].filter((key) => key in data))
    },
    keepsBoth: false,
    staysSignedOut: false,
  },
]

for (const way of ways)
  t.test(way.name, async (t) => {
    let goOn = (): void => undefined
    let reach = (): void => undefined
    const app: Express = express()
    app.use(way.use)
    app.post('/enter', way.set('user'))
    app.post('/quick', way.set('quick'))
    app.post(
      '/slow',
      async (req, res, next) => {
        if (way.name === 'iron-session') res.locals['iron'] = await iron(req, res, next)
        const waiting = new Promise<void>((resolve) => (goOn = resolve))
        reach()
        await waiting
        next()
      },
      way.set('slow'),
    )
    app.post('/leave', way.leave)
    app.get('/', way.show)
    const { url, close } = await listening(createServer(app))
    t.teardown(close)

    let cookie = ''
    const request = async (path: string) => {
      const response = await fetch(url + path, { method: path === '/' ? 'GET' : 'POST', headers: { cookie } })
      for (const given of response.headers.getSetCookie())
        cookie = /max-age=0|expires=thu, 01 jan 1970/i.test(given) ? '' : (given.split(';')[0] ?? '')
      return response.text()
    }
    /** Starts the slow request, runs the quick one, and lets the slow one end. */
    const overlap = async (quick: string): Promise<void> => {
      const reached = new Promise<void>((resolve) => (reach = resolve))
      const slow = request('/slow')
      await reached
      await request(quick)
      goOn()
      await slow
    }
    await request('/enter')
    await overlap('/quick')
    t.equal(await request('/'), JSON.stringify(way.keepsBoth ? ['user', 'slow', 'quick'] : ['user', 'slow']))
    const signedIn = cookie
    await overlap('/leave')
    if (cookie === '') cookie = signedIn
    t.equal((await request('/')).includes('user'), !way.staysSignedOut)
  })
