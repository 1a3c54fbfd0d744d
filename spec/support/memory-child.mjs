// Serves requests, and writes by how many bytes a request lets the old generation grow. Node.js needs `--expose-gc`. The
// arguments are the framework, and whether keyrow is used. `transaction` saves sessions in transactions instead, and
// `statement` sends statements with postgres.js.

import { once } from 'node:events'
import { Agent, createServer, request as httpRequest } from 'node:http'
import { getHeapSpaceStatistics } from 'node:v8'
import express from 'express'
import { fastify } from 'fastify'
import * as E from 'fp-ts/lib/Either.js'
import { sessionMiddleware as expressSession } from 'keyrow/express'
import { sessionPlugin } from 'keyrow/fastify'
import { sessionMiddleware as koaSession } from 'keyrow/koa'
import { memoryStore } from 'keyrow/memory'
import { sessionListener } from 'keyrow/node'
import { pgDatabase } from 'keyrow/pg'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import {
  buildSession,
  currentSession,
  loadSession,
  saveSession,
  sessionRef,
  sessionSet,
  sessionToken,
  updateCurrentSession,
  withSession,
} from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import Koa from 'koa'
import pg from 'pg'
import postgres from 'postgres'

const [framework = '', hasSession = '', url = ''] = process.argv.slice(2)
const database = pgDatabase(new pg.Pool({ connectionString: url, max: 2 }))
const store = framework === 'transaction' ? sessionStore(database) : memoryStore()
const session = await saveSession(sessionSet('user', 'ada')(buildSession(store)))
const user = async () => (hasSession ? String(sessionRef('user')(await currentSession())) : 'ada')

const listeners = {
  node: () => {
    const handler = async (_, res) => void res.end(await user())
    return hasSession ? sessionListener({ store })(handler) : handler
  },
  express: () => {
    const app = express()
    if (hasSession) app.use(expressSession({ store }))
    return app.get('/', async (_, res) => void res.send(await user()))
  },
  koa: () => {
    const app = new Koa()
    if (hasSession) app.use(koaSession({ store }))
    app.use(async (ctx) => {
      ctx.body = await user()
    })
    return app.callback()
  },
  fastify: async () => {
    const app = fastify()
    if (hasSession) app.register(sessionPlugin, { store })
    app.get('/', user)
    await app.ready()
    return app.routing
  },
}

const requests = async () => {
  const server = createServer(await listeners[framework]()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const agent = new Agent({ keepAlive: true })
  const headers = { cookie: `session=${sessionToken(session)}` }
  const { port } = server.address()
  return async () => {
    const sent = httpRequest({ agent, port, host: '127.0.0.1', headers }).end()
    const [response] = await once(sent, 'response')
    response.resume()
    await once(response, 'end')
    if (response.statusCode !== 200) throw new Error(`the status is ${response.statusCode}`)
  }
}

const transactions = () => {
  let count = 0
  return async () => {
    const loaded = await loadSession(store, sessionToken(session))
    count += 1
    await withSession(loaded, async () => {
      const saved = database.transaction(
        () => async () => E.right(await updateCurrentSession(sessionSet('n', count))),
      )
      if (E.isLeft(await saved())) throw new Error('the transaction has failed')
    })
  }
}

const statements = () => {
  const sql = postgres(url, { max: 2, ...poolOptions })
  const [text, params] = ['select $1::text as answer', ['42']]
  if (!hasSession) return () => sql.unsafe(text, params, { prepare: true })
  const { query } = postgresDatabase(sql)
  return async () => {
    if (E.isLeft(await query({ name: 'answer', text }, params)())) throw new Error('the statement has failed')
  }
}

const act = await ({ transaction: transactions, statement: statements }[framework] ?? requests)()

const oldGeneration = () =>
  getHeapSpaceStatistics()
    .filter(({ space_name }) => /^(old|map|trusted|code)_space$/.test(space_name))
    .reduce((sum, { space_used_size }) => sum + space_used_size, 0)

const ROUNDS = 6
const REQUESTS = 500

const growth = []
for (let round = 0; round < ROUNDS; round += 1) {
  // The second collection moves what the first one has left into the old generation.
  for (let time = 0; time < 2; time += 1) globalThis.gc({ type: 'minor' })
  const before = oldGeneration()
  for (let sent = 0; sent < REQUESTS; sent += 1) await act()
  for (let time = 0; time < 2; time += 1) globalThis.gc({ type: 'minor' })
  growth.push(Math.round((oldGeneration() - before) / REQUESTS))
}
// In the first rounds V8 compiles the functions. A full collection lets a round shrink.
const later = growth.slice(2).sort((a, b) => a - b)
process.stdout.write(String(later[later.length >> 1]))
process.exit(0)
