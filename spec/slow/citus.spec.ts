// All laws, and a history, on tables that Citus spreads over its nodes, by the lines of docs/operations.md:
// `CITUS_URL=postgres://… npm run spec:citus`, with the address of a coordinator.

import { readFile } from 'node:fs/promises'
import t from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { buildSession, saveSession, sessionSet } from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { flowLaws, sessionStoreLaws } from '../../lib/testing/index.js'
import { counting, quietPool, rowsOf } from '../support/databases.js'
import { makeHistory } from '../support/history-run.js'
import { dropSchemas, freshSchema, openIn, right } from '../support/stores.js'

const url = process.env['CITUS_URL']
if (url === undefined) throw new Error('CITUS_URL: the address of a coordinator of Citus is needed')
const sql = quietPool(url)
const database = postgresDatabase(sql)
t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
})

const page = await readFile(new URL('../../docs/operations.md', import.meta.url), 'utf8')
const [, documented = 'there is none'] = /## Citus\n[^#]*?```sql\n([\s\S]*?)```/.exec(page) ?? []

const distribute = async (schema: string): Promise<void> => {
  await right(sessionStore(database, { schema }).prepare)
  await sql.unsafe(documented.replaceAll(/\bkeyrow\b/g, schema)).simple()
}

t.test('it is Citus, with several nodes that hold shards', async (t) => {
  const [row] = await rowsOf(database, 'select count(*)::int as n from pg_dist_node where shouldhaveshards')
  t.ok(Number(row?.['n']) > 1)
})

const distributed = openIn(database, distribute, { citus: true })
for (const { name, run } of [...sessionStoreLaws(distributed), ...flowLaws(distributed)]) t.test(name, run)

t.test('a save is one statement where nobody else has saved', async (t) => {
  const { database: counted, events } = counting(database)
  const schema = freshSchema()
  await distribute(schema)
  const store = sessionStore(counted, { schema, citus: true })
  const saved = await saveSession(sessionSet('n', 1)(buildSession(store)))
  events.length = 0
  const again = await saveSession(sessionSet('n', 2)(saved))
  await saveSession(sessionSet('m', 3)(again))
  t.strictSame(
    events.map(({ query }) => query.name),
    ['session.save', 'session.save'],
  )
})

t.test('a history of four processes', async (t) => {
  const history = await makeHistory({ url, processes: 4, operations: 4_000, distribute })
  t.strictSame(history.violations, [])
  t.strictSame([history.operations, history.unknown], [4_000, 0])
})
