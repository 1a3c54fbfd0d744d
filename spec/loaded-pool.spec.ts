// A pool whose connections are loaded with statements when transactions begin: postgres.js then may fail to reserve
// a connection for one, which here happens all the time, since no statement may wait behind another.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { type PostgresJs, postgresDatabase } from '../lib/driver/postgres.js'
import { quietPool, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { freshSchema } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
t.teardown(stop)

t.test('transactions begin all the same, and leave none behind', async (t) => {
  const direct = quietPool(url, { max: 1 })
  const schema = freshSchema()
  await direct.unsafe(
    `create schema ${schema}; create table ${schema}.n (n int); insert into ${schema}.n values (0)`,
  )
  let unsafe = 0
  const loaded = quietPool(url, {
    max: 3,
    max_pipeline: 1,
    connection: { application_name: schema },
  } as object)
  const counted: PostgresJs = {
    options: loaded.options,
    unsafe: loaded.unsafe.bind(loaded),
    end: loaded.end.bind(loaded),
    begin: (options, body) => {
      const run = loaded.begin(options, body as never)
      run.catch((error: unknown) => {
        if ((error as { readonly code?: unknown }).code === 'UNSAFE_TRANSACTION') unsafe += 1
      })
      return run
    },
  }
  const database = postgresDatabase(counted)
  const add = { name: 'add', text: `update ${schema}.n set n = n + 1` }
  const plain = Array.from({ length: 100 }, () => database.query(add, [])())
  const grouped = Array.from({ length: 100 }, () =>
    database.transaction((tx) =>
      pipe(
        tx.query(add, []),
        TE.chain(() => tx.query(add, [])),
      ),
    )(),
  )
  const results = await Promise.all([...plain, ...grouped])
  t.strictSame(results.filter(E.isLeft), [])
  t.ok(unsafe > 0, `it happened ${String(unsafe)} times`)
  const [row] = await direct.unsafe(`select n from ${schema}.n`)
  t.equal(row?.['n'], 300, 'all of it is committed')
  const open = await direct.unsafe(
    `select pid from pg_stat_activity where application_name = '${schema}' and state like 'idle in transaction%'`,
  )
  t.equal(open.length, 0)
  t.strictSame(await rowsOf(database, 'select 1 as one'), [{ one: 1 }])
  await database.close()
  await direct.unsafe(`drop schema ${schema} cascade`)
  await direct.end()
})
