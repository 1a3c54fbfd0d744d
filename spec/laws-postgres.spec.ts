import postgres from 'postgres'
import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, fast, openIn, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const sql = postgres(url, { onnotice: () => undefined, max_pipeline: 1_000_000 } as object)
const database = postgresDatabase(sql)
t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
  await stop()
})

for (const { name, run } of sessionStoreLaws(openIn(database))) t.test(name, run)

const quick = openIn(database, undefined, {}, fast)

for (const { name, run } of sessionStoreLaws(quick)) t.test(`${name} (batched and remembered)`, run)

const relaxed = openIn(database, undefined, { durability: 'relaxed' }, fast)

for (const { name, run } of sessionStoreLaws(relaxed)) t.test(`${name} (relaxed)`, run)
