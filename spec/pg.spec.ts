// Tests what is particular to the driver on node-postgres: the pool of the program, its options, its clients, and the
// connections that break or no longer answer.

import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { Database, Param, Queryable } from '../lib/db/database.js'
import { type PgOptions, pgDatabase } from '../lib/db/pg.js'
import type { PgPool } from '../lib/db/pg-statement.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { pgPool, quietPool, replaceTypeParsers, rowsOf } from './support/databases.js'
import { inTime } from './support/in-time.js'
import { newDatabase } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { left, right } from './support/stores.js'

// A warning of node-postgres would be about a use that it deprecates.
const warnings: string[] = []
process.on('warning', ({ name, message }) => void warnings.push(`${name}: ${message}`))

const server = await newDatabase()
const proxy = await startProxy(server.url)
const admin = postgresDatabase(quietPool(server.url, { max: 2 }), { timeoutMs: 20_000 })
t.teardown(async () => {
  await right(admin.close)
  await proxy.close()
  await server.stop()
})

const run = (database: Queryable, text: string, ...params: readonly Param[]) =>
  database.query({ name: 'spec', text }, params)

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

interface Opened {
  readonly pool: pg.Pool
  readonly database: Database
}

const open = (
  t: Test,
  poolOptions: pg.PoolConfig = {},
  options: PgOptions = {},
  url: string = server.url,
): Opened => {
  const pool = pgPool(url, { max: 4, ...poolOptions })
  const database = pgDatabase(pool, options)
  t.teardown(() => database.close())
  return { pool, database }
}

/** Waits at most ten seconds until the condition holds. */
const until = async (what: string, isSo: () => boolean | Promise<boolean>): Promise<void> => {
  const deadline = performance.now() + 10_000
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`It is not so: ${what}`)
    await pause(10)
  }
}

/** Takes a client from the pool, like a program does. */
const taken = async (pool: pg.Pool): Promise<pg.PoolClient> => pool.connect()

const pidOf = async (database: Queryable): Promise<number> =>
  Number((await right(run(database, 'select pg_backend_pid() as pid')))[0]?.['pid'])

const terminate = async (...pids: readonly number[]): Promise<void> => {
  for (const pid of pids) await rowsOf(admin, `select pg_terminate_backend(${String(pid)}, 5000)`)
}

const backends = async (condition: string): Promise<number> => {
  const [row] = await rowsOf(
    admin,
    `select count(*)::int as n from pg_stat_activity
     where datname = current_database() and pid <> pg_backend_pid() and ${condition}`,
  )
  return Number(row?.['n'])
}

let tables = 0
const newTable = async (): Promise<string> => {
  tables += 1
  const table = `numbers_${String(tables)}`
  await rowsOf(admin, `create table ${table} (n int)`)
  return table
}
const numbersIn = async (table: string): Promise<readonly unknown[]> =>
  (await rowsOf(admin, `select n from ${table} order by n`)).map(({ n }) => n)
const insert = (database: Queryable, table: string, n: number) =>
  run(database, `insert into ${table} values ($1::int)`, n)

t.test('a client in place of a pool, a pool with pipeline, and a timeout out of range are refused', (t) => {
  // @ts-expect-error a client is no pool
  const ofClient = () => pgDatabase(new pg.Client(server.url))
  t.throws(ofClient, { name: 'TypeError', message: /a pool of node-postgres, not a client/ })
  t.throws(() => pgDatabase(new pg.Pool({ pipeline: true })), {
    name: 'RangeError',
    message: /pipeline/,
  })
  t.throws(() => pgDatabase(new pg.Pool(), { timeoutMs: 0 }), RangeError)
  const pool: PgPool = new pg.Pool()
  t.equal(pool.totalCount, 0)
  t.end()
})

const nested = (database: Database, table: string, n: number) =>
  database.transaction((tx) =>
    pipe(
      insert(tx, table, n),
      TE.chain(() => TE.fromTask(tx.transaction((inner) => insert(inner, table, n + 0.5)))),
      TE.chain(() =>
        TE.fromTask(
          tx.transaction((inner) =>
            pipe(
              insert(inner, table, -n),
              TE.chain(() => run(inner, 'select 1 / 0')),
            ),
          ),
        ),
      ),
      TE.chain(() => insert(tx, table, n + 1_000)),
    ),
  )

t.test('a pool that throws instead of calling back gives an error', async (t) => {
  const pool: PgPool = {
    connect: () => {
      throw new Error('this pool is broken')
    },
    end: () => Promise.resolve(),
    on: () => undefined,
    totalCount: 0,
    ending: true,
  }
  const database = pgDatabase(pool)
  const error = { _tag: 'Left', left: { _tag: 'DriverError', kind: 'unavailable', effect: 'none' } }
  t.match(await database.query({ name: 'one', text: 'select 1' }, [])(), error)
  t.match(await database.transaction(() => TE.right(1))(), error)
})

t.test('a pool of one client: statements, transactions and savepoints, many at once', async (t) => {
  const { pool, database } = open(t, { max: 1 }, { timeoutMs: 20_000 })
  const table = await newTable()
  const results = await Promise.all(
    Array.from({ length: 40 }, (_, n) => [
      insert(database, table, n)(),
      nested(database, table, 100 + n)(),
      run(database, 'select 0.5::float8 as half')(),
      database.transaction((tx) => run(tx, 'select 0.5::float8 as half'))(),
    ]).flat(),
  )
  t.strictSame(results.filter(E.isLeft).slice(0, 3), [])
  const from = (start: number) => Array.from({ length: 40 }, (_, n) => start + n)
  t.strictSame(await numbersIn(table), [...from(0), ...from(100), ...from(1_100)])
  t.strictSame([pool.totalCount, pool.idleCount, pool.waitingCount], [1, 1, 0])
})

t.test('the check of settings does not wait for a client that a transaction holds', async (t) => {
  for (let round = 0; round < 5; round += 1) {
    const { database } = open(t, { max: 1 }, { timeoutMs: 1_000 })
    const half = (queryable: Queryable) => run(queryable, 'select 0.5::float8 as half')
    const inTransaction = () => database.transaction(half)()
    const results = await Promise.all([
      half(database)(),
      inTransaction(),
      half(database)(),
      inTransaction(),
      half(database)(),
    ])
    for (const result of results) t.strictSame(result, E.right([{ half: 0.5 }]))
  }
})

const VALUES = `select 9007199254740993::int8 as big, 7::int4 as small, 0.1::float8 as float, true as yes,
  '{"a": 1}'::jsonb as json, '2024-02-29 12:34:56.789+00'::timestamptz as at, 'text'::text as text,
  array[1, null]::int4[] as list, '\\x00ff'::bytea as bytes, '1.10'::numeric as number`

const values = {
  big: 9007199254740993n,
  small: 7,
  float: 0.1,
  yes: true,
  json: { a: 1 },
  at: new Date('2024-02-29T12:34:56.789Z'),
  text: 'text',
  list: [1, null],
  bytes: Uint8Array.of(0, 255),
  number: '1.10',
}

t.test('type parsers of the process and of the pool change no value, and are not changed', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  t.strictSame(await rowsOf(database, VALUES), [values])
  t.teardown(replaceTypeParsers(() => 'parsed'))
  t.strictSame(await rowsOf(database, VALUES), [values])
  t.match((await pool.query(VALUES)).rows, [{ big: 'parsed', json: 'parsed', at: 'parsed' }])
  const types = { getTypeParser: () => () => 'of the pool' } as never
  for (const options of [{ types }, { types, binary: true }] as pg.PoolConfig[]) {
    const own = open(t, options)
    t.strictSame(await rowsOf(own.database, VALUES), [values])
    t.match((await own.pool.query(VALUES)).rows, [{ big: 'of the pool', text: 'of the pool' }])
    t.strictSame(await rowsOf(own.database, VALUES), [values])
  }
})

t.test('numbers, bigints, nulls and empty texts as parameters, prepared or not', async (t) => {
  for (const prepare of [true, false]) {
    const { database } = open(t, { max: 1 }, { prepare })
    const text =
      'select $1::int8 as big, $2::text as none, $3::text as empty, $4::bool as no, $5::float8 as n'
    for (const big of [0n, 2n ** 63n - 1n, -(2n ** 63n)])
      t.strictSame(await right(run(database, text, big, null, '', false, -0)), [
        { big, none: null, empty: '', no: false, n: -0 },
      ])
    t.strictSame(await right(run(database, '')), [])
    const [row] = await rowsOf(
      database,
      `select count(*)::int as n from pg_prepared_statements where name like 'keyrow%'`,
    )
    t.strictSame(row, { n: prepare ? 1 : 0 })
  }
})

t.test("the pool's query_timeout and statement_timeout", async (t) => {
  t.test('a statement that takes longer than query_timeout', async (t) => {
    const { database } = open(t, { max: 1, query_timeout: 200 })
    const late = { _tag: 'DriverError', kind: 'timeout', retryable: true, effect: 'unknown' }
    t.match(await left(run(database, 'select pg_sleep(1)')), late)
    t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
    const inTransaction = database.transaction((tx) => run(tx, 'select pg_sleep(1)'))
    t.match(await left(inTransaction), { ...late, effect: 'none' })
    t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
  })
  t.test('query_timeout leaves no timer behind', async (t) => {
    const { database } = open(t, { max: 1, query_timeout: 3_600_000 })
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    await rowsOf(database, 'select 1')
    const before = timers()
    for (let count = 0; count < 50; count += 1) {
      await rowsOf(database, 'select 1')
      await left(run(database, 'select 1 / 0'))
    }
    t.ok(timers() <= before + 5, `${String(timers())} timers, ${String(before)} before`)
  })
  t.test('a statement that takes longer than statement_timeout', async (t) => {
    const { database } = open(t, { max: 1, statement_timeout: 200 })
    const pid = await pidOf(database)
    const late = { kind: 'timeout', sqlState: '57014', retryable: true, effect: 'none' }
    t.match(await left(run(database, 'select pg_sleep(1)')), late)
    t.match(await left(database.transaction((tx) => run(tx, 'select pg_sleep(1)'))), late)
    t.equal(await pidOf(database), pid)
  })
})

t.test('a statement that leaves a transaction open', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  for (const [text, fails] of [
    ['begin', false],
    ['begin read only', false],
    ['start transaction isolation level serializable', false],
  ] as const)
    for (const then of ['the program', 'keyrow']) {
      const pid = await pidOf(database)
      t.equal(E.isLeft(await run(database, text)()), fails)
      const open = 'select transaction_timestamp() <> statement_timestamp() as open'
      if (then === 'keyrow') t.not(await pidOf(database), pid)
      else {
        const client = await taken(pool)
        await client.query('select pg_sleep(0.01)')
        t.strictSame((await client.query(open)).rows, [{ open: false }])
        client.release()
      }
    }
  const table = await newTable()
  await right(insert(database, table, 1))
  t.strictSame(await numbersIn(table), [1])
  t.equal(await backends(`state like 'idle in transaction%'`), 0)
})

t.test('a transaction that the program has left open on a client swallows no statement', async (t) => {
  for (const usedBefore of [false, true]) {
    const { pool, database } = open(t, { max: 1 })
    const table = await newTable()
    if (usedBefore) await rowsOf(database, 'select 1')
    const client = await taken(pool)
    await client.query('begin')
    client.release()
    await right(insert(database, table, 1))
    await right(database.transaction((tx) => insert(tx, table, 2)))
    t.strictSame(await numbersIn(table), [1, 2], usedBefore ? 'used before' : 'not used before')
    t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
  }
})

t.test('idle clients whose backends die', async (t) => {
  const { pool, database } = open(t)
  const four = () => Promise.all([1, 2, 3, 4].map(() => rowsOf(database, 'select pg_sleep(0.1)')))
  for (const heard of [false, true]) {
    const errors: unknown[] = []
    if (heard) pool.on('error', (error) => errors.push(error))
    await four()
    t.equal(pool.idleCount, 4)
    await rowsOf(
      admin,
      `select pg_terminate_backend(pid, 5000) from pg_stat_activity
       where datname = current_database() and application_name = '' and pid <> pg_backend_pid()
         and query = 'select pg_sleep(0.1)'`,
    )
    await until('the pool has no client', () => pool.totalCount === 0)
    t.equal(errors.length, heard ? 4 : 0, "the program's own listener is called")
    await four()
  }
})

t.test('a client whose backend dies during a statement, or in a transaction', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  const table = await newTable()
  const asleep = `query like '%pg_sleep(20)%' and state = 'active'`
  const terminateSleeper = async () => {
    await until('it sleeps', async () => (await backends(asleep)) === 1)
    await rowsOf(
      admin,
      `select pg_terminate_backend(pid, 5000) from pg_stat_activity where ${asleep}
      and pid <> pg_backend_pid()`,
    )
  }
  const lost = { _tag: 'DriverError', kind: 'unavailable', retryable: true }

  const statement = left(run(database, 'select pg_sleep(20)'))
  await terminateSleeper()
  t.match(await statement, { ...lost, effect: 'unknown' })
  t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])

  const during = left(
    database.transaction((tx) =>
      pipe(
        insert(tx, table, 1),
        TE.chain(() => run(tx, 'select pg_sleep(20)')),
      ),
    ),
  )
  await terminateSleeper()
  t.match(await during, { ...lost, effect: 'none' })

  const between = (last: (tx: Database) => TE.TaskEither<unknown, unknown>) =>
    left(
      database.transaction((tx) =>
        pipe(
          insert(tx, table, 2),
          TE.chainW(() => TE.fromTask(async () => terminate(await pidOf(tx)))),
          TE.chainW(() => TE.fromTask(() => pause(50))),
          TE.chainW(() => last(tx)),
        ),
      ),
    )
  t.match(await between((tx) => insert(tx, table, 3)), { ...lost, effect: 'none' })
  t.match(await between((tx) => tx.transaction((inner) => insert(inner, table, 3))), {
    ...lost,
    effect: 'none',
  })
  t.match(await between(() => TE.right(undefined)), { ...lost, effect: 'none' }, 'no COMMIT was sent')
  await right(insert(database, table, 4))
  t.strictSame(await numbersIn(table), [4])
  t.strictSame([pool.totalCount, pool.idleCount], [1, 1])
})

t.test(
  'idle clients that have fallen silent: one missed deadline, and the pool is right again',
  async (t) => {
    for (const max of [1, 4, 10]) {
      const { pool, database } = open(t, { max }, { timeoutMs: 500 }, proxy.url)
      const all = () =>
        Promise.all(Array.from({ length: max }, () => run(database, 'select pg_sleep(0.05)')()))
      t.ok((await all()).every(E.isRight))
      t.equal(pool.idleCount, max)
      proxy.silence()
      t.match(await left(run(database, 'select 1')), { kind: 'timeout', retryable: true, effect: 'unknown' })
      const start = performance.now()
      for (let round = 0; round < 3; round += 1)
        t.strictSame((await all()).filter(E.isLeft), [], `${String(max)} clients, round ${String(round)}`)
      t.ok(performance.now() - start < 5_000)
      t.ok(pool.totalCount <= max)
    }
  },
)

t.test('clients that fall silent while others wait for them', async (t) => {
  const { pool, database } = open(t, { max: 4 }, { timeoutMs: 500 }, proxy.url)
  await Promise.all([1, 2, 3, 4].map(() => rowsOf(database, 'select pg_sleep(0.05)')))
  proxy.silence()
  const first = await Promise.all(Array.from({ length: 40 }, () => run(database, 'select 1')()))
  t.equal(first.filter((result) => E.isLeft(result) && result.left.effect === 'unknown').length, 4)
  for (const result of first)
    t.ok(E.isRight(result) || (result.left.kind === 'timeout' && result.left.retryable))
  const second = await Promise.all(Array.from({ length: 40 }, () => run(database, 'select 1')()))
  t.strictSame(second.filter(E.isLeft), [])
  t.ok(pool.totalCount <= 4)
})

t.test(
  'a client that fell silent after a wait for it: the other silent clients leave the pool too',
  async (t) => {
    const { pool, database } = open(t, { max: 2 }, { timeoutMs: 600 }, proxy.url)
    const clients = await Promise.all([taken(pool), taken(pool)])
    for (const client of clients) client.release()
    await Promise.all([1, 2].map(() => rowsOf(database, 'select pg_sleep(0.05)')))
    const [one, two] = await Promise.all([taken(pool), taken(pool)])
    const waiting = left(run(database, 'select 1'))
    await pause(300)
    await Promise.all([one, two].map((client) => client.query('select 1')))
    proxy.silence()
    one.release()
    two.release()
    t.match(await waiting, { kind: 'timeout', effect: 'unknown' })
    t.ok(E.isRight(await run(database, 'select 1')()))
  },
)

t.test('a server that never answers', async (t) => {
  const sockets: Socket[] = []
  const mute = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1')
  await once(mute, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    mute.close()
  })
  const { port } = mute.address() as { readonly port: number }
  const url = `postgres://postgres@127.0.0.1:${String(port)}/postgres`
  for (const [options, kind] of [
    [{ connectionTimeoutMillis: 300 }, 'unavailable'],
    [{ connectionTimeoutMillis: 3_000 }, 'timeout'],
  ] as const) {
    const { database } = open(t, { max: 2, ...options }, { timeoutMs: 1_000 }, url)
    const failure = { _tag: 'DriverError', kind, retryable: true, effect: 'none' }
    const failures = await Promise.all([
      left(run(database, 'select 1')),
      left(database.transaction((tx) => run(tx, 'select 1'))),
    ])
    for (const error of failures) t.match(error, failure)
    if (kind === 'unavailable') t.match(failures[0].message, /timeout/)
  }
})

t.test('close', async (t) => {
  t.test('lets what was begun before it end, even if it waits for a client', async (t) => {
    const { pool, database } = open(t, { max: 1 })
    const table = await newTable()
    const sleeping = database.transaction((tx) =>
      pipe(
        run(tx, 'select pg_sleep(0.3)'),
        TE.chain(() => insert(tx, table, 1)),
      ),
    )()
    const waiting = [insert(database, table, 2)(), insert(database, table, 3)()]
    await pause(50)
    const closing = database.close()
    t.match(await insert(database, table, 4)(), { _tag: 'Left', left: { message: /closed/, effect: 'none' } })
    t.ok(E.isRight(await closing))
    t.ok((await Promise.all([sleeping, ...waiting])).every(E.isRight))
    t.strictSame(await numbersIn(table), [1, 2, 3])
    t.equal(pool.totalCount, 0)
    t.ok(E.isRight(await database.close()), 'a second call has no effect')
  })
  t.test('ends a transaction and a statement that take too long', async (t) => {
    for (const act of [
      (database: Database) => run(database, 'select pg_sleep(20)'),
      (database: Database) => database.transaction((tx) => run(tx, 'select pg_sleep(20)')),
      (database: Database) => database.transaction(() => TE.fromTask(() => new Promise(() => undefined))),
    ]) {
      const { pool, database } = open(t, { max: 2 }, { timeoutMs: 400 })
      await rowsOf(database, 'select 1')
      void act(database)()
      await pause(50)
      const start = performance.now()
      t.ok(E.isRight(await inTime('close', 5_000, database.close())))
      t.ok(performance.now() - start < 2_000)
      t.equal(pool.totalCount, 0)
    }
    await until('no backend is left', async () => (await backends(`query like '%pg_sleep(20)%'`)) === 0)
  })
  t.test('of a pool that the program has ended', async (t) => {
    const { pool, database } = open(t)
    await rowsOf(database, 'select 1')
    await pool.end()
    const over = { kind: 'unavailable', retryable: false, effect: 'none' }
    t.match(await left(run(database, 'select 1')), over)
    t.match(await left(database.transaction((tx) => run(tx, 'select 1'))), over)
    t.ok(E.isRight(await database.close()))
    const other = open(t)
    await right(other.database.close)
    t.equal(other.pool.ending, true)
  })
})

t.test('a COMMIT that the server answers with ROLLBACK is an error', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  const table = await newTable()
  let inUse: pg.PoolClient | undefined
  pool.on('acquire', (client) => {
    inUse = client
  })
  const body = (tx: Database) =>
    pipe(
      insert(tx, table, 1),
      // The program makes the transaction fail, and keyrow does not see the error.
      TE.chainFirstTaskK(() => async () => {
        await inUse?.query('select 1 / 0').catch(() => undefined)
      }),
    )
  const error = await left(database.transaction(body))
  t.match(error, { retryable: false, effect: 'none', message: /rolled the transaction back/ })
  t.strictSame(await numbersIn(table), [])
  t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
})

t.test('prepared statements that a connection has lost', async (t) => {
  const echo = (queryable: Queryable) => run(queryable, 'select $1::int as n, $2::text as text', 7, 'x')
  const answer = [{ n: 7, text: 'x' }]
  for (const forget of ['discard all', 'deallocate all']) {
    const { pool, database } = open(t, { max: 1 })
    t.strictSame(await right(echo(database)), answer)
    await rowsOf(database, forget)
    t.strictSame(await right(echo(database)), answer, forget)
    t.strictSame(await right(echo(database)), answer)
    await rowsOf(database, forget)
    const inTransaction = await database.transaction(echo)()
    t.match(inTransaction, { _tag: 'Left', left: { sqlState: '26000', retryable: true, effect: 'none' } })
    t.strictSame(await right(database.transaction(echo)), answer)
    t.strictSame((await pool.query('select $1::int as n', [1])).rows, [{ n: 1 }])
  }
  const { pool, database } = open(t, { max: 1 })
  t.strictSame(await right(echo(database)), answer)
  // The program prepares a statement of the same name with another client of the library.
  const [{ name } = { name: '' }] = (
    await pool.query<{ name: string }>(`select name from pg_prepared_statements where name like 'keyrow%'`)
  ).rows
  const other = open(t, { max: 1 })
  await other.pool.query(`prepare ${name} as select 1`)
  t.strictSame(await right(echo(other.database)), answer)
  t.strictSame(await right(echo(other.database)), answer)
})

t.test('the program uses the pool at the same time', async (t) => {
  const { pool, database } = open(t, { max: 3 })
  const mine = { name: 'mine', text: 'select $1::int8 as n, $2::jsonb as json' }
  const table = await newTable()
  const program = async (n: number) => {
    const { rows } = await pool.query({ ...mine, values: [n, '{"a": 1}'] })
    t.strictSame(rows, [{ n: String(n), json: { a: 1 } }])
    const list = await pool.query({ text: 'select 1 as a, null as b', rowMode: 'array' })
    t.strictSame(list.rows, [[1, null]])
    const client = await taken(pool)
    await client.query('begin')
    await client.query(`insert into ${table} values ($1)`, [n])
    await client.query('rollback')
    await t.rejects(client.query('select 1 / 0'), { code: '22012' })
    client.release()
  }
  const keyrow = async (n: number) => {
    t.strictSame(await right(run(database, mine.text, n, '{"a": 1}')), [{ n: BigInt(n), json: { a: 1 } }])
    await right(database.transaction((tx) => insert(tx, table, n)))
    t.match(await left(run(database, 'select 1 / 0')), { sqlState: '22012' })
  }
  for (let round = 0; round < 5; round += 1)
    await Promise.all(Array.from({ length: 20 }, (_, n) => [program(n), keyrow(100 * round + n)]).flat())
  t.equal((await numbersIn(table)).length, 100)
  const clients = await Promise.all([taken(pool), taken(pool), taken(pool)])
  for (const client of clients) {
    const { rows } = await client.query<{ name: string }>('select name from pg_prepared_statements')
    client.release()
    t.strictSame(rows.map(({ name }) => name.replace(/^keyrow_.*/, 'keyrow')).sort(), [
      'keyrow',
      'keyrow',
      'mine',
    ])
  }
})

t.test('no listener is left by a statement', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  const table = await newTable()
  const twice = async () => {
    await right(insert(database, table, 1))
    await right(nested(database, table, 2))
    await left(run(database, 'select 1 / 0'))
  }
  await twice()
  const client = (await taken(pool)) as pg.PoolClient & { readonly connection: NodeJS.EventEmitter }
  client.release()
  const counts = () =>
    [pool, client, client.connection].map((emitter) =>
      Object.fromEntries(emitter.eventNames().map((name) => [String(name), emitter.listenerCount(name)])),
    )
  const before = counts()
  for (let count = 0; count < 100; count += 1) await twice()
  t.strictSame(counts(), before)
  for (let count = 0; count < 20; count += 1) pgDatabase(pool)
  t.strictSame(counts(), before, 'nor by another database on the same pool')
})

t.test('20,000 statements at once on four clients', async (t) => {
  const { pool, database } = open(t, { connectionTimeoutMillis: 120_000 }, { timeoutMs: 120_000 })
  const all = await Promise.all(
    Array.from({ length: 20_000 }, async (_, n) => {
      const [row] = await right(run(database, 'select $1::int as n', n))
      return row?.['n'] === n
    }),
  )
  t.ok(all.every((same) => same))
  t.strictSame([pool.totalCount, pool.idleCount, pool.waitingCount], [4, 4, 0])
})

t.test('a deadline that passes while a statement waits for a client', async (t) => {
  const { pool, database } = open(t, { max: 2 }, { timeoutMs: 200 })
  const table = await newTable()
  const clients = await Promise.all([taken(pool), taken(pool)])
  const failures = await Promise.all([
    left(insert(database, table, 1)),
    left(database.transaction((tx) => insert(tx, table, 2))),
  ])
  for (const failure of failures) t.match(failure, { kind: 'timeout', retryable: true, effect: 'none' })
  t.equal(pool.waitingCount, 2)
  for (const client of clients) client.release()
  await until('both clients are given back', () => pool.idleCount === 2 && pool.waitingCount === 0)
  await right(insert(database, table, 3))
  t.strictSame(await numbersIn(table), [3])
})

t.test('a wait for a client that ends by connectionTimeoutMillis', async (t) => {
  const { pool, database } = open(t, { max: 1, connectionTimeoutMillis: 200 })
  const client = await taken(pool)
  t.match(await left(run(database, 'select 1')), {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
    message: /^connect: timeout exceeded/,
  })
  client.release()
  t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
})

t.test('primary: a statement whose deadline has passed destroys no client that arrives later', async (t) => {
  const { pool, database } = open(t, { max: 1 }, { timeoutMs: 200, primary: true })
  const client = await taken(pool)
  t.match(await left(run(database, 'select 1')), { kind: 'timeout', effect: 'none' })
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  client.release()
  await until('the client is given back', () => pool.idleCount === 1)
  await pause(50)
  t.equal(await pidOf(database), rows[0]?.pid)
})

t.test('COPY: data of the client are refused at once, and data of the server are ignored', async (t) => {
  const { pool, database } = open(t, { max: 1 })
  const table = await newTable()
  await right(insert(database, table, 1))
  t.match(await left(run(database, `copy ${table} from stdin`)), { sqlState: '57014', effect: 'none' })
  t.strictSame(await right(run(database, `copy ${table} to stdout`)), [])
  t.match(await left(database.transaction((tx) => run(tx, `copy ${table} from stdin`))), {
    sqlState: '57014',
  })
  t.strictSame(await numbersIn(table), [1])
  t.strictSame([pool.totalCount, pool.idleCount], [1, 1])
})

t.test('options of the pool that replace its clients', async (t) => {
  const table = await newTable()
  for (const options of [{ maxUses: 1 }, { maxUses: 3 }, { idleTimeoutMillis: 1 }, { min: 1 }]) {
    const { pool, database } = open(t, { max: 2, ...options })
    for (let round = 0; round < 5; round += 1) {
      const results = await Promise.all(
        [1, 2, 3, 4].flatMap((n) => [insert(database, table, n)(), nested(database, table, n)()]),
      )
      t.strictSame(results.filter(E.isLeft), [])
      await pause(5)
    }
    t.ok(pool.totalCount <= 2)
  }
})

t.test('node-postgres has warned of nothing', (t) => {
  t.strictSame(warnings, [])
  t.end()
})
