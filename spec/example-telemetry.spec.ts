// Tests the example `telemetry` with a real SDK and a real PostgreSQL. It makes correct spans and metrics, which
// contain no secrets.

import { execFile } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import { context } from '@opentelemetry/api'
import { memoryStore } from 'keyrow/memory'
import { postgresDatabase } from 'keyrow/postgres'
import {
  buildSession,
  currentSession,
  deleteExpiredSessions,
  destroySessionsOf,
  loadSession,
  prepareStore,
  saveSession,
  sessionFor,
  sessionSet,
  sessionStore,
  sessionToken,
  updateCurrentSession,
} from 'keyrow/promise'
import { writeBehind } from 'keyrow/store'
import t from 'tap'
import { asyncContext } from '../examples/telemetry/context.js'
import { watchBacklog } from '../examples/telemetry/telemetry.js'
import { quietPool } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema } from './support/stores.js'
import {
  durationsTold,
  everyKind,
  listening,
  live,
  recording,
  serving,
  slowToLoad,
  visited,
} from './support/telemetry.js'
import { testCache } from './support/test-cache.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPool(url))
const readOnly = postgresDatabase(quietPool(url, { connection: { default_transaction_read_only: true } }))
context.setGlobalContextManager(asyncContext())
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await readOnly.close()
  await stop()
})

const opened = async () => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema, idleMs: 60_000 })
  await prepareStore(store)
  return { schema, store }
}

t.test('each operation is a span below the active one, and as long as its event says', async (t) => {
  const { store } = await opened()
  const { spans, inSpan } = recording(t)
  const told = durationsTold(t)
  const id = await inSpan('request', () => live(store))
  const parent = 'request'
  t.strictSame(
    spans().map(({ name, parent, attributes }) => [name, parent, attributes]),
    [
      ['keyrow.create', parent, { 'keyrow.id': id, 'keyrow.entries': 1 }],
      ['keyrow.load', parent, { 'keyrow.id': id, 'keyrow.entries': 1 }],
      ['keyrow.save', parent, { 'keyrow.id': id, 'keyrow.edits': 1, 'keyrow.rounds': 1 }],
      ['keyrow.save', parent, { 'keyrow.id': id, 'keyrow.edits': 1, 'keyrow.rounds': 2 }],
      ['keyrow.rotate', parent, { 'keyrow.id': id }],
      ['keyrow.destroy', parent, { 'keyrow.id': id }],
      ['request', undefined, {}],
    ],
  )
  t.strictSame(spans().at(-1)?.events, [
    ['keyrow.conflict', { 'keyrow.id': id, 'keyrow.what': 'secret' }],
    ['keyrow.badToken', { 'keyrow.reason': 'unknown', 'keyrow.id': id }],
    ['keyrow.badToken', { 'keyrow.reason': 'malformed' }],
  ])
  t.equal(told.length, 6)
  for (const [i, durationMs] of told.entries())
    t.ok(Math.abs((spans()[i]?.durationMs ?? Number.NaN) - durationMs) < 0.001, `${durationMs} ms`)
})

t.test('without an active span, spans are roots, and nothing is lost that has no span', async (t) => {
  const { store } = await opened()
  const { spans, series } = recording(t)
  await live(store)
  t.equal(spans().length, 6)
  t.ok(spans().every(({ parent, events }) => parent === undefined && events.length === 0))
  t.strictSame(await series('keyrow.conflicts'), [[{ 'keyrow.what': 'secret' }, 1]])
})

t.test('a span begins when its operation did', async (t) => {
  const quick = memoryStore()
  const session = await saveSession(sessionSet('visits', 1)(buildSession(quick)))
  const { spans } = recording(t)
  const before = Date.now()
  await loadSession(slowToLoad(quick, 100), sessionToken(session))
  const after = Date.now()
  const [span] = spans()
  if (span === undefined) throw new Error('there is no span')
  // The clock of spans counts whole milliseconds, and may differ by one.
  t.ok(span.durationMs > 90)
  t.ok(span.startMs >= before - 2, 'not before it')
  t.ok(span.startMs + span.durationMs <= after + 2, 'and it ends when it did')
})

t.test('of requests at once, on one server and one pool, each has its own below it', async (t) => {
  const { store } = await opened()
  const { spans, inSpan } = recording(t)
  const { ask, close } = await serving(store, inSpan, async (req, res) => {
    await updateCurrentSession(visited)
    await delay(Number(req.url?.length))
    const { id } = await currentSession()
    res.end(id)
  })
  const visitors = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const { id, cookie } = await ask(`/first/${String(i)}`)
      await ask(`/second/${String(i)}`, cookie)
      return id
    }),
  )
  await close()
  t.equal(new Set(visitors).size, 20)
  const below = (path: string) =>
    spans()
      .filter(({ parent }) => parent === path)
      .map(({ name, attributes }) => [name, attributes['keyrow.id']])
  for (const [i, id] of visitors.entries()) {
    t.strictSame(below(`/first/${String(i)}`), [['keyrow.create', id]])
    t.strictSame(below(`/second/${String(i)}`), [
      ['keyrow.load', id],
      ['keyrow.save', id],
    ])
  }
})

t.test('metrics count what happened, and have no id in them', async (t) => {
  const { schema, store } = await opened()
  const recorded = recording(t)
  const told = durationsTold(t)
  const id = await live(store)
  const old = await saveSession(sessionFor('ada')(buildSession(store)))
  await age(database, schema, 61_000)
  await loadSession(store, sessionToken(old))
  await deleteExpiredSessions(store)
  const young = await saveSession(sessionFor('ada')(buildSession(store)))
  const failing = sessionStore(readOnly, { schema, retry: { attempts: 1 } })
  const missing = sessionStore(database, { schema: freshSchema(), upgradeSchema: false })
  const loaded = await loadSession(failing, sessionToken(young))
  await saveSession(visited(loaded ?? young)).catch(() => undefined)
  await loadSession(missing, sessionToken(young)).catch(() => undefined)
  await destroySessionsOf(store, 'ada')
  const operations = Object.entries({ create: 3, load: 2, save: 2, rotate: 1, destroy: 2, cleanup: 1 })
  const expected = {
    'keyrow.operation.duration': operations.map(([name, count]) => [{ 'keyrow.operation': name }, count]),
    'keyrow.conflicts': [[{ 'keyrow.what': 'secret' }, 1]],
    'keyrow.bad_tokens': [
      [{ 'keyrow.reason': 'unknown' }, 1],
      [{ 'keyrow.reason': 'malformed' }, 1],
    ],
    'keyrow.expired': [[{}, 1]],
    'keyrow.save.rounds': [[{}, 3]],
    'keyrow.expiredDeleted': [[{}, 1]],
    'keyrow.failures': [
      [{ 'keyrow.operation': 'save', 'error.type': 'DriverError', 'db.response.status_code': '25006' }, 1],
      [{ 'keyrow.operation': 'load', 'error.type': 'SchemaMismatch' }, 1],
    ],
  }
  for (const [name, series] of Object.entries(expected))
    t.strictSame(await recorded.series(name), series, name)
  const seconds = await recorded.seconds()
  t.ok(Math.abs(seconds - told.reduce((sum, ms) => sum + ms, 0) / 1000) < 1e-6, `${seconds} s`)
  const text = inspect(await recorded.metrics(), { depth: 20, maxArrayLength: null })
  for (const secret of [id, old.id, young.id]) t.notMatch(text, secret)
})

t.test('metrics tell how many late saves wait, were stored and were dropped', async (t) => {
  const plain = sessionStore(database, { schema: freshSchema() })
  const cache = testCache()
  const store = writeBehind(plain, cache, { secrets: [Buffer.alloc(32, 1)], flushMs: 60_000 })
  const { series, meter } = recording(t)
  const unwatch = watchBacklog(meter, store)
  const [one, other] = await Promise.all(['ada', 'eve'].map(() => saveSession(visited(buildSession(store)))))
  if (one === undefined || other === undefined) throw new Error('there is no session')
  const saved = await saveSession(visited(one))
  await delay(20)
  t.strictSame(await series('keyrow.late.backlog'), [[{}, 1]])
  const ages = await series('keyrow.late.age')
  t.ok(ages.length === 1 && ages.every(([, age]) => age > 0.015 && age < 60), JSON.stringify(ages))
  await store.flush()
  await saveSession(visited(saved))
  await saveSession(visited(other))
  await plain.destroy(other.id)()
  await store.flush()
  t.strictSame(await series('keyrow.late.stored'), [[{}, 2]])
  t.strictSame(await series('keyrow.late.dropped'), [[{}, 1]])
  t.strictSame(await series('keyrow.late.backlog'), [[{}, 0]])
  cache.tamper = () => 'fail'
  await loadSession(store, sessionToken(saved))
  t.strictSame(await series('keyrow.cache.failures'), [
    [{ 'keyrow.operation': 'get', 'error.type': 'unavailable' }, 1],
  ])
  unwatch()
})

t.test('nothing secret is in spans or metrics', async (t) => {
  const { schema, store } = await opened()
  const { spans, everything, inSpan, series } = recording(t)
  const built = sessionFor('ada@example.org')(sessionSet('card', 'first words')(buildSession(store)))
  const hash = built.token.hash
  const failing = sessionStore(readOnly, { schema, retry: { attempts: 1 } })
  await inSpan('request', async () => {
    await live(store, built)
    const other = await saveSession(sessionFor('ada@example.org')(buildSession(store)))
    const loaded = await loadSession(failing, sessionToken(other))
    await saveSession(sessionSet('card', 'last words')(loaded ?? other)).catch(() => undefined)
    await destroySessionsOf(store, 'ada@example.org')
  })
  t.equal(spans().at(-1)?.events.at(-1)?.[0], 'keyrow.failed')
  t.equal((await series('keyrow.failures')).length, 1)
  const text = await everything()
  t.match(text, built.id, 'it is all there')
  for (const secret of [sessionToken(built).slice(37), hash, 'words', 'card', 'ada@example.org'])
    t.notOk(text.includes(secret))
})

t.test('it hears every kind of event until it is stopped, and nothing after that', async (t) => {
  const store = memoryStore()
  t.strictSame(listening(), [])
  const { spans, everything, stop } = recording(t)
  t.strictSame(listening(), everyKind)
  await live(store)
  t.equal(spans().length, 6)
  stop()
  t.strictSame(listening(), [])
  const before = await everything()
  await live(store)
  t.equal(spans().length, 6)
  t.equal(await everything(), before)
})

t.test('the program shows a few requests, and ends by itself', async (t) => {
  const program = fileURLToPath(new URL('../build/examples/telemetry/main.js', import.meta.url))
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [program], { timeout: 120_000 })
  t.equal(stderr, '')
  const steady = stdout.replace(/ \d+\.\d+ ms/g, '').replace(/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}/g, 'ID')
  t.strictSame(steady.replace(/ in \d+\.\d+ s/g, '').split('\n'), [
    'Spans:',
    '  POST /sign-in',
    '    keyrow.upgrade keyrow.schema=keyrow keyrow.from=0 keyrow.to=5',
    '    keyrow.create keyrow.id=ID keyrow.entries=1',
    '    keyrow.rotate keyrow.id=ID',
    '  two tabs at once',
    '    keyrow.load keyrow.id=ID keyrow.entries=1',
    '    keyrow.load keyrow.id=ID keyrow.entries=1',
    '    keyrow.save keyrow.id=ID keyrow.edits=1 keyrow.rounds=1',
    '    keyrow.save keyrow.id=ID keyrow.edits=1 keyrow.rounds=2',
    '  GET /guess',
    '    * keyrow.badToken keyrow.reason=unknown keyrow.id=ID',
    '  POST /sign-out',
    '    keyrow.destroy keyrow.id=ID',
    '  cleanup',
    '    keyrow.cleanup keyrow.sessions=0 keyrow.batches=1 keyrow.finished=true',
    'Metrics:',
    ...Object.entries({ upgrade: 1, create: 1, rotate: 1, load: 2, save: 2, destroy: 1, cleanup: 1 }).map(
      ([name, count]) => `  keyrow.operation.duration keyrow.operation=${name}: ${String(count)}`,
    ),
    '  keyrow.bad_tokens keyrow.reason=unknown: 1 {token}',
    '  keyrow.save.rounds: 3 {round}',
    '  keyrow.expiredDeleted: 0 {session}',
    '',
  ])
})
