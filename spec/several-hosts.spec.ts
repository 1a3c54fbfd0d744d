// A pool that knows several hosts, of which one is the primary.

import * as E from 'fp-ts/lib/Either.js'
import t from 'tap'
import { postgresDatabase } from '../lib/driver/postgres.js'
import type { Queryable } from '../lib/port/database.js'
import { quietPools } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'

const server = await startPostgres()
const proxy = await startProxy(server.url)
t.teardown(async () => {
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
  t.strictSame(
    results.map((result) => (E.isLeft(result) ? result.left.retryable : result.right)),
    [true, [{ n: 2 }]],
  )
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
  t.strictSame(answered, E.right([{ n: 2 }]))
  t.equal(bodies, 0)
  t.strictSame(
    await run(database, `select to_regclass('stray')::text as stray`)(),
    E.right([{ stray: null }]),
  )
})
