// Tests two copies of the built package in one process, such as a bundler or a development server makes. Both copies
// share the current session, transactions and errors.

import { cp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import express from 'express'
import t from 'tap'
import type * as Pglite from '../lib/db/pglite.js'
import type * as ExpressAdapter from '../lib/http/express.js'
import type * as Functional from '../lib/index.js'
import type * as Promised from '../lib/promise/index.js'
import type * as Records from '../lib/records/index.js'
import type * as Memory from '../lib/store/memory.js'
import { listening } from './support/adapters.js'

const root = new URL('../', import.meta.url)
const copies = new URL('build/copies/', root)

const copyOf = async (name: string) => {
  const folder = new URL(`${name}/`, copies)
  await cp(new URL('dist/', root), new URL('dist/', folder), { recursive: true })
  await writeFile(new URL('package.json', folder), '{ "type": "module" }')
  // Each copy also gets its own copy of the library immutable.
  const values = 'node_modules/immutable/'
  await cp(new URL(values, root), new URL(values, folder), { recursive: true })
  const load = (path: string): Promise<unknown> => import(new URL(`dist/${path}`, folder).href)
  return {
    F: (await load('index.js')) as typeof Functional,
    R: (await load('records/index.js')) as typeof Records,
    P: (await load('promise/index.js')) as typeof Promised,
    memory: (await load('store/memory.js')) as typeof Memory,
    pglite: (await load('db/pglite.js')) as typeof Pglite,
    adapter: (await load('http/express.js')) as typeof ExpressAdapter,
  }
}

await rm(copies, { recursive: true, force: true })
const [one, two] = [await copyOf('one'), await copyOf('two')]
t.teardown(() => rm(copies, { recursive: true, force: true }))

t.test('they are two', async (t) => {
  t.not(one.F.SessionGone, two.F.SessionGone)
  t.not(one.F.currentSession, two.F.currentSession)
})

t.test('the handler of one copy has the current session of the other copy’s adapter', async (t) => {
  const { P } = two
  const app = express()
  app.set('env', 'test')
  app.use(one.adapter.sessionMiddleware({ store: one.memory.memoryStore() }))
  let late: Promise<unknown> = Promise.resolve()
  app.get('/', async (req, res) => {
    await P.updateCurrentSession(P.sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
    if (req.query['in'] === 'yes') await P.signIn('ada')
    if (req.query['fail'] === 'yes') await P.updateCurrentSession(P.sessionSet('bad', Number.NaN))
    if (req.query['gone'] === 'yes') throw new P.SessionGone('x')
    if (req.query['forged'] === 'yes') await P.verifyCsrf({ method: 'POST', headers: {} })
    await P.loadCurrentKeys('visits')
    const session = await P.withSession(await P.currentSession(), () => P.currentSession())
    const ended = new Promise((resolve) => res.on('close', resolve))
    late = ended.then(() => P.currentSession())
    late.catch(() => undefined)
    res.json([
      P.sessionRef('visits')(session),
      P.sessionRef(P.sessionPrincipal, 'nobody')(req.currentSession()),
    ])
  })
  const { url, close } = await listening(createServer(app))
  t.teardown(close)
  const ask = async (query: string, cookie = '') => {
    const answer = await fetch(`${url}/?${query}`, { headers: { cookie } })
    return {
      status: answer.status,
      body: await answer.text(),
      cookie: answer.headers.getSetCookie()[0]?.split(';')[0],
    }
  }
  const first = await ask('')
  t.equal(first.body, '[1,"nobody"]')
  const second = await ask('in=yes', first.cookie)
  t.equal(second.body, '[2,"ada"]')
  t.ok(second.cookie !== undefined && second.cookie !== first.cookie)
  const failure = await late.catch((error: unknown) => error)
  t.ok(failure instanceof one.F.SessionClosed && failure instanceof two.F.SessionClosed)
  // The adapter uses the status of an error from either copy.
  t.equal((await ask('fail=yes', second.cookie)).status, 400)
  t.equal((await ask('gone=yes', second.cookie)).status, 409)
  t.equal((await ask('forged=yes', second.cookie)).status, 403)
  t.equal((await ask('', second.cookie)).body, '[3,"ada"]', 'what failed stored nothing')
})

t.test('a session of one copy is saved, rotated and ended by the other', async (t) => {
  const session = one.P.sessionSet('n', 1)(one.P.buildSession(one.memory.memoryStore()))
  const saved = await two.P.saveSession(two.P.sessionUpdate('n', (n) => Number(n) + 1, 0)(session))
  const rotated = await two.P.rotateSession(saved)
  t.equal((await one.P.loadSession(session.handle, one.P.sessionToken(rotated)))?.store.get('n'), 2)
  await one.P.destroySession(rotated)
  const late = two.P.saveSession(two.P.sessionSet('late', 1)(rotated))
  const failure: unknown = await late.catch((error: unknown) => error)
  t.ok(failure instanceof one.P.SessionGone)
  // Each copy knows whether a session that was never loaded is stored or has ended.
  const unsaved = one.P.sessionSet('n', 1)(one.P.buildSession(session.handle))
  await one.P.saveSession(unsaved)
  const again: unknown = await two.P.saveSession(unsaved).catch((error: unknown) => error)
  t.ok(again instanceof one.P.SaveConflict)
})

t.test('a transaction of one copy has the current session, and the rules, of the other', async (t) => {
  const database = one.pglite.pgliteDatabase()
  const store = one.P.sessionStore(database)
  t.teardown(() => one.P.closeDatabase(database))
  const session = await one.P.saveSession(one.P.sessionSet('n', 1)(one.P.buildSession(store)))
  const add = () => two.P.updateCurrentSession(two.P.sessionUpdate('n', (n) => Number(n) + 1, 0))
  const failing = one.P.withSession(session, async () => {
    await two.P.transact(database, async () => {
      await add()
      const refused: unknown = await two.P.saveSession(two.P.sessionSet('x', 1)(session)).catch(
        (e: unknown) => e,
      )
      t.match(refused, { kind: 'outerHandle' })
    })
    throw new Error('mine')
  })
  await t.rejects(failing, { message: 'mine' })
  t.equal((await two.P.loadSession(store, two.P.sessionToken(session)))?.store.get('n'), 2)
})

t.test('the errors of one copy are known to the other, and nothing else is', async (t) => {
  const { F, R } = one
  const errors = [
    new F.DriverError('x', { retryable: false }),
    new F.DecodeError('k', []),
    new F.EncodeError('k', [], 'x'),
    new F.SessionGone('x'),
    new F.SessionClosed('x'),
    new F.KeyNotLoaded('k'),
    new F.NoCurrentSession(),
    new F.SaveConflict('x', 'create'),
    new F.SchemaMismatch('s', 'x'),
  ]
  for (const error of errors) {
    t.ok(two.F.isSessionError(error), error._tag)
    t.ok(error instanceof two.F[error._tag], error._tag)
    t.equal(two.R.isRecordError(error), R.isRecordError(error), error._tag)
  }
  const gone = new R.RecordGone('notes', '1')
  t.ok(two.R.isRecordError(gone) && gone instanceof two.R.RecordGone)
  t.notOk(two.F.isSessionError(gone))
  t.ok(new F.RequestRejected(403, 'x') instanceof two.F.RequestRejected)
  t.notOk(two.F.isSessionError(new F.RequestRejected(403, 'x')))
  t.notOk(errors[3] instanceof two.F.SessionClosed, 'another one')
  t.notOk(Object.assign(new Error('x'), { _tag: 'SessionGone' }) instanceof two.F.SessionGone, 'only a tag')
  class Mine extends two.F.SessionGone {}
  t.notOk(errors[3] instanceof Mine)
  t.ok(new Mine('x') instanceof two.F.SessionGone && new Mine('x') instanceof F.SessionGone)
  for (const other of [null, undefined, 1, 'x', {}, new Error('x')]) t.notOk(two.F.isSessionError(other))
})
