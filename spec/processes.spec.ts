// Tests laws 4 and 12 between real processes, on a real PostgreSQL.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import {
  buildSession,
  closeDatabase,
  loadSession,
  queryDatabase,
  saveSession,
  sessionSet,
  sessionToken,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { quietPool } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { freshSchema } from './support/stores.js'

const run = promisify(execFile)
const child = fileURLToPath(new URL('./support/writer-child.mjs', import.meta.url))

t.test('law 4, no lost keys: four processes that write to one session at once lose nothing', async (t) => {
  const { url, stop } = await specDatabaseUrl()
  const database = postgresDatabase(quietPool(url))
  const schema = freshSchema()
  t.teardown(async () => {
    await queryDatabase(database, { name: 'drop', text: `drop schema ${schema} cascade` }, [])
    await closeDatabase(database)
    await stop()
  })
  const store = sessionStore(database, { schema })
  const session = await saveSession(sessionSet('first', 1)(buildSession(store)))
  const names = ['a', 'b', 'c', 'd']
  await Promise.all(
    names.map((name) =>
      run(process.execPath, [child, url, schema, sessionToken(session), name, '100'], { timeout: 60_000 }),
    ),
  )
  const found = await loadSession(store, sessionToken(session))
  const expected = names.flatMap((name) =>
    Array.from({ length: 50 }, (_, index) => `${name} ${String(index * 2)}`),
  )
  t.strictSame([...(found?.store.keys() ?? [])].toSorted(), ['first', ...expected].toSorted())
  const [row] = await queryDatabase(
    database,
    { name: 'revision', text: `select revision from ${schema}.session` },
    [],
  )
  t.equal(row?.['revision'], 1n + 4n * 150n, 'each save raised the revision by one')
})
