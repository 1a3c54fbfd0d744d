// Tests law 13 on a real PostgreSQL: locked rows, sessions of an old release, and the cleanup in a server process.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import * as E from 'fp-ts/lib/Either.js'
import t from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { newIdempotencyKey } from '../lib/core/token.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { buildSession, saveSession, sessionSet } from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { type DeleteExpiredOptions, deleteExpiredSessions, startCleanup } from '../lib/store/cleanup.js'
import type { SessionStore } from '../lib/store/contract.js'
import { onSessionEvent, type SessionEvents } from '../lib/store/events.js'
import { memoryStore } from '../lib/store/memory.js'
import { quietPool, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema, left, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const pool = quietPool(url)
const database = postgresDatabase(pool)
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

const HOURS = 2 * 3_600_000

const expired = async (count: number, milliseconds = HOURS) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema, idleMs: 60_000 })
  const sessions = await Promise.all(
    Array.from({ length: count }, () => saveSession(sessionSet('a', 1)(buildSession(store)))),
  )
  await age(database, schema, milliseconds)
  const rows = async () => {
    const [row] = await rowsOf(
      database,
      `select (select count(*) from ${schema}.session)::int as sessions, (select count(*) from ${schema}.entry)::int as entries,
              (select count(*) from ${schema}.listing)::int as listed`,
    )
    return Object.values(row ?? {})
  }
  return { schema, store, sessions, rows }
}

t.test('law 13, collection is polite: what a request holds is left for another time', async (t) => {
  const { schema, store, sessions, rows } = await expired(10)
  await pool.begin(async (tx) => {
    await tx.unsafe(`select 1 from ${schema}.session where id = '${sessions[3]?.id ?? ''}' for update`)
    const collected = await right(deleteExpiredSessions(store, { batchSize: 4, delayMs: 0 }))
    t.match(collected, { sessions: 9, finished: true })
    t.strictSame(await rows(), [1, 1, 1])
  })
  t.equal((await right(deleteExpiredSessions(store))).sessions, 1)
  t.strictSame(await rows(), [0, 0, 0])
})

t.test('law 13, collection is polite: what lives is looked at and not locked', async (t) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
  await rowsOf(database, `update ${schema}.listing set collect_at = now()`)
  await pool.begin(async (tx) => {
    await tx.unsafe(`select 1 from ${schema}.session where id = '${session.id}' for update`)
    t.match(await right(store.deleteExpired(10)), { sessions: 0, more: false })
  })
  const [moved] = await rowsOf(database, `select collect_at > now() as later from ${schema}.listing`)
  t.strictSame(moved, { later: true })
})

t.test('law 13, collection is polite: one batch at a time on one database', async (t) => {
  const { schema, store, rows } = await expired(3)
  await pool.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('"${schema}"'))`)
    t.match(await right(store.deleteExpired(10)), { sessions: 0, busy: true })
    const tired = await right(deleteExpiredSessions(store, { delayMs: 1, totalTimeoutMs: 50 }))
    t.match(tired, { sessions: 0, batches: 0, finished: false })
  })
  t.equal((await right(deleteExpiredSessions(store))).sessions, 3)
  t.strictSame(await rows(), [0, 0, 0])
})

t.test(
  'what has left the sessions leaves the listing, though its destroyer did not know of it',
  async (t) => {
    const { schema, store, rows } = await expired(5)
    await rowsOf(database, `delete from ${schema}.session`)
    t.strictSame(await rows(), [0, 0, 5])
    t.match(await right(deleteExpiredSessions(store)), { sessions: 0, finished: true })
    t.strictSame(await rows(), [0, 0, 0])
  },
)

t.test(
  'the id of a session that is not an hour old is kept for a while, against creations that come late',
  async (t) => {
    const { schema, store, sessions, rows } = await expired(3, 61_000)
    t.match(await right(deleteExpiredSessions(store)), { sessions: 3, finished: true })
    t.strictSame(await rows(), [0, 0, 3])
    const [session] = sessions
    if (session === undefined) throw new Error('there is none')
    const late = store.create(session.id, session.token.hash, newIdempotencyKey(), session.store)
    t.match(await left(late), { _tag: 'SaveConflict', what: 'create' })
    await age(database, schema, HOURS)
    t.match(await right(deleteExpiredSessions(store)), { sessions: 0, finished: true })
    t.strictSame(await rows(), [0, 0, 0])
  },
)

t.test('an expired session that holds very many entries is one row of a batch like any other', async (t) => {
  const { schema, store, sessions, rows } = await expired(2)
  await rowsOf(
    database,
    `insert into ${schema}.entry select '${sessions[0]?.id ?? ''}', 'key ' || n, '1', 1 from generate_series(1, 50000) n`,
  )
  t.strictSame(await right(deleteExpiredSessions(store)), { sessions: 2, batches: 1, finished: true })
  t.strictSame(await rows(), [0, 0, 0])
})

t.test('a collection ends in time, when it is told to, and tells how far it is', async (t) => {
  const { store, rows } = await expired(30)
  t.match(await right(deleteExpiredSessions(store, { batchSize: 10, totalTimeoutMs: 0 })), {
    sessions: 10,
    finished: false,
  })
  const end = new AbortController()
  const seen: number[] = []
  const options: DeleteExpiredOptions = {
    batchSize: 5,
    signal: end.signal,
    onBatch: ({ sessions }) => {
      seen.push(sessions)
      end.abort()
    },
  }
  t.match(await right(deleteExpiredSessions(store, options)), { sessions: 5, batches: 1, finished: false })
  t.strictSame(seen, [5])
  t.strictSame(await rows(), [15, 15, 15])
  for (const wrong of [{ batchSize: 0 }, { batchSize: Number.NaN }, { delayMs: -1 }, { totalTimeoutMs: -1 }])
    t.throws(() => deleteExpiredSessions(store, wrong), RangeError)
  for (const everyMs of [0, Number.NaN, Number.POSITIVE_INFINITY])
    t.throws(() => startCleanup(store, { everyMs }), RangeError)
})

/** Waits for the next event of this kind that `fits` accepts. */
const next = <N extends keyof SessionEvents>(
  name: N,
  fits: (event: SessionEvents[N]) => boolean = () => true,
): Promise<SessionEvents[N]> =>
  new Promise((resolve) => {
    const end = onSessionEvent(name, (event) => {
      if (!fits(event)) return
      end()
      resolve(event)
    })
  })

t.test('a collector in the background collects again and again, survives failures, and stops', async (t) => {
  const { store, rows } = await expired(12)
  let failing = true
  const flaky: SessionStore = {
    ...store,
    deleteExpired: (limit) =>
      failing
        ? () => Promise.resolve(E.left(new DriverError('down', { retryable: true, sqlState: '57P01' })))
        : store.deleteExpired(limit),
  }
  const failed = next('failed')
  const collector = startCleanup(flaky, { everyMs: 10 })
  t.match(await failed, { operation: 'deleteExpired', error: 'DriverError', sqlState: '57P01' })
  failing = false
  await next('expiredDeleted', ({ sessions }) => sessions === 12)
  t.strictSame(await rows(), [0, 0, 0])
  await next('expiredDeleted')
  await collector.stop()
  const afterwards: unknown[] = []
  const end = onSessionEvent('expiredDeleted', (event) => afterwards.push(event))
  await new Promise((resolve) => setTimeout(resolve, 100))
  end()
  t.strictSame(afterwards, [])
})

t.test('stopping waits for the batch under way, and then nothing more is sent', async (t) => {
  const calls: string[] = []
  const store = memoryStore()
  let entered = (): void => undefined
  const inside = new Promise<void>((resolve) => (entered = resolve))
  const slow: SessionStore = {
    ...store,
    deleteExpired: (limit) => async () => {
      calls.push('begin')
      entered()
      await new Promise((resolve) => setTimeout(resolve, 50))
      calls.push('end')
      return E.map((batch: object) => ({ sessions: 1, busy: false, ...batch, more: true }))(
        await store.deleteExpired(limit)(),
      )
    },
  }
  const collector = startCleanup(slow, { everyMs: 1 })
  await inside
  await collector.stop()
  t.strictSame(calls, ['begin', 'end'])
})

t.test('what the program itself throws does not end a collector', async (t) => {
  const { store } = await expired(3)
  let batches = 0
  const onBatch = (): void => {
    batches += 1
    if (batches === 1) throw new Error('mine')
  }
  const [failed, collected] = [next('failed'), next('expiredDeleted')]
  const collector = startCleanup(store, { everyMs: 5, onBatch })
  t.strictSame(await failed, { operation: 'deleteExpired', error: 'unknown' })
  await collected
  await collector.stop()
})

t.test('a process with a collector ends by itself, also between two batches', async (t) => {
  const script = `
    import * as TE from 'fp-ts/lib/TaskEither.js'
    import { startCleanup } from 'keyrow/store'
    import { memoryStore } from 'keyrow/memory'
    let batches = 0
    const deleteExpired = () => TE.fromIO(() => ({ sessions: 1, more: ++batches > 0, busy: false }))
    startCleanup({ ...memoryStore(), deleteExpired }, { everyMs: 1, delayMs: 3_600_000, totalTimeoutMs: 1e9 })
    setTimeout(() => console.log(batches > 0 ? 'started' : 'not yet'), 500)`
  const cwd = fileURLToPath(new URL('.', import.meta.url))
  const args = ['--input-type=module', '--eval', script]
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd, timeout: 20_000 })
  t.equal(stdout, 'started\n')
})
