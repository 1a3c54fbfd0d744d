// Tests `durability: 'relaxed'`: what does not wait for the disk, and what a crash of the server may lose.

import * as E from 'fp-ts/lib/Either.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t from 'tap'
import { observedDatabase } from '../lib/db/database.js'
import { pgDatabase } from '../lib/db/pg.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { pgliteStore } from '../lib/entry/pglite.js'
import { edit, suspend } from '../lib/flow/index.js'
import {
  buildSession,
  destroySession,
  loadSession,
  type Session,
  saveSession,
  sessionRef,
  sessionSet,
  sessionToken,
  withHandle,
} from '../lib/promise/index.js'
import { type SessionStoreOptions, sessionStore } from '../lib/sql/store.js'
import { begin, page, served } from '../lib/testing/flow-subject.js'
import { counting, pgPool, quietPools, rowsOf } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { freshSchema, right } from './support/stores.js'

const server = await startPostgres()
const database = postgresDatabase(quietPools(server.url, { max: 1 }), { timeoutMs: 60_000 })
t.teardown(async () => {
  await database.close()
  await server.stop()
})

const RELAXED = "set_config('synchronous_commit', 'off', true)"

const storeOf = (durability: 'full' | 'relaxed') =>
  sessionStore(database, { schema: freshSchema(), durability })

const saved = async (store: ReturnType<typeof storeOf>): Promise<Session> =>
  saveSession(sessionSet('n', 0)(buildSession(store)))

/** Returns the number of times that PostgreSQL has waited for the disk. */
const flushes = async (): Promise<number> => {
  await rowsOf(database, 'select pg_stat_force_next_flush()')
  const [row] = await rowsOf(database, "select sum(fsyncs)::float8 as n from pg_stat_io where object = 'wal'")
  return Number(row?.['n'])
}

/** Sets the interval at which a process of PostgreSQL writes the log to disk. The default is 200 ms. */
const writeLogEach = async (interval: string): Promise<void> => {
  await rowsOf(database, `alter system set wal_writer_delay = '${interval}'`)
  await rowsOf(database, 'select pg_reload_conf()')
}

t.test('400 relaxed saves do not wait for the disk, and full saves do', async (t) => {
  await writeLogEach('10s')
  const counts: number[] = []
  for (const durability of ['relaxed', 'full'] as const) {
    let session = await saved(storeOf(durability))
    const before = await flushes()
    for (let n = 0; n < 400; n += 1) session = await saveSession(sessionSet('n', n)(session))
    counts.push((await flushes()) - before)
  }
  const [relaxed = 0, full = 0] = counts
  t.comment(`${String(relaxed)} and ${String(full)} times`)
  t.ok(relaxed <= 20, `${String(relaxed)} times`)
  t.ok(full >= 350, `${String(full)} times`)
  await writeLogEach('200ms')
})

t.test('the setting ends with the statement, and a transaction keeps its own', async (t) => {
  const setting = async (handle = database): Promise<unknown> =>
    (await rowsOf(handle, 'show synchronous_commit'))[0]?.['synchronous_commit']
  const session = await saveSession(sessionSet('n', 1)(await saved(storeOf('relaxed'))))
  t.equal(await setting(), 'on')
  await right(
    database.transaction((tx) =>
      TE.tryCatch(async () => {
        await saveSession(sessionSet('n', 2)(withHandle(tx)(session)))
        t.equal(await setting(tx), 'on')
      }, E.toError),
    ),
  )
  t.equal(await setting(), 'on')
})

t.test('edits that are stored with a row of a flow are as durable as the row', async (t) => {
  const counted = counting(database)
  const store = sessionStore(counted.database, { schema: freshSchema(), durability: 'relaxed' })
  const handler = served(function* () {
    yield* suspend('first', io.type({}), page(''))
    yield* suspend('second', io.type({}), page(''))
    yield* edit('edit', sessionSet('n', 1))
    yield* suspend('third', io.type({}), page(''))
  })
  const { browser, first } = await begin(store, handler)
  const second = await browser.answer(handler, first)
  counted.events.length = 0
  await browser.answer(handler, second)
  t.ok(counted.events.some(({ query }) => query.name === 'session.save'))
  t.notOk(counted.events.some(({ query }) => query.text.includes(RELAXED)))
})

t.test('invalid options are refused', async (t) => {
  const bad: readonly SessionStoreOptions[] = [
    { durability: 'none' as 'full' },
    { durability: 'relaxed', citus: true },
  ]
  const embedded = observedDatabase(pgliteDatabase(), () => undefined)
  t.throws(() => sessionStore(embedded, { durability: 'relaxed' }), { name: 'RangeError', message: /PGlite/ })
  t.throws(() => pgliteStore(undefined, { durability: 'relaxed' }), { name: 'RangeError', message: /PGlite/ })
  for (const options of bad)
    t.throws(() => sessionStore(database, options), {
      name: 'RangeError',
      message: /durability/,
    })
})

t.test('a crash of the server loses the last saves that are not on disk yet, and nothing else', async (t) => {
  const schema = freshSchema()
  const crashing = pgDatabase(pgPool(server.url, { max: 4 }))
  t.teardown(() => crashing.close())
  // A save that has failed is not repeated, since its session may be behind after the crash.
  const store = sessionStore(crashing, { schema, durability: 'relaxed', retry: { attempts: 1 } })
  const reading = sessionStore(crashing, { schema })
  await right(store.prepare)
  await rowsOf(database, `create table ${schema}.orders (id int)`)
  let lost = 0
  for (let round = 0; round < 6; round += 1) {
    const isSlow = round > 2
    await writeLogEach(isSlow ? '10s' : '200ms')
    const sessions = await Promise.all([0, 1, 2].map(() => saved(store)))
    const ended = await saved(reading)
    const answered: number[] = []
    // One save after another, in the sessions by turns, until the crash.
    const saving = (async () => {
      for (let n = 1; ; n += 1) {
        const place = n % 3
        const result = await saveSession(sessionSet('n', n)(sessions[place] as Session)).catch(
          () => undefined,
        )
        if (result === undefined) return
        sessions[place] = result
        answered.push(performance.now())
      }
    })()
    await new Promise((resolve) => setTimeout(resolve, 500 + 100 * round))
    const isDestruction = round % 2 === 0
    const durable = answered.length
    if (isDestruction) await destroySession(ended)
    else
      await right(
        crashing.transaction((tx) =>
          tx.query({ name: 'order', text: `insert into ${schema}.orders values (${String(round)})` }, []),
        ),
      )
    await new Promise((resolve) => setTimeout(resolve, 100 + 30 * round))
    const killedAt = performance.now()
    await server.crash()
    await saving
    await server.start()
    const kept = await Promise.all(
      sessions.map(async (session) =>
        sessionRef('n', -1)((await loadSession(reading, sessionToken(session))) as Session),
      ),
    )
    const last = Math.max(...kept.map(Number))
    const expected = [0, 1, 2].map((place) => last - ((last - place) % 3))
    t.strictSame(kept, expected, 'what is left are all saves up to one of them')
    t.ok(last >= durable, 'the destruction, or the transaction, waits for all saves before it')
    const older = answered.filter((at) => at < killedAt - 1_000).length
    if (!isSlow) t.ok(last >= older, 'at the default interval none older than a second is lost')
    t.ok(last <= answered.length + 1)
    if (isDestruction)
      t.equal(await loadSession(reading, sessionToken(ended)), undefined, 'an ended session stays ended')
    else
      t.equal((await rowsOf(database, `select from ${schema}.orders where id = ${String(round)}`)).length, 1)
    if (isSlow) lost += Math.max(0, answered.length - last)
    else t.comment(`${String(answered.length - last)} saves were lost`)
  }
  t.ok(lost > 0, `${String(lost)} saves were lost that the server had not yet written to disk`)
})
