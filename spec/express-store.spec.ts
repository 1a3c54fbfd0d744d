// Compares keyrow's store for express-session with express-session's MemoryStore and with connect-pg-simple.

import t from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { expressSessionStore } from '../lib/express-session/index.js'
import { sessionStore } from '../lib/sql/store.js'
import type { Lifetime, SessionStore } from '../lib/store/contract.js'
import { counting, quietPools, rowsOf } from './support/databases.js'
import { cookieFor, movableClock, promised } from './support/express-stores.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema } from './support/stores.js'

const HOUR = 3_600_000

interface Stored {
  readonly cookie: { readonly expires: string }
}

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

const ours = (
  lifetime: Partial<Lifetime> = {},
  layered: (store: SessionStore) => SessionStore = (store) => store,
) => {
  const schema = freshSchema()
  const { database: counted, events } = counting(database)
  const keyrow = layered(sessionStore(counted, { schema, idleMs: 100 * HOUR, ...lifetime }))
  const statements = () => events.splice(0).map(({ query }) => query.name)
  return {
    ...promised(expressSessionStore(keyrow, { database: counted, schema })),
    schema,
    statements,
    restarted: () => promised(expressSessionStore(keyrow, { database: counted, schema })),
  }
}

for (const [what, step] of [
  ['touched', 'touch'],
  ['saved', 'set'],
] as const)
  t.test(
    `one req.session that is ${what} in small steps lives on, and few of them are written`,
    async (t) => {
      const { elapse, restore } = movableClock()
      t.teardown(restore)
      const store = ours()
      await store.set('a', { cookie: cookieFor(HOUR), n: 1 })
      const data = await store.request('a')
      if (data === undefined) throw new Error('not found')
      store.statements()
      for (let minute = 0; minute < 600; minute += 2) {
        elapse(120_000)
        data.touch()
        await store[step]('a', data)
        if (minute % 50 === 0)
          t.match(await store.restarted().get('a'), { n: 1 }, `after ${String(minute)} minutes`)
      }
      const written = store.statements().filter((name) => name === 'session.save')
      t.equal(written.length, 100, 'each third step is a tenth of an hour')
    },
  )

t.test('an object that was stored twice, and a copy of it, are compared with what was stored', async (t) => {
  const { elapse, restore } = movableClock()
  t.teardown(restore)
  const store = ours()
  const made = { cookie: cookieFor(HOUR), n: 1 }
  await store.set('a', made)
  for (let step = 0; step < 40; step += 1) {
    elapse(120_000)
    made.cookie.maxAge = HOUR
    await store.set('a', made)
  }
  t.match(await store.get('a'), { n: 1 }, 'the object that made the session')
  for (let step = 0; step < 40; step += 1) {
    elapse(120_000)
    await store.touch('a', { cookie: cookieFor(HOUR) })
  }
  t.match(await store.get('a'), { n: 1 }, 'an object that is not ours')
})

t.test(
  'the end of the row is moved by small steps too, where the cookie has no time of its own',
  async (t) => {
    const { elapse, restore } = movableClock()
    t.teardown(restore)
    const store = ours({ idleMs: HOUR })
    await store.set('a', { cookie: cookieFor(), n: 1 })
    const data = await store.request('a')
    if (data === undefined) throw new Error('not found')
    store.statements()
    for (let minute = 0; minute < 300; minute += 1) {
      elapse(60_000)
      await age(database, store.schema, 60_000)
      if (minute % 2 === 0) await store.touch('a', data)
      else await store.set('a', data)
    }
    t.match(await store.get('a'), { n: 1 })
    const asked = store.statements().filter((name) => name !== 'session.load')
    t.strictSame(
      [asked.length, new Set(asked)],
      [100, new Set(['session.refresh'])],
      'each twentieth of an hour',
    )
  },
)

t.test(
  'a save that stores something moves the end by any step, one that stores nothing does not',
  async (t) => {
    const { elapse, restore } = movableClock()
    t.teardown(restore)
    const store = ours()
    await store.set('a', { cookie: cookieFor(HOUR), n: 1 })
    const data = await store.request('a')
    if (data === undefined) throw new Error('not found')
    const end = async () => (JSON.parse(JSON.stringify(await store.get('a'))) as Stored).cookie.expires
    const before = await end()
    elapse(60_000)
    data.touch()
    await store.set('a', data)
    t.equal(await end(), before)
    data['n'] = 2
    await store.set('a', data)
    t.equal(Date.parse(await end()) - Date.parse(before), 60_000)
  },
)

t.test('after a save whose outcome is not known, what the object holds is stored in the end', async (t) => {
  let isLost = false
  const lost = { _tag: 'Left' as const, left: new DriverError('the answer was lost', { retryable: true }) }
  const store = ours({}, (inner) => ({
    ...inner,
    save:
      (...all) =>
      async () => {
        const saved = await inner.save(...all)()
        return isLost ? lost : saved
      },
  }))
  await store.set('a', { cookie: cookieFor(), x: 0, kept: 1 })
  const data = await store.request('a')
  if (data === undefined) throw new Error('not found')
  isLost = true
  Object.assign(data, { x: 1, y: 1 })
  await t.rejects(store.set('a', data), DriverError)
  isLost = false
  data['x'] = 0
  delete data['y']
  const other = await store.request('a')
  await store.set('a', Object.assign(other ?? {}, { kept: 2, other: 1 }))
  await store.set('a', data)
  t.strictSame(
    Object.assign((await store.get('a')) ?? {}, { cookie: undefined, 'keyrow:known': undefined }),
    { cookie: undefined, 'keyrow:known': undefined, x: 0, kept: 2, other: 1 },
  )
})

t.test('all and length have what get has: not what its cookie has ended; clear ends these too', async (t) => {
  const { elapse, restore } = movableClock()
  t.teardown(restore)
  const store = ours()
  const texts = [
    'Thu, 01 Jan 2026 00:00:00 GMT',
    '2026-13-99T00:00:00.000Z',
    '+020000-01-01T00:00:00.000Z',
    'never',
    '',
  ]
  const times = [...texts, Date.now() - 1, Date.now() + 2 * HOUR, 0, null, true, {}, Number.MAX_VALUE]
  const cookies: unknown[] = times.map((expires) => ({ originalMaxAge: null, expires }))
  cookies.push(cookieFor(), cookieFor(HOUR), cookieFor(3 * HOUR), 'no cookie', [], null, 1)
  for (const [n, cookie] of cookies.entries()) await store.set(String(n), { cookie, n })
  const alive = async () => {
    const found = await Promise.all(cookies.map((_, n) => store.get(String(n))))
    return found.flatMap((data) => (data === undefined || data === null ? [] : [data['n'] as number]))
  }
  const listed = async () => ((await store.all()).map(({ n }) => n) as number[]).sort((a, b) => a - b)
  const first = await alive()
  t.strictSame(
    [first.length, await listed(), await store.length()],
    [cookies.length - 2, first, first.length],
  )
  elapse(HOUR)
  const second = await alive()
  t.strictSame(
    [second.length, await listed(), await store.length()],
    [first.length - 1, second, second.length],
  )
  elapse(HOUR)
  t.equal((await alive()).length, second.length - 1)
  await store.clear()
  t.strictSame(await rowsOf(database, `select id from ${store.schema}.session`), [])
  t.equal(await store.length(), 0)
})

t.test('a touch moves the end of no session that has ended by its cookie', async (t) => {
  const { elapse, restore } = movableClock()
  t.teardown(restore)
  const store = ours()
  await store.set('a', { cookie: cookieFor(HOUR), n: 1 })
  const late = await store.request('a')
  const other = await store.request('a')
  if (late === undefined || other === undefined) throw new Error('not found')
  elapse(HOUR / 2)
  other.touch()
  await store.touch('a', other)
  elapse(HOUR / 2)
  late.touch()
  await store.touch('a', late)
  t.match(await store.get('a'), { n: 1 }, 'another request had moved it on')
  elapse(HOUR)
  await store.touch('a', { cookie: cookieFor(HOUR) })
  late.touch()
  await store.touch('a', late)
  t.equal(await store.get('a'), undefined)
})
