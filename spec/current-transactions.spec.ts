// Tests the current session inside of a transaction of its database. The cases are browsers, locked rows, another
// database, and a killed process. The laws test further cases on every store.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { fileURLToPath } from 'node:url'
import express from 'express'
import t, { type Test } from 'tap'
import { type Database, observedDatabase } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { sessionMiddleware } from '../lib/http/express.js'
import {
  batchedDatabase,
  buildSession,
  currentSession,
  loadSession,
  queryDatabase,
  saveSession,
  sessionPrincipal,
  sessionRef,
  sessionSet,
  sessionToken,
  sessionUpdate,
  signIn,
  transact,
  updateCurrentSession,
  withHandle,
  withSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { listening } from './support/adapters.js'
import { counting, drivers, quietPools, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, fast, freshSchema, right } from './support/stores.js'

const child = fileURLToPath(new URL('./support/checkout-child.mjs', import.meta.url))

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
console.error = () => undefined
t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
  await stop()
})

const opened = async (layered = fast, on: Database = database) => {
  const schema = freshSchema()
  const store = layered(sessionStore(on, { schema }))
  await right(store.prepare)
  await rowsOf(on, `create table ${schema}.orders (sku text)`)
  const order = (tx: Database, sku = 'tea') =>
    queryDatabase(tx, { name: 'order', text: `insert into ${schema}.orders values ($1)` }, [sku])
  const orders = async () => (await rowsOf(on, `select sku from ${schema}.orders`)).length
  const values = async (token: string) => (await loadSession(store, token))?.store.toObject()
  return { schema, store, order, orders, values }
}

const add = (key: string) => updateCurrentSession(sessionUpdate(key, (n) => Number(n) + 1, 0))

t.test('a process that is killed between the commit and the end of its request has kept both', async (t) => {
  const { schema, store, orders, values } = await opened()
  const token = sessionToken(await saveSession(sessionSet('n', 1)(buildSession(store))))
  const killed = spawn(process.execPath, [child, url, schema, token], { stdio: 'inherit' })
  t.strictSame(await once(killed, 'exit'), [null, 'SIGKILL'])
  t.equal(await orders(), 1)
  t.strictSame(await values(token), { n: 1, ordered: 'tea' })
})

/** Makes an Express application whose handler responds or fails according to the path. */
const shop = async (t: Test) => {
  const { store, order, orders } = await opened()
  const app = express()
  app.set('env', 'test')
  app.use(sessionMiddleware({ store }))
  app.post('/visit', async (_req, res) => {
    await updateCurrentSession(sessionSet('cart', 'tea'))
    res.send('visit')
  })
  app.post('/sign-in/:fails', async (req, res) => {
    const { fails } = req.params
    await transact(database, async (tx) => {
      await order(tx)
      await signIn('ada')
      if (fails === 'inside') throw new Error('inside')
      // A response from inside the transaction waits for the commit.
      if (fails.startsWith('answered')) res.send('signed in')
      await order(tx)
      if (fails === 'answered-inside') throw new Error('inside, after the answer')
    })
    if (fails === 'after') throw new Error('after the commit')
    if (!res.headersSent) res.send('signed in')
  })
  app.get('/', async (_req, res) => res.send(sessionRef(sessionPrincipal, 'nobody')(await currentSession())))
  const { url: address, close } = await listening(createServer(app))
  t.teardown(close)
  const ask = async (method: string, path: string, cookie = '') => {
    const answer = await fetch(`${address}${path}`, { method, headers: { cookie } })
    const given = answer.headers.getSetCookie()[0]?.split(';')[0]
    return { status: answer.status, body: await answer.text(), given }
  }
  return { ask, orders }
}

t.test('a sign-in that was committed is in the cookie, whatever becomes of the handler', async (t) => {
  const { ask, orders } = await shop(t)
  for (const known of [true, false])
    for (const [fails, status] of [
      ['never', 200],
      ['after', 500],
      ['answered', 200],
    ] as const) {
      const before = known ? (await ask('POST', '/visit')).given : undefined
      const count = await orders()
      const answer = await ask('POST', `/sign-in/${fails}`, before)
      t.equal(answer.status, status, fails)
      t.ok(answer.given !== undefined && answer.given !== before, 'a new cookie')
      t.equal((await ask('GET', '/', answer.given)).body, 'ada')
      t.equal((await ask('GET', '/', before)).body, 'nobody', 'the old one is dead')
      t.equal(await orders(), count + 2)
    }
})

t.test('after a rollback the old cookie is good, and there is no new one', async (t) => {
  const { ask, orders } = await shop(t)
  for (const fails of ['inside', 'answered-inside']) {
    const before = (await ask('POST', '/visit')).given
    const answer = await ask('POST', `/sign-in/${fails}`, before)
    t.strictSame([answer.status, answer.given], [500, undefined], fails)
    t.equal((await ask('POST', '/sign-in/never', before)).status, 200)
  }
  t.equal(await orders(), 4)
})

t.test('the row of the session is locked only at the end of the transaction', async (t) => {
  const { schema, store } = await opened()
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const other = postgresDatabase(quietPools(url))
  t.teardown(() => right(other.close))
  const lock = `select 1 from ${schema}.session where id = '${session.id}' for update nowait`
  await withSession(session, () =>
    transact(database, async (tx) => {
      await add('n')
      await transact(tx, () => add('n'))
      t.equal((await rowsOf(other, lock)).length, 1, 'nobody holds it')
    }),
  )
})

t.test(
  'a deadlock, or a serialization failure, is the transaction’s own, and nothing of it is left',
  async (t) => {
    const { schema, store, order, orders, values } = await opened()
    const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
    const token = sessionToken(session)
    for (const [code, kind] of [
      ['40001', 'serialization'],
      ['40P01', 'deadlock'],
    ] as const) {
      await rowsOf(
        database,
        `create function ${schema}.f${code}() returns trigger language plpgsql as $f$ begin
      raise exception 'x' using errcode = '${code}'; end $f$`,
      )
      await rowsOf(
        database,
        `create trigger t${code} before update on ${schema}.session for each row
      when (new.revision > old.revision) execute function ${schema}.f${code}()`,
      )
      const request = withSession(session, () =>
        transact(database, async (tx) => {
          await order(tx)
          await add('n')
        }),
      )
      t.match(await request.catch((error: unknown) => error), { _tag: 'DriverError', kind, sqlState: code })
      await rowsOf(database, `drop trigger t${code} on ${schema}.session`)
    }
    t.equal(await orders(), 0)
    t.strictSame(await values(token), { n: 1 })
  },
)

t.test('a transaction of another database leaves the session to its request', async (t) => {
  const { store, values } = await opened()
  const other = postgresDatabase(quietPools(url))
  t.teardown(() => right(other.close))
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const token = sessionToken(session)
  await withSession(session, async () => {
    const failed = transact(other, async () => {
      await add('n')
      throw new Error('rolled back')
    })
    await t.rejects(failed, { message: 'rolled back' })
  })
  t.strictSame(await values(token), { n: 2 })
  await t.rejects(
    withSession(session, async () => {
      await transact(other, () => add('n'))
      throw new Error('mine')
    }),
    { message: 'mine' },
  )
  t.strictSame(await values(token), { n: 2 })
})

t.test('it is one database, however it is wrapped', async (t) => {
  const { database: counted } = counting(database)
  const wraps = [
    database,
    counted,
    batchedDatabase(counted),
    observedDatabase(batchedDatabase(database), () => undefined),
  ]
  for (const on of wraps)
    for (const by of wraps) {
      const { store, order, orders, values } = await opened(fast, on)
      const session = await saveSession(sessionSet('n', 0)(buildSession(store)))
      const token = sessionToken(session)
      const request = withSession(session, async () => {
        await add('n')
        await transact(by, async (tx) => {
          await add('n')
          await order(tx)
          // A session that the program saves itself through its handle is saved once.
          await saveSession(withHandle(tx)(await currentSession()))
          await add('n')
        })
        await add('lost')
        throw new Error('mine')
      })
      await t.rejects(request, { message: 'mine' })
      t.strictSame([await values(token), await orders()], [{ n: 3 }, 1])
    }
})

t.test('the statements of an observed database are told, those of its transactions too', async (t) => {
  const { database: counted, events } = counting(database)
  const { store } = await opened((plain) => plain, counted)
  const session = await saveSession(sessionSet('n', 0)(buildSession(store)))
  events.splice(0)
  await withSession(session, () => transact(database, () => add('n')))
  t.strictSame(
    events.map(({ query }) => query.name),
    ['session.save'],
  )
})

t.test('a transaction that outlives its request is rolled back, if it changed the session', async (t) => {
  const { store, order, orders } = await opened()
  const session = await saveSession(sessionSet('n', 0)(buildSession(store)))
  let finish = (): void => undefined
  const finished = new Promise<void>((resolve) => {
    finish = resolve
  })
  for (const changes of [true, false]) {
    let late: Promise<unknown> = Promise.resolve()
    const begun = new Promise<void>((begin) => {
      const request = withSession(session, async () => {
        const here = new Promise<void>((resolve) => {
          late = transact(database, async (tx) => {
            await order(tx)
            if (changes) await add('n')
            resolve()
            await finished
          })
        })
        await here
        throw new Error('mine')
      })
      request.catch(() => begin())
    })
    await begun
    finish()
    if (changes) await t.rejects(late, { name: 'SessionClosed' })
    else await late
  }
  t.equal(await orders(), 1)
})

for (const driver of drivers)
  t.test(`on ${driver.name} a request waits for its own open transactions, and keeps both`, async (t) => {
    const { database: own, close } = await driver.open()
    t.teardown(close)
    const { store, order, orders, values } = await opened(fast, own)
    const session = await saveSession(sessionSet('n', 0)(buildSession(store)))
    const token = sessionToken(session)
    const begun = await withSession(session, async () => {
      await add('n')
      let running: Promise<unknown> = Promise.resolve()
      await new Promise<void>((resolve) => {
        running = transact(own, async (tx) => {
          await add('n')
          resolve()
          await order(tx)
        })
      })
      // Not awaited.
      return [running]
    })
    await Promise.all(begun)
    t.strictSame([await values(token), await orders()], [{ n: 2 }, 1])
  })

t.test('withSession inside of a transaction belongs to it', async (t) => {
  const { store, values } = await opened()
  const session = await saveSession(sessionSet('n', 0)(buildSession(store)))
  const token = sessionToken(session)
  const visit = (outcome: () => void) =>
    transact(database, async () => {
      await withSession(session, () => add('n'))
      outcome()
    })
  await visit(() => undefined)
  const failed = visit(() => {
    throw new Error('rolled back')
  })
  await t.rejects(failed, { message: 'rolled back' })
  t.strictSame(await values(token), { n: 1 })
})
