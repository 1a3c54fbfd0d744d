// Tests the layer `writeThrough`: that a cold load reads only what has changed since the copy, and that a cache can neither
// change a result nor keep a session alive. Real caches are in slow/caches.spec.ts.

import { randomBytes } from 'node:crypto'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { copiesWith } from '../lib/cache/sealed.js'
import { type WriteThroughOptions, writeThrough } from '../lib/cache/write-through.js'
import type { Json } from '../lib/core/json.js'
import { transact } from '../lib/db/database.js'
import { pgDatabase } from '../lib/db/pg.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  onSessionEvent,
  rotateSession,
  type Session,
  saveSession,
  sessionDel,
  sessionRef,
  sessionSet,
  sessionToken,
  signIn,
  withSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import type { SessionStore } from '../lib/store/contract.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { changeOf, snapshotOf } from '../lib/testing/subject.js'
import { counting, pgPool, rowsOf } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { fast, freshSchema, openIn, openMemory } from './support/stores.js'
import { type Tamper, type TestCache, testCache } from './support/test-cache.js'

const server = await newDatabase()
const inner = pgDatabase(pgPool(server.url, { max: 4 }))
t.teardown(async () => {
  await inner.close()
  await server.stop()
})

const secrets = [randomBytes(32)]
const text = (bytes: number): string => randomBytes(bytes).toString('base64').slice(0, bytes)

const withCache =
  (cache = testCache(), options: Partial<WriteThroughOptions> = {}) =>
  (store: SessionStore): SessionStore =>
    writeThrough(store, cache, { secrets, minBytes: 0, ...options })

/** Opens two stores of one schema and one cache, such as two processes have. */
const open = (options: Partial<WriteThroughOptions> = {}, cache = testCache()) => {
  const { database, events } = counting(inner)
  const schema = freshSchema()
  const plain = sessionStore(database, { schema })
  const layer = withCache(cache, options)
  /** Returns the entries that the last statement returned, as JSON. */
  const lastRead = (): unknown => events.splice(0).at(-1)?.rows?.[0]?.['entries']
  /** Returns the store of a process that knows nothing. */
  const cold = (): SessionStore => layer(plain)
  return { cache, schema, plain, store: cold(), cold, other: layer(fast(plain)), events, lastRead }
}

const again = async (session: Session, store: SessionStore): Promise<Session> =>
  (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('it is not there'))

/** Waits until the copies are written, which takes two turns of the event loop for each copy. */
const written = async (): Promise<void> => {
  for (let turn = 0; turn < 300; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

const large = async (store: SessionStore, keys = 20): Promise<Session> => {
  const session = Array.from({ length: keys }, (_, index) => sessionSet(`key ${String(index)}`, text(100)))
  const saved = await saveSession(session.reduce((value, edit) => edit(value), buildSession(store)))
  await written()
  return saved
}

/** A cache that returns wrong values at random: none, broken ones, those of other sessions, and old ones. */
const lyingCache = (): TestCache => {
  const cache = testCache()
  const all: [string, Uint8Array][] = []
  const pick = (): Uint8Array | undefined => all[Math.floor(Math.random() * all.length)]?.[1]
  const old = (key: string) => all.find(([own]) => own === key)?.[1]
  const broken = (value: Uint8Array | undefined) => {
    if (value === undefined) return undefined
    const copy = Uint8Array.from(value)
    const at = Math.floor(Math.random() * copy.length)
    copy[at] = (copy[at] ?? 0) ^ (1 << Math.floor(Math.random() * 8))
    return copy
  }
  const lies: readonly Tamper[] = [
    (_, value) => value,
    (_, value) => broken(value),
    (_, value) => value?.subarray(0, Math.floor(Math.random() * value.length)),
    () => pick(),
    (key) => old(key),
    () => undefined,
    () => 'fail',
    () => 'wait',
  ]
  cache.tamper = (key, value) => {
    if (value !== undefined) all.push([key, value])
    if (all.length > 500) all.splice(0, 250)
    return (lies[Math.floor(Math.random() * lies.length)] as Tamper)(key, value)
  }
  return cache
}

const caches = { '': testCache, ', with a cache that lies': lyingCache }

for (const [name, make] of Object.entries(caches)) {
  const layer = withCache(make())
  for (const law of sessionStoreLaws(openIn(inner, undefined, {}, layer)))
    t.test(`${law.name} (write-through${name})`, law.run)
  for (const law of sessionStoreLaws(openIn(inner, undefined, {}, (store) => layer(fast(store)))))
    t.test(`${law.name} (write-through, batched, cached${name})`, law.run)
  const inMemory = async (lifetime: Parameters<typeof openMemory>[0]) => {
    const subject = await openMemory(lifetime)
    return { ...subject, store: layer(subject.store) }
  }
  for (const law of sessionStoreLaws(inMemory))
    t.test(`${law.name} (in memory, write-through${name})`, law.run)
}

t.test(
  'law 3: a load by a process that knows nothing reads only what has changed since the copy',
  async (t) => {
    const { store, cold, other, plain, lastRead } = open()
    const session = await large(store)
    for (const reader of [cold(), other]) {
      const loaded = await again(session, reader)
      t.equal(lastRead(), null, 'no entry')
      t.strictSame(loaded.store.toJS(), session.store.toJS())
    }
    await saveSession(sessionSet('key 3', 'new')(sessionDel('key 4')(await again(session, plain))))
    const loaded = await again(session, cold())
    t.strictSame(JSON.parse(String(lastRead())), { 'key 3': ['new'], 'key 4': [] })
    t.strictSame([loaded.store.size, sessionRef('key 3')(loaded)], [19, 'new'])
  },
)

t.test(
  'cold loads share a statement, and a load of a session that is known does not wait for the cache',
  async (t) => {
    const { cache, store, other, events } = open()
    const [known, ...sessions] = await Promise.all(Array.from({ length: 9 }, () => large(store)))
    await again(known as Session, other)
    events.splice(0)
    const loaded = await Promise.all(sessions.map((session) => again(session, other)))
    t.strictSame(
      loaded.map(({ store }) => store.toJS()),
      sessions.map(({ store }) => store.toJS()),
    )
    t.strictSame(
      events.map(({ query, rows }) => [query.name, rows?.map(({ entries }) => entries)]),
      [['batch.load', sessions.map(() => null)]],
    )
    const late = await large(store)
    let hasWaited = false
    cache.tamper = () => 'wait'
    const cold = again(late, other).then(() => {
      hasWaited = true
    })
    await again(known as Session, other)
    t.notOk(hasWaited)
    await cold
  },
)

t.test('a process that knows the session, or wants some of its keys, does not ask the cache', async (t) => {
  const { cache, store, other } = open()
  const session = await large(store)
  await again(session, other)
  cache.commands.splice(0)
  await again(session, other)
  await loadSession(store, sessionToken(session), { keys: ['key 1'] })
  t.strictSame(cache.commands, [])
})

t.test(
  'a copy is written at the creation, after every sixteenth save, and after a load that lacked it',
  async (t) => {
    const { cache, store, cold, plain } = open()
    let session = await large(store)
    const writes = () => cache.commands.splice(0).filter((command) => command.startsWith('set')).length
    t.equal(writes(), 1)
    for (let save = 0; save < 33; save += 1) session = await saveSession(sessionSet('n', save)(session))
    await written()
    t.equal(writes(), 2)
    await again(session, cold())
    await written()
    t.equal(writes(), 0, 'two saves are read beside the copy')
    for (let save = 0; save < 20; save += 1)
      session = await saveSession(sessionSet('n', -save)(await again(session, plain)))
    await again(session, cold())
    await written()
    t.equal(writes(), 1, 'another process saved the session without a copy')
    cache.values.clear()
    await again(session, cold())
    await written()
    t.equal(writes(), 1, 'the cache lost the copy')
  },
)

t.test('small sessions, too large ones and partially loaded ones get no copy', async (t) => {
  const { store, cache } = open({ minBytes: 3_000 }, testCache(10_000))
  for (const [keys, copies] of [
    [20, 0],
    [40, 1],
    [200, 0],
  ] as const) {
    await large(store, keys)
    t.equal(cache.values.size, copies, String(keys))
    cache.values.clear()
  }
  const { store: any, plain, cache: second } = open()
  const session = await large(plain)
  const some = await loadSession(any, sessionToken(session), { keys: ['key 1'] })
  await saveSession(sessionSet('n', 1)(some as Session))
  await written()
  t.equal(second.values.size, 0)
})

t.test(
  'law 6, law 12: an ended session is gone, and so is an old secret, whatever the cache returns',
  async (t) => {
    const ends: Readonly<
      Record<string, (session: Session, store: SessionStore, schema: string) => Promise<unknown>>
    > = {
      destroySession: (session) => destroySession(session),
      destroySessionsOf: (_, store) => destroySessionsOf(store, 'ada'),
      rotateSession: (session) => rotateSession(session),
      expiry: (_, __, schema) => rowsOf(inner, `update ${schema}.session set expires_at = now()`),
    }
    for (const [name, end] of Object.entries(ends)) {
      const { store, cold, other, cache, schema } = open()
      const session = await withSession(await large(store), async () => {
        const signed = await signIn('ada')
        return signed
      })
      await written()
      const copies = new Map(cache.values)
      t.not(copies.size, 0)
      await again(session, other)
      await end(session, store, schema)
      for (const [key, value] of copies) cache.values.set(key, value)
      for (const reader of [cold(), other])
        t.equal(await loadSession(reader, sessionToken(session)), undefined, name)
    }
  },
)

t.test('the end of a session removes its copy, and a copy that waits is not written', async (t) => {
  const { store, cache } = open()
  const one = await large(store)
  await destroySession(one)
  t.equal(cache.values.size, 0)
  const two = await saveSession(sessionSet('n', 1)(buildSession(store)))
  await destroySession(two)
  await written()
  t.equal(cache.values.size, 0)
})

t.test('a copy from before a restore of the database is of another history, and is not used', async (t) => {
  const { store, cold, plain, schema, cache } = open()
  let session = await large(store)
  const backup = async () => {
    for (const table of ['session', 'entry'])
      await rowsOf(inner, `create table ${schema}.backup_${table} as select * from ${schema}.${table}`)
  }
  const restore = async () => {
    await rowsOf(inner, `delete from ${schema}.entry`)
    for (const table of ['session', 'entry']) {
      if (table === 'session') await rowsOf(inner, `delete from ${schema}.session`)
      await rowsOf(inner, `insert into ${schema}.${table} select * from ${schema}.backup_${table}`)
    }
  }
  await backup()
  for (let save = 0; save < 16; save += 1)
    session = await saveSession(sessionSet(`key ${String(save)}`, 'lost')(session))
  await written()
  await restore()
  for (let save = 0; save < 18; save += 1) {
    const loaded = await again(session, cold())
    t.notOk(loaded.store.includes('lost'), `${String(save)} saves after the restore`)
    const truth = await again(session, plain)
    t.strictSame(
      [loaded.store.toJS(), snapshotOf(loaded).revision],
      [truth.store.toJS(), snapshotOf(truth).revision],
    )
    await saveSession(sessionSet('n', save)(truth))
  }
  t.ok(cache.commands.length > 0)
})

t.test('what a transaction rolls back never reaches the cache', async (t) => {
  const { store, cache, plain } = open()
  const session = await large(store)
  cache.values.clear()
  await transact(inner, (tx) => {
    const inside = store.using?.(tx) as SessionStore
    const saves = Array.from({ length: 20 }, (_, n) =>
      inside.save(session.id, changeOf(session, sessionSet('n', n)(session).edits)),
    )
    return TE.chainW(() => TE.left('rolled back'))(TE.sequenceSeqArray(saves))
  })()
  await written()
  t.equal(cache.values.size, 0)
  t.equal(sessionRef('n', 'none')(await again(session, plain)), 'none')
})

t.test('a copy opens with any of the secrets, and is written with the first one', async (t) => {
  const [old, next] = [randomBytes(32), randomBytes(32)]
  const { plain } = open()
  const session = await large(plain)
  const copy = copiesWith([old]).encode(session.id, snapshotOf(session))
  const opens = (...all: readonly Uint8Array[]) => copiesWith(all).decode(session.id, copy)._tag
  t.strictSame(
    [opens(old), opens(old, next), opens(next, old), opens(next)],
    ['Some', 'Some', 'Some', 'None'],
  )
  t.strictSame(
    copiesWith([next]).decode(session.id, copiesWith([next, old]).encode(session.id, snapshotOf(session)))
      ._tag,
    'Some',
  )
  for (const wrong of [[], [randomBytes(31)], [text(32)], undefined])
    t.throws(() => copiesWith(wrong as never), wrong === undefined ? TypeError : RangeError)
})

t.test('each bit of a copy counts, and so do its length and its session', async (t) => {
  const { plain } = open()
  const [session, foreign] = [await large(plain, 1), await large(plain, 1)]
  const copies = copiesWith(secrets)
  const copy = copies.encode(session.id, snapshotOf(session))
  t.equal(copies.decode(session.id, copy)._tag, 'Some')
  t.equal(copies.decode(foreign.id, copy)._tag, 'None')
  let opened = 0
  for (let bit = 0; bit < copy.length * 8; bit += 1) {
    const changed = Uint8Array.from(copy)
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    if (copies.decode(session.id, changed)._tag === 'Some') opened += 1
  }
  for (let length = 0; length < copy.length; length += 1)
    if (copies.decode(session.id, copy.subarray(0, length))._tag === 'Some') opened += 1
  t.equal(opened, 0)
  t.notMatch(Buffer.from(copy).toString('latin1'), /key 0|revision/)
  t.not(
    copies.encode(session.id, snapshotOf(session)).join(),
    copy.join(),
    'each copy has random bytes of its own',
  )
})

const sorted = ({ store }: Session) => store.toArray().sort(([a], [b]) => (a < b ? -1 : 1))

t.test('keys and values of any kind survive a copy', async (t) => {
  const { store, cold, plain } = open()
  const values = {
    __proto__x: 1,
    'a key with "quotes"': null,
    é: [1, { a: [] }],
    constructor: 'ü'.repeat(50),
    n: -1.5e-300,
  }
  let session = buildSession(store)
  for (const [key, value] of Object.entries(values)) session = sessionSet(key, value)(session)
  session = sessionSet('__proto__', JSON.parse('{"__proto__": { "a": 1 }}') as Json)(session)
  const saved = await saveSession(session)
  await written()
  const [copied, truth] = [await again(saved, cold()), await again(saved, plain)]
  t.strictSame(sorted(copied), sorted(truth))
  const list = copied.store.get('é') as readonly object[]
  t.throws(() => Object.assign(list[1] as object, { a: 1 }), TypeError)
})

t.test('events tell whether there was a copy, and why the cache gave none', async (t) => {
  const { store, cold, cache } = open()
  const session = await large(store)
  const events: unknown[] = []
  const stops = [
    onSessionEvent('copyRead', ({ result }) => events.push(result)),
    onSessionEvent('cacheFailed', (event) => events.push(event)),
  ]
  await again(session, cold())
  cache.tamper = () => undefined
  await again(session, cold())
  cache.tamper = () => Buffer.from('something else')
  await again(session, cold())
  cache.tamper = () => 'fail'
  await again(session, cold())
  for (const stop of stops) stop()
  t.strictSame(events, ['found', 'missing', 'rejected', { operation: 'get', kind: 'unavailable' }])
})

t.test('options out of range are errors', async (t) => {
  const { plain } = open()
  for (const options of [
    { minBytes: -1 },
    { minBytes: '5' },
    { secrets: [] },
    { secrets: [randomBytes(16)] },
  ])
    t.throws(() => withCache(testCache(), options as Partial<WriteThroughOptions>)(plain), RangeError)
})
