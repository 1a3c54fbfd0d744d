// All laws through a real pgbouncer in transaction mode, and an upgrade by processes that start together:
// `npm run spec:pgbouncer`. It needs pgbouncer, which is no npm package.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { pgDatabase } from '../../lib/db/pg.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { flowLaws, sessionStoreLaws } from '../../lib/testing/index.js'
import { pgPool, quietPool, rowsOf, serverDrivers } from '../support/databases.js'
import { startPgBouncer } from '../support/pgbouncer.js'
import { startPostgres } from '../support/postgres-server.js'
import { freshSchema, openIn } from '../support/stores.js'

const server = await startPostgres()
const bouncer = await startPgBouncer(server)
const databases = serverDrivers.map(({ name, open }) => ({
  name,
  database: open(bouncer.url, { prepare: false, max: 20, fixed: true }),
}))
t.teardown(async () => {
  for (const { database } of databases) await database.close()
  await bouncer.stop()
  await server.stop()
})

for (const { name, database } of databases) {
  t.test(
    `${name}: it is pgbouncer, in transaction mode: a setting made outside of a transaction wanders`,
    async (t) => {
      const direct = postgresDatabase(quietPool(server.url))
      const application = `select count(distinct pid)::int as n from pg_stat_activity where backend_type = 'client backend'
    and pid <> pg_backend_pid()`
      await Promise.all(Array.from({ length: 20 }, () => rowsOf(database, 'select pg_sleep(0.05)')))
      const [row] = await rowsOf(direct, application)
      t.ok(Number(row?.['n']) <= 3, `20 clients share ${String(row?.['n'])} connections`)
      await direct.close()
    },
  )

  for (const laws of [sessionStoreLaws, flowLaws])
    for (const law of laws(openIn(database))) t.test(`${name}: ${law.name}`, law.run)
}

t.test('a wait for a lock is no reason for another pool, nor to end what is answered', async (t) => {
  let pools = 0
  const patient = postgresDatabase(
    () => {
      pools += 1
      return quietPool(bouncer.url, { prepare: false, max: 4 })
    },
    { timeoutMs: 500 },
  )
  const direct = quietPool(server.url, { max: 1 })
  await direct`create table held as select 1 as n`
  await direct.begin(async (tx) => {
    await tx`select n from held for update`
    const late = patient.query({ name: 'late', text: 'update held set n = 2' }, [])()
    for (let count = 0; count < 6; count += 1)
      t.match(await patient.query({ name: 'other', text: 'select pg_sleep(0.3)' }, [])(), { _tag: 'Right' })
    t.match(await late, { _tag: 'Left' })
  })
  t.equal(pools, 2, 'one that is asked, and not taken')
  t.match(await patient.query({ name: 'after', text: 'select 1' }, [])(), { _tag: 'Right' })
  await patient.close()
  await direct.end()
})

t.test('node-postgres: a wait for a lock leaves no connection behind that waits for it too', async (t) => {
  const patient = pgDatabase(pgPool(bouncer.url, { max: 4 }), { timeoutMs: 300, prepare: false })
  const direct = quietPool(server.url, { max: 1 })
  await direct`create table locked as select 1 as n`
  await direct.begin(async (tx) => {
    await tx`select n from locked for update`
    for (let count = 0; count < 10; count += 1) {
      const late = patient.query({ name: 'late', text: 'update locked set n = 2' }, [])()
      const other = patient.query({ name: 'other', text: 'select pg_sleep(0.01)' }, [])()
      t.match(await other, { _tag: 'Right' })
      t.match(await late, { _tag: 'Left', left: { kind: 'timeout', effect: 'unknown' } })
    }
    const [waiting] = await tx`select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock'`
    t.ok(Number(waiting?.['n']) <= 1, `${String(waiting?.['n'])} wait for the lock`)
  })
  await patient.close()
  await direct.end()
})

t.test('ten processes that start together make the schema once', async (t) => {
  const schema = freshSchema()
  const child = fileURLToPath(new URL('../support/starter-child.mjs', import.meta.url))
  const start = () =>
    promisify(execFile)(process.execPath, [child, bouncer.url, schema], {
      env: { ...process.env, PREPARE: 'false' },
    })
  await Promise.all(Array.from({ length: 10 }, start))
  const direct = postgresDatabase(quietPool(server.url))
  t.teardown(() => direct.close())
  t.strictSame(await rowsOf(direct, `select version from ${schema}.metadata order by 1`), [
    { version: 1 },
    { version: 2 },
    { version: 3 },
    { version: 4 },
    { version: 5 },
  ])
  t.strictSame(await rowsOf(direct, `select count(*)::int as n from ${schema}.session`), [{ n: 10 }])
})
