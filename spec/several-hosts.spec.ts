// Tests a pool with several hosts, one of which is the primary.

import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import type { DriverError } from '../lib/core/errors.js'
import type { Database, Queryable, Row } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { quietPool, quietPools } from './support/databases.js'
import { startPair } from './support/postgres-pair.js'
import { newDatabase } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { right } from './support/stores.js'

const server = await newDatabase()
const proxy = await startProxy(server.url)
const pair = await startPair()
t.teardown(async () => {
  await pair.stop()
  await proxy.close()
  await server.stop()
})

const { host } = new URL(proxy.url)
const twice = `postgres://postgres@${host},${host}/postgres?target_session_attrs=primary`

const databaseAt = (url: string, max: number) => {
  const database = postgresDatabase(quietPools(url, { max, backoff: () => 0.001 }), { timeoutMs: 3_000 })
  t.teardown(() => database.close())
  return database
}
const run = (db: Queryable, text: string) => db.query({ name: 'spec', text }, [])
const nothing = (): Promise<void> => Promise.resolve()

t.test('what a connection was sent first, and never answered, is not answered by its next one', async (t) => {
  const database = databaseAt(twice, 1)
  proxy.loseNextAnswer(nothing)
  const first = run(database, 'select 1 as n')()
  const second = run(database, 'select 2 as n')()
  const results = await Promise.all([first, second])
  t.equal(proxy.lost(), 1)
  // The second statement was sent on the new connection, which may lead to another server.
  for (const result of results) t.equal(E.isLeft(result) && result.left.retryable, true)
  t.strictSame(await run(database, 'select 2 as n')(), E.right([{ n: 2 }]))
})

t.test('a BEGIN that was never answered begins nothing', async (t) => {
  const database = databaseAt(twice, 1)
  const lost = proxy.lost()
  let bodies = 0
  proxy.loseNextAnswer(nothing, 'a begin')
  const transaction = database.transaction((tx) => {
    bodies += 1
    return run(tx, 'create table stray ()')
  })()
  const second = run(database, 'select 2 as n')()
  const [begun, answered] = await Promise.all([transaction, second])
  t.equal(proxy.lost(), lost + 1)
  t.equal(E.isLeft(begun) && begun.left.retryable, true)
  // The second statement was not sent yet, so it is sent again.
  t.strictSame(answered, E.right([{ n: 2 }]))
  t.equal(bodies, 0)
  t.strictSame(
    await run(database, `select to_regclass('stray')::text as stray`)(),
    E.right([{ stray: null }]),
  )
})

const SLEEP = 'select pg_sleep(30)'
const ROLE = 'select pg_is_in_recovery() as standby'

/** Ends `count` sleeping server processes. Their clients get an error, and then lose the connection. */
const terminate = async (t: Test, count: number): Promise<void> => {
  const admin = quietPool(pair.url, { max: 1 })
  const asleep = admin`select pid from pg_stat_activity where query = ${SLEEP} and state = 'active'`
  const sleeping = () => admin`${asleep}`
  while ((await sleeping()).length < count) await new Promise((resolve) => setTimeout(resolve, 10))
  const ended = await admin`select pg_terminate_backend(pid) from (${asleep}) as asleep`
  t.equal(ended.length, count)
  await admin.end({ timeout: 1 })
}

type Ask = (database: Database, text: string) => TE.TaskEither<DriverError, readonly Row[]>

const asks: Readonly<Record<string, Ask>> = {
  statements: run,
  transactions: (database, text) => database.transaction((tx) => run(tx, text)),
}

for (const [name, ask] of Object.entries(asks))
  for (const first of ['in use before', 'just made'])
    for (const round of [1, 2, 3])
      t.test(`${name} on connections ${first} that are lost: no standby answers, ${round}`, async (t) => {
        const database = databaseAt(pair.url, 4)
        const four = (text: string) => Promise.all(Array.from({ length: 4 }, () => ask(database, text)()))
        if (first === 'in use before') await four('select pg_sleep(0.2)')
        const sleeping = four(SLEEP)
        await terminate(t, 4)
        const answers: E.Either<DriverError, readonly Row[]>[] = []
        for (let times = 0; times < 20; times += 1) answers.push(...(await four(ROLE)))
        t.ok((await sleeping).every((result) => E.isLeft(result) && result.left.retryable))
        t.ok(answers.every((answer) => E.isRight(answer) || answer.left.retryable))
        const told = answers.flatMap((answer) => (E.isRight(answer) ? answer.right : []))
        t.ok(told.length >= 60, `${String(told.length)} of 80 were answered`)
        t.strictSame(
          told.filter(({ standby }) => standby !== false),
          [],
        )
      })

t.test(
  'a search for the primary ends at no standby, whatever error a lost connection has left',
  async (t) => {
    const admin = quietPool(pair.url, { max: 1 })
    const answers: E.Either<DriverError, readonly Row[]>[] = []
    for (let round = 1; round <= 40; round += 1) {
      const database = databaseAt(pair.url, 2)
      // Another connection searches first, and then the connection that was lost while it was idle.
      const [{ pid }] = (await right(run(database, 'select pg_backend_pid() as pid'))) as [{ pid: number }]
      await admin`select pg_terminate_backend(${pid}, 1000)`
      for (let times = 0; times < 3; times += 1) answers.push(await run(database, ROLE)())
      await right(database.close)
    }
    await admin.end({ timeout: 1 })
    const told = answers.flatMap((answer) => (E.isRight(answer) ? answer.right : []))
    t.ok(answers.every((answer) => E.isRight(answer) || answer.left.retryable))
    t.ok(told.length >= 100, `${String(told.length)} of 120 were answered`)
    t.strictSame(
      told.filter(({ standby }) => standby !== false),
      [],
    )
  },
)

t.test('what waits for a connection that is lost does nothing, or says that it is done', async (t) => {
  await right(run(databaseAt(pair.url, 1), 'create table queued ()'))
  let done = 0
  for (let round = 1; round <= 6; round += 1) {
    const database = databaseAt(pair.url, 1)
    const sleeping = database.transaction((tx) => run(tx, SLEEP))()
    const queued = Array.from({ length: 20 }, () => run(database, 'insert into queued default values')())
    await terminate(t, 1)
    t.ok(E.isLeft(await sleeping))
    done += (await Promise.all(queued)).filter(E.isRight).length
    t.strictSame(await right(run(database, 'select count(*)::int as done from queued')), [{ done }])
  }
})

t.test('who was known before a loss is believed after it', async (t) => {
  const database = databaseAt(pair.url, 2)
  const two = () => Promise.all([1, 2].map(() => run(database, 'select pg_sleep(0.2)')()))
  await two()
  const slow = run(database, 'select pg_sleep(2)')()
  const sleeping = run(database, SLEEP)()
  await terminate(t, 1)
  t.ok(E.isLeft(await sleeping))
  t.strictSame(await right(run(database, ROLE)), [{ standby: false }])
  t.ok(E.isRight(await slow))
})

t.test('an error is told to whom it concerns', async (t) => {
  for (const url of [proxy.url, twice]) {
    const database = databaseAt(url, 1)
    await right(run(database, 'select'))
    proxy.loseNextAnswer(nothing, 'what comes after an error')
    const before = proxy.lost()
    const first = run(database, 'select 1 / 0')()
    await new Promise((resolve) => setTimeout(resolve, 100))
    const second = run(database, 'select 2 as n')()
    t.equal(proxy.lost(), before + 1)
    for (const result of await Promise.all([first, second]))
      t.ok(E.isRight(result) || (result.left.retryable && result.left.sqlState === undefined))
    t.strictSame(await right(run(database, 'select 3 as n')), [{ n: 3 }])
  }
})

t.test('a pool of several hosts that cannot be made again is refused', async (t) => {
  for (const url of [pair.url, 'postgres://db1,db2/app', 'postgres://db/app?target_session_attrs=primary']) {
    const sql = quietPool(url)
    t.throws(() => postgresDatabase(sql), RangeError)
    await sql.end()
  }
})
