// Tests a pool whose connections have many statements when transactions begin. postgres.js may then fail to reserve a
// connection for a transaction. keyrow's pool options prevent this failure. This spec also forces the failure, and
// shows that nothing is lost.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import postgres from 'postgres'
import t from 'tap'
import { type PostgresJs, postgresDatabase } from '../lib/db/postgres/index.js'
import { quietPool, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { freshSchema } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()

const { sql: direct, schema } = await (async () => {
  const sql = quietPool(url, { max: 1 })
  const schema = freshSchema()
  await sql.unsafe(`create schema ${schema}; create table ${schema}.n (n int)`)
  return { sql, schema }
})()
t.teardown(async () => {
  await direct.unsafe(`drop schema ${schema} cascade`)
  await direct.end()
  await stop()
})

/** Makes a pool, and counts the transactions without a reserved connection. */
const watched = (options: object) => {
  let unsafe = 0
  const loaded = quietPool(url, { max: 3, connection: { application_name: schema }, ...options })
  const pool: PostgresJs = {
    options: { max: 3 },
    unsafe: loaded.unsafe.bind(loaded),
    typed: loaded.typed.bind(loaded),
    end: loaded.end.bind(loaded),
    begin: (options, body) => {
      const run = loaded.begin(options, body as never)
      run.catch((error: unknown) => {
        if ((error as { readonly code?: unknown }).code === 'UNSAFE_TRANSACTION') unsafe += 1
      })
      return run
    },
  }
  return { pool, unsafe: () => unsafe }
}

/**
 * Runs statements, and transactions of two statements, all at once. Each statement adds 1, and has `text` as a
 * parameter.
 */
const load = async (pool: PostgresJs, times: number, text: string) => {
  const database = postgresDatabase(pool)
  const add = { name: 'add', text: `update ${schema}.n set n = n + 1 where $1::text is not null` }
  // A connection with a prepared statement accepts statements up to its limit, before the pool queues one.
  await Promise.all([1, 2, 3].map(() => database.query(add, [text])()))
  await direct.unsafe(`truncate ${schema}.n; insert into ${schema}.n values (0)`)
  const plain = Array.from({ length: times }, () => database.query(add, [text])())
  const grouped = Array.from({ length: 100 }, () =>
    database.transaction((tx) =>
      pipe(
        tx.query(add, [text]),
        TE.chain(() => tx.query(add, [text])),
      ),
    )(),
  )
  const results = await Promise.all([...plain, ...grouped])
  const [row] = await direct.unsafe(`select n from ${schema}.n`)
  const open = await direct.unsafe(
    `select pid from pg_stat_activity where application_name = '${schema}' and state like 'idle in transaction%'`,
  )
  const one = await rowsOf(database, 'select 1 as one')
  await database.close()
  return { failed: results.filter(E.isLeft), n: row?.['n'] as unknown, open: open.length, one }
}

const well = (times: number) => ({ failed: [], n: times + 200, open: 0, one: [{ one: 1 }] })

for (const [name, times, text] of [
  ['as many statements as three connections take by default', 300, 'x'],
  ['thousands of them', 3_000, 'x'],
  ['large ones', 300, 'x'.repeat(100_000)],
] as const)
  t.test(`${name}: a transaction gets its connection`, async (t) => {
    const { pool, unsafe } = watched({})
    t.strictSame(await load(pool, times, text), well(times))
    t.equal(unsafe(), 0)
  })

t.test('transactions begin all the same, and leave none behind', async (t) => {
  const { pool, unsafe } = watched({ max_pipeline: 1 })
  t.strictSame(await load(pool, 3, 'x'), well(3))
  t.ok(unsafe() > 0, `it happened ${String(unsafe())} times`)
})

t.test('a pool that could lose a transaction is refused', async (t) => {
  const plain = postgres(url)
  t.throws(() => postgresDatabase(plain), {
    name: 'RangeError',
    message: /max_pipeline is 100: .*poolOptions/,
  })
  t.throws(() => postgresDatabase(() => plain), RangeError)
  // A pool with one connection always reserves it for the transaction.
  const database = postgresDatabase(postgres(url, { max: 1 }))
  t.strictSame(await rowsOf(database, 'select 1 as one'), [{ one: 1 }])
  await database.close()
  await plain.end()
})
