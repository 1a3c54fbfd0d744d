// The application of http-apps.ts on Fastify, once with @fastify/session and once with keyrow. @fastify/session uses
// connect-pg-simple, its usual store on PostgreSQL.

import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import pgSimple from 'connect-pg-simple'
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { sessionPlugin } from 'keyrow/fastify'
import { currentSession, sessionRef, sessionSet, updateCurrentSession } from 'keyrow/promise'
import { HALF_AN_HOUR, keyrowStore, pgPool, SECRET } from './backends.js'
import { filled, type Servers, type Values } from './peer.js'

interface Access {
  readonly get: (request: FastifyRequest, key: string) => unknown
  readonly put: (request: FastifyRequest, values: Values) => unknown
}

const listen = async (app: FastifyInstance, { get, put }: Access): Promise<number> => {
  const query = (request: FastifyRequest) => request.query as Values
  app.post('/fill', async (request) => {
    const { keys, bytes } = query(request)
    await put(request, filled(Number(keys), Number(bytes)))
    return 'done'
  })
  app.post('/set', async (request) => {
    const { key = '', value = '' } = query(request)
    if ((await get(request, key)) === undefined) throw new Error('there is no such session')
    await put(request, { [key]: value })
    return 'done'
  })
  app.get('/', async (request) => {
    const value = await get(request, 'key 0')
    if (value === undefined) throw new Error('there is no such session')
    return value
  })
  return Number(new URL(await app.listen({ port: 0, host: '127.0.0.1' })).port)
}

export const fastifySessions = async (servers: Servers): Promise<number> => {
  const app = fastify({ keepAliveTimeout: 600_000 })
  await app.register(fastifyCookie)
  await app.register(fastifySession, {
    secret: SECRET,
    // @fastify/session accepts stores of express-session. Such a store has to extend the class `Store` of
    // @fastify/session.
    store: new (pgSimple(fastifySession as never))({
      pool: pgPool(servers),
      createTableIfMissing: true,
      pruneSessionInterval: false,
    }) as never,
    saveUninitialized: false,
    cookie: { secure: false, maxAge: HALF_AN_HOUR },
  })
  return listen(app, {
    get: (request, key) => (request.session as unknown as Values)[key],
    put: (request, values) => Object.assign(request.session, values),
  })
}

export const fastifyKeyrow = async (servers: Servers): Promise<number> => {
  const app = fastify({ keepAliveTimeout: 600_000 })
  await app.register(sessionPlugin, { store: await keyrowStore(servers, 'postgres.js') })
  return listen(app, {
    get: async (_request, key) => sessionRef(key)(await currentSession()),
    put: (_request, values) =>
      updateCurrentSession((session) =>
        Object.entries(values).reduce((session, [key, value]) => sessionSet(key, value)(session), session),
      ),
  })
}
