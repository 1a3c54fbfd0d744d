// Tests the contract of `Database` on both drivers, and the errors of PostgreSQL.

import { createServer, type Socket } from 'node:net'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { sessionSet } from '../lib/core/values.js'
import type { Database, Param, Queryable } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import {
  buildSession,
  loadSession,
  refreshSession,
  rotateSession,
  saveSession,
  sessionToken,
  updateCurrentSession,
  withSession,
} from '../lib/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { drivers, quietPool, rowsOf, type ServerDriver, serverDrivers } from './support/databases.js'
import { newDatabase, startPostgres } from './support/postgres-server.js'
import { freshSchema, left, right } from './support/stores.js'

const run = (database: Queryable, text: string, ...params: readonly Param[]) =>
  database.query({ name: 'spec', text }, params)

const portSpec = (t: Test, database: Database): void => {
  t.test('values come back the same', async (t) => {
    const text = `select 9007199254740993::int8 as big, count(*) as count, null::int8 as none, 1::int4 as small,
      0.5::float8 as half, '\\x00ff'::bytea as bytes, null::bytea as nothing, true as yes, 'é'::text as text
      from (values (1), (2)) v`
    const [row] = await right(run(database, text))
    t.strictSame(row, {
      big: 9007199254740993n,
      count: 2n,
      none: null,
      small: 1,
      half: 0.5,
      bytes: Uint8Array.of(0, 255),
      nothing: null,
      yes: true,
      text: 'é',
    })
    t.equal(Object.getPrototypeOf(row?.['bytes']), Uint8Array.prototype)
    t.strictSame(await right(run(database, 'select 1 as a where false')), [])
    t.strictSame(await right(run(database, 'set work_mem to default')), [])
  })

  t.test('parameters go in the same', async (t) => {
    const text = `select $1::text::jsonb ->> 'a' as json, $2::int8 as big, $3::float8 as number, $4::text as none, $5::bool as yes`
    const [row] = await right(run(database, text, '{"a": "b"}', 2n ** 60n, 1.5, null, true))
    t.strictSame(row, { json: 'b', big: 2n ** 60n, number: 1.5, none: null, yes: true })
    for (const bad of [undefined as never, 'a\u0000', '\ud800']) {
      const error = await left(run(database, 'select $1::text as a', bad))
      t.ok(error instanceof DriverError && error.sqlState === '22021' && !error.retryable, error.message)
    }
  })

  t.test('a statement that fails after some of its rows leaves nothing to the next one', async (t) => {
    const failing = 'select 1 / (4 - i) as one from generate_series(1, 5) as i'
    for (let time = 0; time < 3; time += 1)
      // Uses every connection of a pool.
      await Promise.all(Array.from({ length: 20 }, () => left(run(database, failing))))
    for (const rows of await Promise.all(
      Array.from({ length: 20 }, () => right(run(database, 'select 1 as one'))),
    ))
      t.strictSame(rows, [{ one: 1 }])
  })

  t.test('errors are typed by SQLSTATE', async (t) => {
    const schema = freshSchema()
    await right(run(database, `create schema ${schema}`))
    await right(run(database, `create table ${schema}.t (id int primary key, n int check (n > 0))`))
    await right(run(database, `insert into ${schema}.t values (1, 1)`))
    const states = [
      ['23505', `insert into ${schema}.t values (1, 1)`],
      ['23514', `insert into ${schema}.t values (2, 0)`],
      ['42P01', `select * from ${schema}.u`],
      ['42601', 'selec 1'],
      ['22P02', `select 'x'::int`],
      ['22012', 'select 1 / 0'],
    ] as const
    for (const [state, text] of states) {
      const error = await left(run(database, text))
      t.strictSame([error._tag, error.sqlState, error.retryable], ['DriverError', state, false], text)
      t.ok(error.cause instanceof Error)
    }
  })

  t.test(
    'a transaction commits a Right, and rolls back a Left and a throw, which come out as themselves',
    async (t) => {
      const table = `${freshSchema()}.t`
      await right(run(database, `create schema ${table.replace('.t', '')}`))
      await right(run(database, `create table ${table} (n int)`))
      const insert = (n: number) => (tx: Queryable) =>
        run(tx, `insert into ${table} values ($1::int) returning n`, n)
      const mine = { mine: true }
      t.strictSame(await right(database.transaction(insert(1))), [{ n: 1 }])
      t.equal(
        await left(
          database.transaction((tx) =>
            pipe(
              insert(2)(tx),
              TE.chainW(() => TE.left(mine)),
            ),
          ),
        ),
        mine,
      )
      const thrown = new Error('mine')
      const throwing = database.transaction((tx) =>
        pipe(
          insert(3)(tx),
          TE.chainTaskK(() => () => Promise.reject(thrown)),
        ),
      )
      await t.rejects(throwing(), thrown)
      const failing = await left(
        database.transaction((tx) =>
          pipe(
            insert(4)(tx),
            TE.chain(() => run(tx, 'select 1 / 0')),
          ),
        ),
      )
      t.match(failing, { _tag: 'DriverError', sqlState: '22012' })
      t.strictSame(await rowsOf(database, `select n from ${table}`), [{ n: 1 }])
    },
  )
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    portSpec(t, database)
    t.test('once closed, everything is a DriverError', async (t) => {
      await right(database.close)
      await right(database.close)
      t.equal((await left(run(database, 'select 1')))._tag, 'DriverError')
      t.equal((await left(database.transaction((tx) => run(tx, 'select 1'))))._tag, 'DriverError')
      t.equal((await left(run(database, 'select 1'))).retryable, false)
    })
  })

t.test(
  'a pool that renames columns and members, or does not prepare, serves sessions all the same',
  async (t) => {
    const server = await newDatabase()
    t.teardown(() => server.stop())
    for (const options of [
      { transform: postgres.camel },
      { transform: postgres.kebab },
      { prepare: false },
    ]) {
      const database = postgresDatabase(quietPool(server.url, options))
      t.teardown(() => database.close())
      const store = sessionStore(database, { schema: freshSchema() })
      const session = await right(
        saveSession(sessionSet('snake_key', { snake_name: 1 })(buildSession(store))),
      )
      const found = await right(loadSession(store, sessionToken(session)))
      t.strictSame(found._tag === 'Some' ? found.value.store.toObject() : undefined, {
        snake_key: { snake_name: 1 },
      })
    }
  },
)

const faults = (driver: ServerDriver) => async (t: Test) => {
  const server = await startPostgres()
  t.teardown(() => server.stop())
  const open = (timeoutMs: number, url = server.url, max = 10) => {
    const database = driver.open(url, { max, timeoutMs, fixed: true })
    t.teardown(() => database.close())
    return database
  }

  t.test('a database that is not there is a DriverError, at once and again', async (t) => {
    const store = sessionStore(open(2_000, 'postgres://postgres@127.0.0.1:1/postgres'))
    const session = sessionSet('a', 1)(buildSession(store))
    for (let attempt = 0; attempt < 3; attempt += 1) {
      t.match(await left(saveSession(session)), { _tag: 'DriverError', retryable: true })
      t.match(await left(loadSession(store, sessionToken(session))), { _tag: 'DriverError', retryable: true })
    }
  })

  t.test('a server that accepts and never answers is a DriverError within the deadline', async (t) => {
    const sockets: Socket[] = []
    const mute = createServer((socket) => sockets.push(socket))
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve))
    t.teardown(() => {
      for (const socket of sockets) socket.destroy()
      mute.close()
    })
    const { port } = mute.address() as { port: number }
    const database = open(200, `postgres://postgres@127.0.0.1:${String(port)}/postgres`, 1)
    const start = performance.now()
    t.match(await left(run(database, 'select 1')), {
      _tag: 'DriverError',
      retryable: true,
      sqlState: undefined,
    })
    t.match(await left(database.transaction((tx) => run(tx, 'select 1'))), {
      _tag: 'DriverError',
      retryable: true,
    })
    t.ok(performance.now() - start < 10_000, 'bounded')
  })

  t.test(
    'a wait for a lock ends with the deadline; a transaction that waited so is rolled back',
    async (t) => {
      const [holder, waiter] = [open(10_000), open(300)]
      await rowsOf(holder, 'create table locked (n int); ')
      await rowsOf(holder, 'insert into locked values (1)')
      const result = await holder.transaction((tx) =>
        pipe(
          run(tx, 'update locked set n = 2'),
          TE.chainTaskK(() => async () => [
            await waiter.query({ name: 'update', text: 'update locked set n = 3' }, [])(),
            await waiter.transaction((inner) =>
              pipe(
                run(inner, 'insert into locked values (4)'),
                TE.chain(() => run(inner, 'update locked set n = 5')),
              ),
            )(),
          ]),
        ),
      )()
      t.ok(E.isRight(result))
      if (E.isRight(result))
        for (const waited of result.right) t.match(waited, { _tag: 'Left', left: { retryable: true } })
      await right(waiter.close)
      t.strictSame(
        (await rowsOf(holder, 'select n from locked order by n')).filter(({ n }) => n === 4 || n === 5),
        [],
        'nothing of the transaction was stored',
      )
    },
  )

  t.test(
    'law 6, no resurrection: what waited for a lock until the session was over writes nothing',
    async (t) => {
      const [database, holder] = [open(10_000), open(10_000)]
      const schema = freshSchema()
      const store = sessionStore(database, { schema, idleMs: 3_600_000, touchFraction: 0 })
      const endings = [
        `update ${schema}.session set expires_at = clock_timestamp() where id = $1::text::uuid`,
        `delete from ${schema}.session where id = $1::text::uuid`,
      ]
      for (const ending of endings) {
        const session = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
        let attempts: readonly Promise<unknown>[] = []
        const holding = holder.transaction((tx) =>
          pipe(
            run(tx, `select from ${schema}.session where id = $1::text::uuid for update`, session.id),
            TE.chainFirstTaskK(() => async () => {
              const late = saveSession(sessionSet('late', 1)(session))
              attempts = [late(), refreshSession(session)(), rotateSession(session)()]
              await untilWaiting(database, attempts.length)
            }),
            TE.chain(() => run(tx, ending, session.id)),
          ),
        )
        await right(holding)
        for (const attempt of attempts)
          t.match(await attempt, { _tag: 'Left', left: { _tag: 'SessionGone' } })
      }
      t.strictSame(await rowsOf(database, `select 1 from ${schema}.entry where key = 'late'`), [])
    },
  )

  t.test('a role that may use a schema but not make one makes the tables in it', async (t) => {
    const schema = freshSchema()
    const owner = open(5_000)
    await rowsOf(owner, `create role ${schema} login`)
    await rowsOf(owner, `create schema ${schema} authorization ${schema}`)
    const database = open(5_000, server.url.replace('postgres@', `${schema}@`))
    await right(sessionStore(database, { schema }).prepare)
    t.strictSame(await rowsOf(database, `select 1 from ${schema}.session`), [])
    t.match(await left(sessionStore(database, { schema: freshSchema() }).prepare), {
      _tag: 'DriverError',
      sqlState: '42501',
    })
  })

  t.test(
    'a database that dies between load and save: a typed error, nothing half written, and then it is back',
    async (t) => {
      const schema = freshSchema()
      const store = sessionStore(open(5_000), { schema })
      const session = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
      const body = () =>
        pipe(
          updateCurrentSession((current) => sessionSet('b', 2)(sessionSet('a', 2)(current))),
          TE.chainTaskK(() => () => server.kill()),
        )
      t.match(await left(withSession(session, body)), { _tag: 'DriverError', retryable: true })
      t.match(await left(loadSession(store, sessionToken(session))), { _tag: 'DriverError', retryable: true })
      await server.start()
      const found = await untilRight(loadSession(store, sessionToken(session)))
      t.match(found, { _tag: 'Some', value: { edits: { size: 0 } } })
      t.strictSame(found._tag === 'Some' ? found.value.store.toObject() : undefined, { a: 1 })
    },
  )

  t.test(
    'a transaction whose connection was lost stays lost, and none of its statements runs outside of it',
    async (t) => {
      const [database, other] = [open(5_000, server.url, 1), open(5_000)]
      await untilRight(run(other, 'create table orders (n int)'))
      await untilRight(run(database, 'select 1'))
      for (let attempt = 0; attempt < 10; attempt += 1) {
        const result = await database.transaction((tx) =>
          pipe(
            run(tx, 'insert into orders values (1)'),
            TE.chain(() => run(tx, 'select pg_backend_pid()::text as pid')),
            TE.chainW((rows) =>
              run(other, 'select pg_terminate_backend($1::text::int)', String(rows[0]?.['pid'])),
            ),
            // The program ignores all errors of the next statements.
            TE.chainTaskK(() => async () => {
              for (let n = 2; n < 5; n += 1) {
                await run(tx, 'insert into orders values ($1::int)', n)()
                await new Promise((resolve) => setTimeout(resolve, 20))
              }
            }),
          ),
        )()
        t.match(result, { _tag: 'Left', left: { _tag: 'DriverError' } })
        const neighbour = await untilRight(
          database.transaction((tx) =>
            pipe(
              run(tx, 'select 7 as n'),
              TE.chain(() => run(tx, 'select 8 as n')),
            ),
          ),
        )
        t.strictSame(neighbour, [{ n: 8 }], 'the next transaction on that connection is a whole one')
      }
      t.strictSame(await rowsOf(other, 'select n from orders'), [])
    },
  )
}

for (const driver of serverDrivers) t.test(`faults of PostgreSQL: ${driver.name}`, faults(driver))

/** Waits until `count` statements wait for a lock. */
const untilWaiting = async (database: Queryable, count: number): Promise<void> => {
  const text = `select count(*)::int as waiting from pg_stat_activity where wait_event_type = 'Lock'`
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const [row] = await right(run(database, text))
    if (Number(row?.['waiting']) >= count) return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error('nobody waits')
}

/** Repeats the task until the restarted database answers, at most 100 times. */
const untilRight = async <L, A>(task: TE.TaskEither<L, A>): Promise<A> => {
  for (let attempt = 1; attempt < 100; attempt += 1) {
    const result = await task()
    if (E.isRight(result)) return result.right
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return right(task)
}
