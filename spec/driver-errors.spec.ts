// Tests the kind, the effect and the HTTP status of each `DriverError`.

import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createListener } from 'node:net'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import type { Database, Param, Queryable } from '../lib/db/database.js'
import { driverError } from '../lib/db/deadline.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { sessionListener } from '../lib/http/node.js'
import { memoryStore } from '../lib/store/memory.js'
import { drivers, type ServerDriver, serverDrivers } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { left, right } from './support/stores.js'

const run = (database: Queryable, text: string, ...params: readonly Param[]) =>
  database.query({ name: 'spec', text }, params)

const raised = (state: string): string => `do $$ begin raise exception 'x' using errcode = '${state}'; end $$`

/** Each line has a SQLSTATE, its kind, whether a retry may succeed, and the effect. */
const states = [
  ['23505', 'unique', false, 'none'],
  ['22012', undefined, false, 'none'],
  ['42P01', undefined, false, 'none'],
  ['40001', 'serialization', true, 'none'],
  ['40P01', 'deadlock', true, 'none'],
  ['40003', undefined, true, 'unknown'],
  ['57014', 'timeout', true, 'none'],
  ['55P03', 'timeout', true, 'none'],
  ['25P03', 'timeout', true, 'none'],
  ['25P04', 'timeout', true, 'none'],
  ['25006', 'unavailable', true, 'none'],
  ['53300', 'unavailable', true, 'none'],
  ['57P03', 'unavailable', true, 'none'],
  ['28P01', 'unavailable', false, 'none'],
  // These errors come from a server that ends the connection, or from a pooler that has lost its server.
  ['57P01', 'unavailable', true, 'unknown'],
  ['08P01', 'unavailable', true, 'unknown'],
  ['08006', 'unavailable', true, 'unknown'],
  ['XX000', undefined, false, 'unknown'],
] as const

const facts = ({ kind, retryable, effect }: DriverError) => [kind, retryable, effect]

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)

    t.test('an answer says by its SQLSTATE whether it is done', async (t) => {
      for (const [state, kind, retryable, effect] of states)
        t.strictSame(
          facts(await left(run(database, raised(state)))),
          [kind, retryable, effect],
          `SQLSTATE ${state}`,
        )
    })

    t.test('in a transaction nothing is done by what failed before the commit', async (t) => {
      for (const [state, kind, retryable] of states) {
        const failing = (tx: Queryable) => run(tx, raised(state))
        t.strictSame(facts(await left(database.transaction(failing))), [kind, retryable, 'none'], state)
        const overlooked = (tx: Queryable) => TE.fromTask(failing(tx))
        t.equal((await left(database.transaction(overlooked))).effect, 'none')
        t.equal((await left(database.transaction((tx) => tx.transaction(failing)))).effect, 'none')
      }
    })

    t.test('a parameter that is refused in a savepoint undoes only the savepoint', async (t) => {
      const refused = (tx: Queryable) => run(tx, 'select $1::text', 'a\u0000')
      const body = (tx: Database) =>
        pipe(
          run(tx, 'create temporary table kept as select 1 as n'),
          TE.chain(() => TE.fromTask(tx.transaction(refused))),
          TE.chain((inner) => {
            t.match(inner, { _tag: 'Left', left: { sqlState: '22021', effect: 'none' } })
            return run(tx, 'select n from kept')
          }),
        )
      t.strictSame(await right(database.transaction(body)), [{ n: 1 }])
    })

    t.test('what was never sent has no effect', async (t) => {
      const never = [
        await left(run(database, 'select $1::text', 'a\u0000')),
        await left(database.transaction(() => run(database, 'select 1'))),
      ]
      await right(database.close)
      never.push(await left(run(database, 'select 1')))
      never.push(await left(database.transaction((tx) => run(tx, 'select 1'))))
      t.strictSame(
        never.map(({ kind, effect }) => [kind, effect]),
        [
          [undefined, 'none'],
          ['outerHandle', 'none'],
          ['unavailable', 'none'],
          ['unavailable', 'none'],
        ],
      )
    })
  })

t.test('PGlite: a transaction that waits for its turn for too long has no effect', async (t) => {
  const database = pgliteDatabase(undefined, { timeoutMs: 100 })
  t.teardown(() => right(database.close))
  await right(TE.orElse(() => run(database, 'select 1'))(run(database, 'select 1')))
  let late: DriverError | undefined
  await right(
    database.transaction(() =>
      TE.fromTask(async () => {
        late = await outside(() => left(database.transaction((tx) => run(tx, 'select 1'))))
      }),
    ),
  )
  t.match(late, { kind: 'timeout', retryable: true, effect: 'none' })
})

/** Runs a function in the async context of this module, which is outside of any transaction. */
const outside = AsyncLocalStorage.snapshot()

const onServer = (driver: ServerDriver) => async (t: Test) => {
  const server = await startPostgres()
  const proxy = await startProxy(server.url)
  t.teardown(async () => {
    await proxy.close()
    await server.stop()
  })
  const open = (t: Test, url: string, timeoutMs = 5_000): Database => {
    const database = driver.open(url, { max: 1, timeoutMs, fixed: true })
    t.teardown(() => database.close())
    return database
  }

  t.test('a server that cannot be reached', async (t) => {
    const silent = createListener()
    silent.listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    const addresses = [
      'postgres://nobody@127.0.0.1:1/x',
      'postgres://nobody@host.invalid/x',
      `postgres://nobody@127.0.0.1:${String(port)}/x`,
    ]
    for (const url of addresses) {
      const database = open(t, url, 300)
      const failed = [
        await left(run(database, 'select 1')),
        await left(database.transaction((tx) => run(tx, 'select 1'))),
      ]
      for (const error of failed) t.match(error, { retryable: true, effect: 'none' }, url)
    }
    silent.close()
  })

  t.test('a statement without an answer in time: unknown if it was sent, none if it waited', async (t) => {
    const database = open(t, server.url, 300)
    await right(run(database, 'select 1'))
    const [sent, waited] = await Promise.all([
      left(run(database, 'select pg_sleep(2)')),
      left(database.transaction((tx) => run(tx, 'select 1'))),
    ])
    t.strictSame(facts(sent), ['timeout', true, 'unknown'])
    t.strictSame(facts(waited), ['timeout', true, 'none'])
  })

  t.test('a lost answer: unknown of a statement and of a commit, none in a transaction', async (t) => {
    const [database, near] = [open(t, proxy.url), open(t, server.url)]
    await right(run(near, 'create table lost (n int)'))
    const insert = (tx: Queryable, n: number) => run(tx, 'insert into lost values ($1::int)', n)
    const inTransaction = (n: number) => database.transaction((tx) => insert(tx, n))
    await right(insert(database, 0))
    await right(inTransaction(1))
    const lose = (...to: [] | ['a commit']) => proxy.loseNextAnswer(() => Promise.resolve(), ...to)
    lose()
    t.strictSame(facts(await left(insert(database, 2))), ['unavailable', true, 'unknown'])
    await right(inTransaction(3))
    lose('a commit')
    t.strictSame(facts(await left(inTransaction(4))), ['unavailable', true, 'unknown'])
    await right(inTransaction(5))
    lose()
    t.strictSame(facts(await left(inTransaction(6))), ['unavailable', true, 'none'])
    const rows = await right(run(near, 'select n from lost order by n'))
    t.strictSame(
      rows.map(({ n }) => n),
      [0, 1, 2, 3, 4, 5],
    )
  })

  t.test("a request's status follows the kind of the error", async (t) => {
    const database = open(t, server.url)
    await right(run(database, 'create table orders (id int primary key)'))
    const insert = run(database, 'insert into orders values (1)')
    await right(insert)
    const answers = [
      [insert, 500, null],
      [run(database, 'select 1 / 0'), 500, null],
      [run(database, 'select * from missing'), 500, null],
      [run(open(t, 'postgres://nobody@127.0.0.1:1/x', 300), 'select 1'), 503, '5'],
      [run(database, raised('40P01')), 503, '5'],
      [run(database, raised('53300')), 503, '5'],
      [run(database, raised('57014')), 503, '5'],
      [run(database, raised('25006')), 503, '5'],
      [TE.left(new DriverError('the store of a program', { retryable: true })), 503, '5'],
    ] as const
    const log = console.error
    console.error = () => undefined
    t.teardown(() => {
      console.error = log
    })
    let failing: TE.TaskEither<DriverError, unknown> = insert
    const listener = sessionListener({ store: memoryStore() })(async () => {
      throw await left(failing)
    })
    const http = createServer(listener).listen(0, '127.0.0.1')
    await once(http, 'listening')
    t.teardown(() => void http.close())
    const url = `http://127.0.0.1:${String((http.address() as AddressInfo).port)}/`
    for (const [task, status, retryAfter] of answers) {
      failing = task
      const response = await fetch(url)
      t.strictSame([response.status, response.headers.get('retry-after')], [status, retryAfter])
    }
  })
}

for (const driver of serverDrivers) t.test(`PostgreSQL: ${driver.name}`, onServer(driver))

t.test('a failure without an error of the driver, such as a deadline, is a DriverError too', (t) => {
  t.match(driverError('search', undefined), { _tag: 'DriverError', effect: 'unknown', message: /^search: / })
  t.end()
})
