import postgres from 'postgres'
import t from 'tap'
import { postgresDatabase } from '../lib/driver/postgres.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { openIn, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(postgres(url, { onnotice: () => undefined }))
t.teardown(async () => {
  await right(database.close)
  await stop()
})

for (const { name, run } of sessionStoreLaws(openIn(database))) t.test(name, run)
