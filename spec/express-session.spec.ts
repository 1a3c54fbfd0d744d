// Tests the store with the real express-session and @fastify/session on a real PostgreSQL. Shows changes that
// connect-pg-simple loses and keyrow keeps.

import { createServer } from 'node:http'
import fastify5Cookie from '@fastify/cookie'
import fastify5Session from '@fastify/session'
import connectPg from 'connect-pg-simple'
import express5, { type RequestHandler } from 'express'
import session from 'express-session'
import express4 from 'express4'
import fastify5 from 'fastify'
import fastify4 from 'fastify4'
import fastify4Cookie from 'fastify4-cookie'
import fastify4Session from 'fastify4-session'
import pg from 'pg'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { connectPgSimple, expressSessionStore, migrateSessions } from '../lib/express-session/index.js'
import { entriesOf, entriesToStore } from '../lib/express-session/values.js'
import { sessionStore } from '../lib/sql/store.js'
import type { Lifetime } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening } from './support/adapters.js'
import { counting, quietPools, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema, right } from './support/stores.js'

declare module 'express-session' {
  interface SessionData {
    [key: string]: unknown
  }
}

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
const application_name = freshSchema() // a unique name, because other clients may use the server
const pool = new pg.Pool({ connectionString: url, application_name })
t.teardown(async () => {
  await pool.end()
  // `end` does not wait for the connections, and the pool throws if the server ends one of them first.
  const left = `select pid from pg_stat_activity where application_name = '${application_name}'`
  while ((await rowsOf(database, left)).length > 0) await pause(5)
  await dropSchemas(database)
  await database.close()
  await stop()
})

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

const secret = 'a secret of at least thirty-two letters'

const ours = (lifetime: Partial<Lifetime> = {}) => {
  const schema = freshSchema()
  const { database: counted, events } = counting(database)
  const keyrow = sessionStore(counted, { schema, idleMs: 3_600_000, ...lifetime })
  const statements = () => events.splice(0).map(({ query }) => query.name)
  return { schema, keyrow, statements, store: expressSessionStore(keyrow, { database: counted, schema }) }
}

const theirs = async () => {
  const schema = freshSchema()
  await rowsOf(database, `create schema ${schema}`)
  const PgStore = connectPg(session)
  const store = new PgStore({
    pool,
    schemaName: schema,
    createTableIfMissing: true,
    pruneSessionInterval: false,
  })
  return { schema, store }
}

type Options = Partial<session.SessionOptions>

interface Fastify {
  readonly version: number
  readonly fastify: typeof fastify5
  readonly fastifyCookie: typeof fastify5Cookie
  readonly fastifySession: typeof fastify5Session
}

let express = express5

/** Runs a test with each version of Express. */
const withEach = (name: string, run: (t: Test) => Promise<unknown>): void => {
  for (const [version, framework] of [
    ['Express 5', express5],
    ['Express 4', express4],
  ] as const)
    t.test(`${version}: ${name}`, (t) => {
      express = framework
      return run(t)
    })
}

/** Makes an application on a store. `/show` shows the session, and the test's handler gets all other paths. */
const appOn = async (t: Test, store: session.Store, handler: RequestHandler, options: Options = {}) => {
  const app = express()
  app.set('env', 'test')
  app.use(session({ store, secret, resave: false, saveUninitialized: false, ...options }))
  app.get('/show', (req, res) => {
    res.json(Object.fromEntries(Object.entries(req.session).filter(([key]) => key !== 'cookie')))
  })
  app.use(handler)
  const served = await listening(createServer(app))
  t.teardown(served.close)
  return served.url
}

const ask = async (url: string, cookie = '') => {
  const response = await fetch(url, { headers: { cookie }, redirect: 'manual' })
  const given = response.headers.getSetCookie()
  return {
    status: response.status,
    body: await response.text(),
    given,
    cookie: given.at(-1)?.split(';')[0] ?? cookie,
  }
}

const values = async (url: string, cookie: string) =>
  JSON.parse((await ask(`${url}/show`, cookie)).body) as Record<string, unknown>

const gate = () => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

/** Makes a handler for two concurrent pages, and for a page that ends after the logout. */
const overlapping = () => {
  const both = gate()
  let inside = 0
  const late = gate()
  const reached = gate()
  const handler: RequestHandler = async (req, res) => {
    if (req.path === '/a' || req.path === '/b') {
      inside += 1
      if (inside === 2) both.open()
      await both.opened
      req.session[req.path.slice(1)] = 1
    }
    if (req.path === '/in') req.session['user'] = 'ada'
    if (req.path === '/slow') {
      reached.open()
      await late.opened
      req.session['seen'] = true
    }
    if (req.path === '/out') {
      req.session.destroy(() => res.send('out'))
      return
    }
    res.send('done')
  }
  const run = async (url: string) => {
    const { cookie } = await ask(`${url}/in`)
    await Promise.all([ask(`${url}/a`, cookie), ask(`${url}/b`, cookie)])
    const kept = Object.keys(await values(url, cookie)).sort()
    const slow = ask(`${url}/slow`, cookie)
    await reached.opened
    await ask(`${url}/out`, cookie)
    late.open()
    const { status } = await slow
    return { kept, status, afterLogout: await values(url, cookie) }
  }
  return { handler, run }
}

withEach('connect-pg-simple loses a key, and brings a session back after the logout', async (t) => {
  const { handler, run } = overlapping()
  const result = await run(await appOn(t, (await theirs()).store, handler))
  t.equal(result.kept.length, 2, 'of three keys')
  t.match(result.afterLogout, { user: 'ada', seen: true })
})

withEach('ours loses no key, and what ends after the logout stores nothing and is no error', async (t) => {
  const { handler, run } = overlapping()
  const result = await run(await appOn(t, ours().store, handler))
  t.strictSame(result, { kept: ['a', 'b', 'user'], status: 200, afterLogout: {} })
})

withEach('100 overlapping requests of one browser keep 100 keys', async (t) => {
  const url = await appOn(t, ours().store, (req, res) => {
    req.session[req.path] = true
    res.send('done')
  })
  const { cookie } = await ask(`${url}/first`)
  await Promise.all(Array.from({ length: 100 }, (_, index) => ask(`${url}/${String(index)}`, cookie)))
  t.equal(Object.keys(await values(url, cookie)).length, 101)
})

t.test('a cookie whose time differs by a step of the clock is not stored again', async (t) => {
  const lifetime = memoryStore().lifetime
  const at = (expires: number) =>
    entriesOf({ cookie: { originalMaxAge: 599_999, expires: new Date(expires) }, n: 1 })
  const stored = at(1_000_000)
  for (const step of [-5, 0, 59_000])
    t.equal(entriesToStore(lifetime, stored, at(1_000_000 + step)).equals(stored), true)
  for (const step of [-1_000, -300_000, 60_000]) {
    const moved = at(1_000_000 + step)
    t.equal(entriesToStore(lifetime, stored, moved), moved)
  }
  const aged = (originalMaxAge: number | null) =>
    entriesOf({ cookie: { originalMaxAge, expires: new Date(1_000_000) }, n: 1 })
  for (const maxAge of [599_998, 599_900, 599_000])
    t.equal(entriesToStore(lifetime, stored, aged(maxAge)).equals(stored), true, String(maxAge))
  for (const maxAge of [598_999, 300_000, 700_000, null]) {
    const changed = aged(maxAge)
    t.equal(entriesToStore(lifetime, stored, changed), changed, String(maxAge))
  }
})

withEach('only what differs is written, and the touch is throttled', async (t) => {
  const { store, statements, schema } = ours({ idleMs: 600_000 })
  const handler: RequestHandler = (req, res) => {
    if (req.path === '/set') req.session['n'] = Number(req.session['n'] ?? 0) + 1
    if (req.path === '/nested') (req.session['cart'] as string[]).push('milk')
    if (req.path === '/first') Object.assign(req.session, { big: 'x'.repeat(1_000), cart: ['tea'] })
    if (req.path === '/del') delete req.session['big']
    res.send('done')
  }
  const url = await appOn(t, store, handler, { cookie: { maxAge: 600_000 } })
  const { cookie } = await ask(`${url}/first`)
  statements()
  await ask(`${url}/look`, cookie)
  t.strictSame(statements(), ['session.load'], 'a look writes nothing')
  await ask(`${url}/set`, cookie)
  t.strictSame(statements(), ['session.load', 'session.save'])
  const revisions = async () =>
    Object.fromEntries(
      (await rowsOf(database, `select key, revision::int as r from ${schema}.entry`)).map((row) => [
        String(row['key']),
        row['r'],
      ]),
    )
  t.strictSame(await revisions(), { big: 1, cart: 1, cookie: 2, n: 2 }, 'and the time that it moves')
  await ask(`${url}/nested`, cookie)
  await ask(`${url}/del`, cookie)
  t.strictSame(await revisions(), { big: 4, cart: 3, cookie: 4, n: 2 })
  t.strictSame(await values(url, cookie), { cart: ['tea', 'milk'], n: 1 })
  statements()
  await age(database, schema, 70_000)
  await ask(`${url}/look`, cookie)
  t.strictSame(statements(), ['session.load', 'session.touch'], 'a tenth of its time is over')
})

withEach('resave and rolling cost no write while nothing is due', async (t) => {
  const { store, statements } = ours()
  const url = await appOn(
    t,
    store,
    (req, res) => {
      req.session['user'] ??= 'ada'
      res.send('done')
    },
    { resave: true, rolling: true, cookie: { maxAge: 3_600_000 } },
  )
  const { cookie } = await ask(`${url}/`)
  statements()
  t.equal((await ask(`${url}/`, cookie)).given.length, 1, 'the browser is given its cookie again')
  t.strictSame(statements(), ['session.load'])
})

withEach("a cookie's options come back, and its maxAge ends the session on the server too", async (t) => {
  const { store, schema } = ours()
  const url = await appOn(
    t,
    store,
    (req, res) => {
      if (req.path === '/remember') req.session.cookie.maxAge = 1_800_000
      const { originalMaxAge, maxAge, sameSite, path } = req.session.cookie
      req.session['seen'] = true
      res.json({ originalMaxAge, expires: typeof maxAge === 'number', sameSite, path })
    },
    { cookie: { sameSite: 'strict' } },
  )
  const first = await ask(`${url}/`)
  t.strictSame(JSON.parse(first.body), {
    originalMaxAge: null,
    sameSite: 'strict',
    path: '/',
    expires: false,
  })
  const remembered = await ask(`${url}/remember`, first.cookie)
  t.strictSame(JSON.parse(remembered.body), {
    originalMaxAge: 1_800_000,
    expires: true,
    sameSite: 'strict',
    path: '/',
  })
  t.match((await ask(`${url}/`, first.cookie)).body, '"originalMaxAge":1800000')
  const past = JSON.stringify(new Date(Date.now() - 1_000))
  await rowsOf(
    database,
    `update ${schema}.entry set value = jsonb_set(value, '{expires}', '${past}') where key = 'cookie'`,
  )
  t.strictSame(await values(url, first.cookie), {}, 'the browser has forgotten it')
})

withEach('values are what JSON makes of them, as users of express-session know them', async (t) => {
  const failed: unknown[] = []
  const url = await appOn(t, ours().store, (req, res, next) => {
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    if (req.path === '/set')
      Object.assign(req.session, {
        date: new Date(0),
        gone: undefined,
        own: { toJSON: () => 'told' },
        nested: JSON.parse('{"__proto__":{"polluted":true},"a":[1,null]}') as unknown,
        map: new Map([['a', 1]]),
      })
    if (req.path === '/proto')
      Object.defineProperty(req.session, '__proto__', { value: { polluted: true }, enumerable: true })
    if (req.path === '/zero') req.session['text'] = 'a\u0000b'
    if (req.path === '/reserved') req.session['keyrow:principal'] = 'root'
    if (req.path === '/circular') {
      store.set('some sid', { cookie: req.session.cookie, circular }, (error: unknown) => {
        failed.push(error)
        res.send('done')
      })
      return
    }
    req.session.save((error: unknown) => {
      if (error === undefined) res.send('done')
      else next(Object.assign(error as Error, { status: 400 }))
    })
  })
  const { store } = ours()
  const { cookie } = await ask(`${url}/set`)
  const held = await values(url, cookie)
  t.strictSame(
    { ...held, nested: JSON.stringify(held['nested']) },
    {
      date: '1970-01-01T00:00:00.000Z',
      own: 'told',
      nested: '{"a":[1,null],"__proto__":{"polluted":true}}',
      map: {},
    },
  )
  t.equal(({} as Record<string, unknown>)['polluted'], undefined)
  t.equal((await ask(`${url}/proto`, cookie)).status, 200)
  t.strictSame(await values(url, cookie), held)
  t.equal((await ask(`${url}/zero`, cookie)).status, 400)
  t.equal((await ask(`${url}/reserved`, cookie)).status, 400)
  await ask(`${url}/circular`, cookie)
  t.match(failed, [TypeError])
  t.strictSame(await values(url, cookie), held)
})

withEach('regenerate, reload and save are what they were', async (t) => {
  const { store, keyrow, schema } = ours()
  const url = await appOn(t, store, async (req, res) => {
    const done = (error: unknown) =>
      error === null || error === undefined ? res.send('done') : res.status(500).send('failed')
    if (req.path === '/in')
      req.session.regenerate((error) => {
        req.session['user'] = 'ada'
        done(error)
      })
    else if (req.path === '/reload') {
      req.session['lost'] = true
      req.session.reload((error) => {
        req.session['kept'] = true
        done(error)
      })
    } else if (req.path === '/twice') {
      req.session['one'] = 1
      req.session.save(() => {
        req.session['two'] = 2
        done(undefined)
      })
      req.session.save()
    } else {
      req.session['visitor'] = true
      done(undefined)
    }
  })
  const visitor = await ask(`${url}/`)
  const signedIn = await ask(`${url}/in`, visitor.cookie)
  t.not(signedIn.cookie, visitor.cookie)
  t.strictSame(await values(url, visitor.cookie), {}, 'the old one is dead')
  t.strictSame(await values(url, signedIn.cookie), { user: 'ada' })
  await ask(`${url}/reload`, signedIn.cookie)
  t.strictSame(await values(url, signedIn.cookie), { user: 'ada', kept: true })
  await ask(`${url}/twice`, signedIn.cookie)
  t.strictSame(await values(url, signedIn.cookie), { user: 'ada', kept: true, one: 1, two: 2 })
  const fresh = await ask(`${url}/twice`)
  t.strictSame(await values(url, fresh.cookie), { one: 1, two: 2 }, 'a new one that is saved twice at once')

  const sid = decodeURIComponent(fresh.cookie).replace(/^connect[.]sid=s:([^.]+).*$/, '$1')
  const stored = JSON.stringify(
    await rowsOf(
      database,
      `select s.id::text, encode(s.secret_hash, 'hex') as hash, e.key, e.value::text from ${schema}.session s
       join ${schema}.entry e on e.session_id = s.id`,
    ),
  )
  t.ok(stored.length > 100 && sid.length > 20 && !stored.includes(sid), 'the database is not told the sid')
  await right(keyrow.prepare)
})

withEach(
  'a sign-in by regenerate, save and redirect, under `resave` and `rolling` and 20 requests at once',
  async (t) => {
    const { store } = ours()
    const url = await appOn(
      t,
      store,
      (req, res, next) => {
        const data = req.session
        data['csrfSecret'] ??= 'made once'
        if (req.path === '/in') {
          const kept = data['csrfSecret']
          data.regenerate((failed: unknown) => {
            if (failed) next(failed)
            Object.assign(req.session, {
              csrfSecret: kept,
              passport: { user: 'ada' },
              flash: { info: ['welcome'] },
            })
            req.session.save((unsaved: unknown) => (unsaved ? next(unsaved) : res.redirect('/show')))
          })
        } else if (req.path === '/out') data.destroy(() => res.send('out'))
        else {
          if (req.path === '/shown') data['flash'] = {}
          else data[req.path] = true
          res.send('done')
        }
      },
      { resave: true, saveUninitialized: true, rolling: true, cookie: { maxAge: 3_600_000 } },
    )
    const visitor = await ask(`${url}/visit`)
    const signedIn = await ask(`${url}/in`, visitor.cookie)
    t.equal(signedIn.status, 302)
    t.not(signedIn.cookie, visitor.cookie)
    t.match(await values(url, signedIn.cookie), { passport: { user: 'ada' }, flash: { info: ['welcome'] } })
    const pages = Array.from({ length: 20 }, (_, n) => (n === 10 ? '/shown' : `/page${String(n)}`))
    const answers = await Promise.all(pages.map((page) => ask(url + page, signedIn.cookie)))
    t.strictSame(
      new Set(answers.map(({ status, cookie }) => `${String(status)} ${cookie}`)),
      new Set([`200 ${signedIn.cookie}`]),
    )
    const held = await values(url, signedIn.cookie)
    t.match(held, { passport: { user: 'ada' }, csrfSecret: 'made once', flash: {} })
    t.strictSame([Object.keys(held).length, held['flash']], [3 + 19, {}])
    await Promise.all([...pages, '/out'].map((page) => ask(url + page, signedIn.cookie)))
    const after = await values(url, signedIn.cookie)
    t.equal(after['passport'], undefined, 'signed out for good')
  },
)

withEach('all, length and clear', async (t) => {
  const { store } = ours()
  const call = <A>(name: 'all' | 'length' | 'clear', from: session.Store = store) =>
    new Promise<A>((resolve, reject) => {
      from[name]?.((error: unknown, result?: unknown) => {
        if (error === null || error === undefined) resolve(result as A)
        else reject(error instanceof Error ? error : new Error('refused', { cause: error }))
      })
    })
  const url = await appOn(t, store, (req, res) => {
    req.session['n'] = req.path
    res.send('done')
  })
  const { cookie } = await ask(`${url}/1`)
  await ask(`${url}/2`)
  t.equal(await call('length'), 2)
  t.match(new Set((await call<{ n: string }[]>('all')).map(({ n }) => n)), new Set(['/1', '/2']))
  await call('clear')
  t.equal(await call('length'), 0)
  t.strictSame(await values(url, cookie), {})
  await t.rejects(call('length', expressSessionStore(memoryStore())), TypeError)
})

t.test(
  'used by itself, as its contract says: an object that is not ours replaces what is there',
  async (t) => {
    const { store } = ours()
    const cookie = Object.assign(new session.Cookie(), { httpOnly: undefined, path: undefined })
    const set = (sid: string, data: Record<string, unknown>) =>
      new Promise<void>((resolve, reject) => {
        store.set(sid, { cookie, ...data }, (error: unknown) =>
          error === undefined ? resolve() : reject(new Error('not set', { cause: error })),
        )
      })
    const get = (sid: string) =>
      new Promise<Record<string, unknown> | undefined>((resolve, reject) => {
        store.get(sid, (error, data) => {
          if (error !== null && error !== undefined) reject(new Error('not got', { cause: error }))
          else
            resolve(
              data === undefined || data === null ? undefined : (JSON.parse(JSON.stringify(data)) as never),
            )
        })
      })
    const destroy = (sid: string) => new Promise<void>((resolve) => store.destroy(sid, () => resolve()))
    await set('a', { x: 1, y: 1 })
    await set('a', { y: 2 })
    t.match(await get('a'), { cookie: { originalMaxAge: null }, x: undefined, y: 2 })
    await destroy('a')
    await set('a', { z: 1 })
    t.equal(await get('a'), undefined, 'not one that was destroyed')
    await new Promise<void>((resolve) => store.touch?.('b', { cookie }, resolve))
    t.equal(await get('b'), undefined, 'a touch makes nothing')
  },
)

t.test('what one object saves is stored in the order of its saves, however slow the store is', async (t) => {
  const memory = memoryStore()
  const { opened, open } = gate()
  const store = expressSessionStore({
    ...memory,
    save:
      (...all) =>
      () =>
        opened.then(() => memory.save(...all)()),
  })
  const set = (data: session.SessionData) =>
    new Promise<void>((resolve, reject) => {
      store.set('a', data, (error: unknown) =>
        error === undefined ? resolve() : reject(new Error('not set', { cause: error })),
      )
    })
  const get = () =>
    new Promise<session.SessionData>((resolve) => {
      store.get('a', (_error, data) => resolve(data ?? { cookie: new session.Cookie() }))
    })
  await set({ cookie: new session.Cookie(), x: 0 })
  const data = await get()
  data['x'] = 1
  const first = set(data)
  data['x'] = 0
  const second = set(data)
  open()
  await Promise.all([first, second])
  t.equal((await get())['x'], 0)
})

withEach('a store that is down is an error, for the error handler', async (t) => {
  const memory = memoryStore()
  const down = () => async () =>
    Promise.resolve({ _tag: 'Left' as const, left: new DriverError('down', { retryable: true }) })
  let isDown = false
  const store = expressSessionStore({
    ...memory,
    load: (...all) => (isDown ? down() : memory.load(...all)),
  })
  const url = await appOn(t, store, (req, res) => {
    req.session['a'] = 1
    res.send('done')
  })
  const { cookie } = await ask(`${url}/`)
  isDown = true
  t.equal((await ask(`${url}/`, cookie)).status, 503)
})

for (const { version, fastify, fastifyCookie, fastifySession } of [
  { version: 5, fastify: fastify5, fastifyCookie: fastify5Cookie, fastifySession: fastify5Session },
  {
    version: 4,
    fastify: fastify4 as never,
    fastifyCookie: fastify4Cookie as never,
    fastifySession: fastify4Session,
  },
] satisfies readonly Fastify[] as readonly Fastify[])
  t.test(`@fastify/session of Fastify ${String(version)}`, async (t) => {
    const { store, statements } = ours()
    const app = fastify()
    t.teardown(() => app.close())
    await app.register(fastifyCookie)
    await app.register(fastifySession, {
      secret,
      store: store as never,
      saveUninitialized: false,
      cookie: { secure: false, maxAge: 3_600_000 },
    })
    const both = gate()
    const late = gate()
    const reached = gate()
    let inside = 0
    app.get('/*', async (request) => {
      const data = request.session as unknown as Record<string, unknown>
      const path = request.url
      if (path === '/show') return { ...data, cookie: undefined, 'keyrow:known': undefined }
      if (path === '/a' || path === '/b') {
        inside += 1
        if (inside === 2) both.open()
        await both.opened
      }
      if (path === '/slow') {
        reached.open()
        await late.opened
      }
      if (path === '/out') {
        await request.session.destroy()
        return 'out'
      }
      // The types of `regenerate` with names do not declare the promise.
      const regenerate = request.session.regenerate.bind(request.session) as (
        names: string[],
      ) => Promise<void>
      if (path === '/again') await regenerate(['user'])
      else if (path !== '/look') data[path.slice(1)] = 1
      if (path === '/twice') {
        await request.session.save()
        data['more'] = 1
      }
      return 'done'
    })
    const url = (await app.listen({ port: 0, host: '127.0.0.1' })).replace(/\/$/, '')
    const { cookie } = await ask(`${url}/user`)
    await Promise.all([ask(`${url}/a`, cookie), ask(`${url}/b`, cookie)])
    t.strictSame(await values(url, cookie), { user: 1, a: 1, b: 1 })
    await ask(`${url}/twice`, cookie)
    t.strictSame(await values(url, cookie), { user: 1, a: 1, b: 1, twice: 1, more: 1 })
    statements()
    await ask(`${url}/look`, cookie)
    t.strictSame(statements(), ['session.load'], 'it saves each time, and nothing is written')
    const again = await ask(`${url}/again`, cookie)
    t.strictSame(await values(url, again.cookie), { user: 1 })
    // `regenerate` of Fastify 4 makes a new session, and does not change the old session.
    t.equal(Object.keys(await values(url, cookie)).length, version === 4 ? 5 : 0)
    const slow = ask(`${url}/slow`, again.cookie)
    await reached.opened
    await ask(`${url}/out`, again.cookie)
    late.open()
    t.equal((await slow).status, 200)
    t.strictSame(await values(url, again.cookie), {}, 'nothing comes back after the logout')
  })

withEach('moving over from connect-pg-simple, live', async (t) => {
  const { store: oldStore, schema: oldSchema } = await theirs()
  const { database: counted, events } = counting(database)
  const schema = freshSchema()
  const keyrow = sessionStore(counted, { schema, idleMs: 3_600_000 })
  const from = connectPgSimple(counted, { schemaName: oldSchema })
  const newStore = expressSessionStore(keyrow, { database: counted, schema, migrateFrom: from })
  const handler: RequestHandler = (req, res) => {
    if (req.path === '/out') {
      req.session.destroy(() => res.send('out'))
      return
    }
    if (req.path !== '/look') req.session['user'] ??= req.path
    res.send('done')
  }
  const oldApp = await appOn(t, oldStore, handler)
  const newApp = await appOn(t, newStore, handler)
  const people = await Promise.all(Array.from({ length: 25 }, (_, n) => ask(`${oldApp}/user${String(n)}`)))
  await rowsOf(
    database,
    `insert into ${oldSchema}.session (sid, sess, expire)
     values ('dead', '{"cookie":{},"user":"dead"}', now() - interval '1 hour'),
            ('zero', '{"cookie":{},"text":"a\\u0000b"}', now() + interval '1 hour')`,
  )
  const early = people[0]?.cookie ?? ''
  t.strictSame(await values(newApp, early), { user: '/user0' }, 'found before anything was copied')
  const gone = people[1]?.cookie ?? ''
  await ask(`${newApp}/out`, gone)
  t.strictSame(await values(oldApp, gone), {}, 'signed out in both')

  const batches: number[] = []
  const moved = await migrateSessions(keyrow, from, {
    batchSize: 10,
    onBatch: (soFar) => batches.push(soFar.migrated),
  })
  t.strictSame(moved, { migrated: 23, present: 1, rejected: 1, finished: true })
  t.equal(batches.length, 3)
  t.match(await migrateSessions(keyrow, from), { migrated: 0, present: 24 })
  for (const [n, { cookie }] of people.entries())
    t.strictSame(await values(newApp, cookie), n === 1 ? {} : { user: `/user${String(n)}` })
  t.strictSame(await values(oldApp, early), { user: '/user0' }, 'nobody is signed out of the old one either')

  const late = await ask(`${oldApp}/late`)
  t.strictSame(await values(newApp, late.cookie), { user: '/late' }, 'made by an old process meanwhile')

  t.test('what was only touched since it was written is alive by its row', async (t) => {
    const past = new Date(Date.now() - 60_000).toISOString()
    const cookie = JSON.stringify({ originalMaxAge: 3_600_000, expires: past })
    await rowsOf(
      database,
      `insert into ${oldSchema}.session (sid, sess, expire)
       values ('touched', '{"cookie":${cookie},"user":"bob"}', now() + interval '50 minutes'),
              ('endless', '{"cookie":${cookie},"user":"eve"}', 'infinity')`,
    )
    const get = (sid: string) =>
      new Promise((resolve) => {
        newStore.get(sid, (_error, data) => resolve(data))
      })
    t.match(await get('touched'), { user: 'bob', cookie: { originalMaxAge: 3_600_000 } })
    t.match(await migrateSessions(keyrow, from), { migrated: 1, finished: true })
    t.match(await get('endless'), { user: 'eve' })
  })

  t.test('what was destroyed while it was read is not brought back', async (t) => {
    const { cookie } = await ask(`${oldApp}/torn`)
    const torn: typeof from = {
      ...from,
      after: (sid, limit) => async () => {
        const read = await from.after(sid, limit)()
        await ask(`${newApp}/out`, cookie)
        return read
      },
    }
    t.match(await migrateSessions(keyrow, torn, { batchSize: 1_000 }), { migrated: 0 })
    t.strictSame(await values(newApp, cookie), {})
  })

  t.test('what has expired here is not taken over again', async (t) => {
    const cookie = people[2]?.cookie ?? ''
    t.strictSame(await values(newApp, cookie), { user: '/user2' })
    await age(database, schema, 3_600_001)
    await rowsOf(database, `update ${oldSchema}.session set expire = expire - interval '3600.001 seconds'`)
    await right(keyrow.deleteExpired(1_000))
    events.splice(0)
    t.strictSame(await values(newApp, cookie), {})
    t.ok(
      events.some(({ query }) => query.name === 'old.find'),
      'it was looked for',
    )
    t.match(await migrateSessions(keyrow, from), { migrated: 1 }, 'the one that an old process went on using')
  })

  t.test('clear ends what was not taken over yet, too', async (t) => {
    const { cookie } = await ask(`${oldApp}/cleared`)
    await new Promise((resolve) => newStore.clear?.(resolve))
    t.strictSame(await values(newApp, cookie), {})
    t.strictSame(await values(oldApp, cookie), {})
    t.match(await migrateSessions(keyrow, from), { migrated: 0, present: 0 })
  })
})
