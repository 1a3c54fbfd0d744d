// Programs of a user of the package, in strict TypeScript, for every entry point. They are texts, because they run in
// another project, without access to this repository. Each program prints one line of JSON.

/** Strict compiler options. The compiler also checks the types of the dependencies. */
export const compilerOptions = {
  target: 'es2022',
  module: 'nodenext',
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  verbatimModuleSyntax: true,
  moduleDetection: 'force',
  skipLibCheck: false,
  types: ['node'],
  rootDir: 'src',
}

/** Imports the modules of the arguments, and prints the named exports or the error of each module. */
export const imports = `
const found = {}
for (const name of process.argv.slice(2))
  found[name] = await import(name).then(
    (module) => ({ names: Object.keys(module).sort() }),
    ({ code, message }) => ({ code, message }),
  )
console.log(JSON.stringify(found))
`

/** The functions without peer dependencies: sessions in memory, in both styles, a server, and the laws. */
export const withoutPeers = `
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Either } from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import type { Option } from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import * as k from 'keyrow'
import { type MemoryOptions, memoryStore } from 'keyrow/memory'
import { defaultErrorResponse, type SessionListenerOptions, sessionListener } from 'keyrow/node'
import type { PostgresOptions } from 'keyrow/postgres'
import * as p from 'keyrow/promise'
import { type OpenSubject, sessionStoreLaws } from 'keyrow/testing'

const options: MemoryOptions = { idleMs: 60_000, clock: () => Date.now() }
const store: k.SessionStore = memoryStore(options)
const cart: k.SessionKey<string[]> = k.sessionKey('cart', t.array(t.string))

const filled: k.Session = pipe(
  k.buildSession(store),
  k.sessionSet('theme', 'dark'),
  k.sessionSet(cart, ['tea']),
  k.sessionSet('draft', null),
  k.sessionDel('draft'),
)
const loaded: TE.TaskEither<k.SessionError, Option<k.Session>> = pipe(
  k.saveSession(filled),
  TE.chainW(k.rotateSession),
  TE.chainW((session) => k.loadSession(store, k.sessionToken(session))),
)
const theme: TE.TaskEither<k.SessionError, k.Json> = k.withSession(k.buildSession(store), () =>
  pipe(
    k.updateCurrentSession(k.sessionSet('theme', 'dark')),
    TE.chainW(() => k.currentSession),
    TE.map(k.sessionRef('theme', 'light')),
  ),
)

// This function is never called. If the package lost a type, the type would be any, and these lines would compile.
export const wrong = (session: k.Session): void => {
  // @ts-expect-error a cart contains strings
  k.sessionSet(cart, [1])
  // @ts-expect-error a reader needs a session
  k.sessionRef('theme')('session')
  // @ts-expect-error a value from a session is read only
  k.sessionRef(cart, [])(session).push('milk')
  // @ts-expect-error a task is not its result
  const result: Option<k.Session> = k.loadSession(store, '')
  // @ts-expect-error an absent option is left out
  const options: SessionListenerOptions = { store, trustProxy: undefined }
  // @ts-expect-error the store is missing
  sessionListener({})(() => [result, options])
}

export const explain = (error: k.SessionError): string => {
  switch (error._tag) {
    case 'DriverError':
      return String(error.retryable)
    case 'DecodeError':
    case 'EncodeError':
      return error.key
    case 'SessionGone':
    case 'SessionClosed':
    case 'ProofRequired':
    case 'SaveConflict':
      return error.id
    case 'KeyNotLoaded':
    case 'NoCurrentSession':
      return error.message
    case 'SchemaMismatch':
      return error.schema
  }
}

export const postgresOptions: PostgresOptions = { timeoutMs: 1000 }

const useFunctions = async (): Promise<unknown> => {
  const found: Either<k.SessionError, Option<k.Session>> = await loaded()
  const lines = pipe(
    TE.fromEither(found),
    TE.chainW(TE.fromOption(() => new k.NoCurrentSession())),
    TE.map((session): readonly string[] => k.sessionRef(cart, [])(session)),
  )
  return [await lines(), await theme()]
}

const usePromises = async (): Promise<unknown> => {
  const greeting: string = await p.withSession(p.buildSession(store), async () => {
    await p.updateCurrentSession(p.sessionSet('user', 'Ada'))
    return 'Hello ' + String(p.sessionRef('user')(await p.currentSession()))
  })
  const nobody: p.Session | undefined = await p.loadSession(store, 'no token')
  return [greeting, nobody === undefined]
}

const useServer = async (): Promise<unknown> => {
  const listener = sessionListener({ store, sameSite: 'strict', onError: defaultErrorResponse })
  const server = createServer(
    listener(async (_req, res) => {
      const visits = Number(p.sessionRef('visits', 0)(await p.currentSession())) + 1
      await p.updateCurrentSession(p.sessionSet('visits', visits))
      res.end('visit ' + String(visits))
    }),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = 'http://127.0.0.1:' + String((server.address() as AddressInfo).port)
  const first = await fetch(url)
  const cookie = first.headers.getSetCookie().map((line) => line.split(';')[0] ?? '').join('; ')
  const second = await fetch(url, { headers: { cookie } })
  const answers = [await first.text(), await second.text()]
  server.closeAllConnections()
  server.close()
  return answers
}

const open: OpenSubject = (lifetime) => {
  let now = Date.now()
  return Promise.resolve({
    store: memoryStore({ ...lifetime, clock: () => now }),
    elapse: (milliseconds) => Promise.resolve(void (now += milliseconds)),
    close: () => Promise.resolve(),
  })
}

const brokenLaws = async (): Promise<readonly string[]> => {
  const broken: string[] = []
  for (const { name, run } of sessionStoreLaws(open))
    await run().catch((error: unknown) => broken.push(name + ': ' + String(error)))
  return broken
}

const done = {
  functions: await useFunctions(),
  promises: await usePromises(),
  server: await useServer(),
  laws: sessionStoreLaws(open).length > 0,
  broken: await brokenLaws(),
}
console.log(JSON.stringify(done))
`

/** The output of the program above. */
export const withoutPeersDone = {
  functions: [
    { _tag: 'Right', right: ['tea'] },
    { _tag: 'Right', right: 'dark' },
  ],
  promises: ['Hello Ada', true],
  server: ['visit 1', 'visit 2'],
  laws: true,
  broken: [],
}

/**
 * The functions with peer dependencies: a database in the directory `data`, its lock, and a pool that never connects.
 */
export const withPeers = `
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { buildSession, loadSession, saveSession } from 'keyrow'
import { type Database, observedDatabase } from 'keyrow/store'
import { sessionRef, sessionSet, sessionToken } from 'keyrow'
import { sessionStore } from 'keyrow/store'
import { type PgliteOptions, pgliteDatabase } from 'keyrow/pglite'
import { pgDatabase } from 'keyrow/pg'
import { postgresDatabase } from 'keyrow/postgres'
import pg from 'pg'
import postgres from 'postgres'

const options: PgliteOptions = { timeoutMs: 20_000 }
const names: string[] = []
const database: Database = observedDatabase(pgliteDatabase('data', options), ({ query }) => names.push(query.name))
const store = sessionStore(database, { schema: 'shop', idleMs: 60_000 })
const theme = pipe(
  saveSession(sessionSet('theme', 'dark')(buildSession(store))),
  TE.chainW((session) => loadSession(store, sessionToken(session))),
  TE.map((found) => (found._tag === 'Some' ? sessionRef('theme', 'light')(found.value) : 'no session')),
)
const loaded = await theme()

// The directory is locked, so the native addon works.
const second = await pgliteDatabase('data').query({ name: 'one', text: 'select 1' }, [])()
const closed = await database.close()

const pool = postgresDatabase(postgres('postgres://nobody@127.0.0.1:9/none', { max: 1, prepare: false }))
const ended = await pool.close()
const unreached = pgDatabase(new pg.Pool({ connectionString: 'postgres://nobody@127.0.0.1:9/none' }))
const refused = await unreached.query({ name: 'one', text: 'select 1' }, [])()
const closedPool = await unreached.close()

console.log(
  JSON.stringify({
    loaded,
    locked: second._tag === 'Left' && second.left.message.includes('in use'),
    observed: names.length > 0,
    closed: closed._tag,
    ended: ended._tag,
    refused: refused._tag === 'Left' && refused.left.kind,
    closedPool: closedPool._tag,
  }),
)
`

/** The output of the program above. */
export const withPeersDone = {
  loaded: { _tag: 'Right', right: 'dark' },
  locked: true,
  observed: true,
  closed: 'Right',
  ended: 'Right',
  refused: 'unavailable',
  closedPool: 'Right',
}

/**
 * Counts the visits of one browser, with the adapter of the installed framework and with the store for express-session.
 */
export const visits = `
import { createServer } from 'node:http'
import { memoryStore } from 'keyrow/memory'
import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'

const store = memoryStore()
const count = async () => String(sessionRef('n')(await updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))))
const counted = (session) => String((session.n = (session.n ?? 0) + 1))
const secret = 'a secret of at least thirty-two letters'
const load = async (name) => (await import(name)).default

const express = async (use) => {
  const app = (await load('express'))()
  use(app)
  return createServer(app)
}
const fastify = async (use) => {
  const app = (await load('fastify'))()
  await use(app)
  await app.ready()
  return app.server
}
const servers = {
  express: async () => {
    const { sessionMiddleware } = await import('keyrow/express')
    const { expressSessionStore } = await import('keyrow/express-session')
    const session = await load('express-session')
    return {
      adapter: await express((app) =>
        app.use(sessionMiddleware({ store })).get('/', (req, res) => void count().then((n) => res.send(n))),
      ),
      store: await express((app) =>
        app
          .use(session({ store: expressSessionStore(store), secret, resave: false, saveUninitialized: false }))
          .get('/', (req, res) => res.send(counted(req.session))),
      ),
    }
  },
  fastify: async () => {
    const { sessionPlugin } = await import('keyrow/fastify')
    const { expressSessionStore } = await import('keyrow/express-session')
    const cookies = await load('@fastify/cookie')
    const session = await load('@fastify/session')
    return {
      adapter: await fastify(async (app) => {
        app.register(sessionPlugin, { store })
        app.get('/', count)
      }),
      store: await fastify(async (app) => {
        app.register(cookies)
        app.register(session, { store: expressSessionStore(store), secret, cookie: { secure: false } })
        app.get('/', async (request) => counted(request.session))
      }),
    }
  },
  koa: async () => {
    const { sessionMiddleware } = await import('keyrow/koa')
    const app = new (await load('koa'))()
    app.use(sessionMiddleware({ store }))
    app.use(async (ctx) => {
      ctx.body = await count()
    })
    return { adapter: createServer(app.callback()) }
  },
  hono: async () => {
    const { sessionMiddleware } = await import('keyrow/hono')
    const { Hono } = await import('hono')
    const { getRequestListener } = await import('@hono/node-server')
    const app = new Hono()
    app.use(sessionMiddleware({ store }))
    app.get('/', async (c) => c.text(await count()))
    return { adapter: createServer(getRequestListener(app.fetch)) }
  },
}

const seen = {}
for (const [name, server] of Object.entries(await servers[process.argv[2].split('@')[0]]())) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  seen[name] = []
  let cookie = ''
  for (let n = 0; n < 3; n += 1) {
    const response = await fetch('http://127.0.0.1:' + server.address().port + '/', { headers: { cookie } })
    cookie = response.headers.getSetCookie()[0]?.split(';')[0] ?? cookie
    seen[name].push(await response.text())
  }
  server.closeAllConnections()
  server.close()
}
console.log(JSON.stringify(seen))
`
