// The same small application with each session library. `POST /fill` begins a session, `POST /set` changes one key, and
// `GET /` shows one key. The configuration of each library follows its documentation. @fastify/session runs only on
// Fastify. So keyrow is also measured on Fastify, because the cost of a request depends on the framework.

import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import pgSimple from 'connect-pg-simple'
import { RedisStore } from 'connect-redis'
import express, { type Request, type RequestHandler, type Response } from 'express'
import session, { type Store } from 'express-session'
import { getIronSession } from 'iron-session'
import { sessionMiddleware } from 'keyrow/express'
import { currentSession, sessionRef, sessionSet, updateCurrentSession } from 'keyrow/promise'
import { type Driver, HALF_AN_HOUR, keyrowStore, pgPool, redisClient, SECRET } from './backends.js'
import { fastifyKeyrow, fastifySessions } from './fastify-apps.js'
import type { HttpName } from './http-peer.js'
import { filled, type Servers, type Values } from './peer.js'

/** How a handler reads and changes the session of its request. */
interface Access {
  readonly middleware?: RequestHandler
  readonly get: (req: Request, res: Response, key: string) => unknown
  readonly put: (req: Request, res: Response, values: Values) => unknown
}

type Listen = (servers: Servers) => Promise<number>

const text = (given: unknown): string => (typeof given === 'string' ? given : '')

const appOf = ({ middleware, get, put }: Access) => {
  const app = express()
  if (middleware !== undefined) app.use(middleware)
  app.post('/fill', async (req, res) => {
    await put(req, res, filled(Number(req.query['keys']), Number(req.query['bytes'])))
    res.send('done')
  })
  app.post('/set', async (req, res) => {
    const [key, value] = [text(req.query['key']), text(req.query['value'])]
    if ((await get(req, res, key)) === undefined) throw new Error('there is no such session')
    await put(req, res, { [key]: value })
    res.send('done')
  })
  app.get('/', async (req, res) => {
    const value = await get(req, res, 'key 0')
    if (value === undefined) throw new Error('there is no such session')
    res.send(value)
  })
  return app
}

const onExpress =
  (open: (servers: Servers) => Promise<Access> | Access): Listen =>
  async (servers) => {
    const server = appOf(await open(servers)).listen(0, '127.0.0.1')
    // Connections stay open between the rounds.
    server.keepAliveTimeout = 600_000
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }

const expressSession = (store: Store): Access => ({
  middleware: session({
    secret: SECRET,
    store,
    resave: false,
    saveUninitialized: false,
    cookie: { maxAge: HALF_AN_HOUR },
  }),
  get: (req, _res, key) => (req.session as unknown as Values)[key],
  put: (req, _res, values) => Object.assign(req.session, values),
})

const iron = (req: Request, res: Response) =>
  getIronSession<Record<string, string>>(req, res, {
    cookieName: 'session',
    password: SECRET,
    cookieOptions: { secure: false },
  })

const keyrowAccess = async (servers: Servers, driver: Driver): Promise<Access> => ({
  // The specs extend the Express request with types of `lib`. A cast is needed, because this is the built package.
  middleware: sessionMiddleware({ store: await keyrowStore(servers, driver) }) as unknown as RequestHandler,
  get: async (_req, _res, key) => sessionRef(key)(await currentSession()),
  put: (_req, _res, values) =>
    updateCurrentSession((session) =>
      Object.entries(values).reduce((session, [key, value]) => sessionSet(key, value)(session), session),
    ),
})

/** The applications, by the name of their session library. */
export const apps: Readonly<Record<HttpName, Listen>> = {
  keyrow: onExpress((servers) => keyrowAccess(servers, 'postgres.js')),
  'keyrow, node-postgres': onExpress((servers) => keyrowAccess(servers, 'node-postgres')),
  'connect-pg-simple': onExpress((servers) =>
    expressSession(
      new (pgSimple(session))({
        pool: pgPool(servers),
        createTableIfMissing: true,
        pruneSessionInterval: false,
      }),
    ),
  ),
  'connect-redis': onExpress(async (servers) =>
    expressSession(new RedisStore({ client: await redisClient(servers), ttl: HALF_AN_HOUR / 1000 })),
  ),
  'iron-session': onExpress(() => ({
    get: async (req, res, key) => (await iron(req, res))[key],
    put: async (req, res, values) => {
      const session = await iron(req, res)
      Object.assign(session, values)
      await session.save()
    },
  })),
  '@fastify/session, on Fastify': fastifySessions,
  'keyrow, on Fastify': fastifyKeyrow,
  'no sessions': onExpress(() => ({
    middleware: (_req, res, next) => {
      res.append('Set-Cookie', 'session=none; Path=/')
      next()
    },
    get: () => 'something',
    put: () => undefined,
  })),
}
