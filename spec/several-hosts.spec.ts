// Tests a pool that may reach a primary and a standby: by several hosts with postgres.js, and by one address that leads
// to both servers in turn with node-postgres.

import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import type { DriverError } from '../lib/core/errors.js'
import type { Database, Queryable, Row } from '../lib/db/database.js'
import { pgDatabase } from '../lib/db/pg.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { pgPool, quietPool, type ServerDriver, serverDrivers } from './support/databases.js'
import { startPair } from './support/postgres-pair.js'
import { newDatabase } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { left, right } from './support/stores.js'

const server = await newDatabase()
const proxy = await startProxy(server.url)
const pair = await startPair()
const [primaryUrl, standbyUrl] = [pair.primaryPort(), pair.standbyPort()].map(
  (port) => `postgres://postgres@127.0.0.1:${String(port)}/postgres`,
) as [string, string]
const both = await startProxy(primaryUrl, standbyUrl)
t.teardown(async () => {
  await both.close()
  await pair.stop()
  await proxy.close()
  await server.stop()
})

const { host } = new URL(proxy.url)
const { pathname } = new URL(server.url)

/** Addresses for each driver. `twice` leads to one server, and `paired` to the primary and its standby. */
const addresses = {
  'postgres.js': { twice: `postgres://postgres@${host},${host}${pathname}`, paired: pair.url },
  'node-postgres': { twice: proxy.url, paired: both.url },
}

const run = (db: Queryable, text: string) => db.query({ name: 'spec', text }, [])
const nothing = (): Promise<void> => Promise.resolve()

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

const suite = (t: Test, driver: ServerDriver): void => {
  const { twice, paired } = addresses[driver.name]
  const databaseAt = (
    url: string,
    max: number,
    primary = url !== proxy.url || driver.name === 'node-postgres',
  ) => {
    const database = driver.open(url, { max, timeoutMs: 3_000, primary })
    t.teardown(() => database.close())
    return database
  }

  t.test(
    'what a connection was sent first, and never answered, is not answered by its next one',
    async (t) => {
      const database = databaseAt(twice, 1)
      const lost = proxy.lost()
      proxy.loseNextAnswer(nothing)
      const first = run(database, 'select 1 as n')()
      const second = run(database, 'select 2 as n')()
      const results = await Promise.all([first, second])
      t.equal(proxy.lost(), lost + 1)
      if (driver.name === 'node-postgres')
        // The lost answer was the answer to the question for the server's role.
        t.strictSame(results, [E.right([{ n: 1 }]), E.right([{ n: 2 }])])
      // The second statement was sent on the new connection, which may lead to another server.
      else for (const result of results) t.equal(E.isLeft(result) && result.left.retryable, true)
      t.strictSame(await run(database, 'select 2 as n')(), E.right([{ n: 2 }]))
    },
  )

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

  for (const [name, ask] of Object.entries(asks))
    for (const first of ['in use before', 'just made'])
      for (const round of [1, 2, 3])
        t.test(`${name} on connections ${first} that are lost: no standby answers, ${round}`, async (t) => {
          const database = databaseAt(paired, 4)
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
        const database = databaseAt(paired, 2)
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
    await right(run(databaseAt(paired, 1), 'drop table if exists queued'))
    await right(run(databaseAt(paired, 1), 'create table queued ()'))
    let done = 0
    for (let round = 1; round <= 6; round += 1) {
      const database = databaseAt(paired, 1)
      const sleeping = database.transaction((tx) => run(tx, SLEEP))()
      const queued = Array.from({ length: 20 }, () => run(database, 'insert into queued default values')())
      await terminate(t, 1)
      t.ok(E.isLeft(await sleeping))
      done += (await Promise.all(queued)).filter(E.isRight).length
      t.strictSame(await right(run(database, 'select count(*)::int as done from queued')), [{ done }])
    }
  })

  t.test('who was known before a loss is believed after it', async (t) => {
    const database = databaseAt(paired, 2)
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
      const [failed, after] = await Promise.all([first, second])
      const isLost = (result: typeof after) =>
        E.isLeft(result) && result.left.retryable && result.left.sqlState === undefined
      // With postgres.js, the error may be the one of an earlier connection.
      if (driver.name === 'node-postgres') t.match(failed, { left: { sqlState: '22012' } })
      else t.ok(E.isRight(failed) || isLost(failed))
      t.ok(E.isRight(after) || isLost(after))
      t.strictSame(await right(run(database, 'select 3 as n')), [{ n: 3 }])
    }
  })
}

for (const driver of serverDrivers)
  t.test(driver.name, (t) => {
    suite(t, driver)
    t.end()
  })

t.test('node-postgres: without the option primary a standby answers too', async (t) => {
  for (const primary of [false, true]) {
    const database = pgDatabase(pgPool(both.url, { max: 4 }), { primary })
    t.teardown(() => database.close())
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => right(run(database, `${ROLE}, pg_sleep(0.2)`))),
    )
    t.equal(
      answers.some(([row]) => row?.['standby'] === true),
      !primary,
    )
  }
})

t.test('node-postgres: while only a standby is there, a statement waits until its deadline', async (t) => {
  const standby = await startProxy(standbyUrl)
  const pool = pgPool(standby.url, { max: 2 })
  const database = pgDatabase(pool, { primary: true, timeoutMs: 1_000 })
  t.teardown(async () => {
    await database.close()
    await standby.close()
  })
  let clients = 0
  pool.on('connect', () => {
    clients += 1
  })
  const start = performance.now()
  for (const error of await Promise.all([
    left(run(database, 'select 1')),
    left(database.transaction((tx) => run(tx, 'select 1'))),
  ]))
    t.match(error, { _tag: 'DriverError', retryable: true, effect: 'none' })
  t.ok(performance.now() - start > 700)
  t.ok(clients > 2 && clients < 40, `${String(clients)} clients`)
  t.strictSame([pool.idleCount, pool.waitingCount], [0, 0])
})

t.test('a pool of several hosts that cannot be made again is refused', async (t) => {
  for (const url of [pair.url, 'postgres://db1,db2/app', 'postgres://db/app?target_session_attrs=primary']) {
    const sql = quietPool(url)
    t.throws(() => postgresDatabase(sql), RangeError)
    await sql.end()
  }
})
