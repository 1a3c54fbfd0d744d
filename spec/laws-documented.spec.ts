// Checks the laws on tables with the partitions and autovacuum settings of docs/operations.md.

import { readFile } from 'node:fs/promises'
import postgres from 'postgres'
import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, freshSchema, openIn, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const sql = postgres(url, { onnotice: () => undefined, max_pipeline: 1_000_000 } as object)
const database = postgresDatabase(sql)
t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
  await stop()
})

/** Returns the SQL of a chapter of docs/operations.md, for another schema. */
const page = await readFile(new URL('../docs/operations.md', import.meta.url), 'utf8')
const documented = (chapter: string, schema: string): string => {
  const [, text] = new RegExp(`## ${chapter}\n[^#]*?\`\`\`sql\n([^]*?)\`\`\``).exec(page) ?? []
  return text?.replaceAll(/\bkeyrow\b/g, schema) ?? 'there is none'
}

const partitioned = openIn(database, (schema) => sql.unsafe(documented('Partitions', schema)).simple())

for (const { name, run } of sessionStoreLaws(partitioned)) t.test(`${name} (on partitions)`, run)

t.test('the documented vacuum settings fit the tables', async (t) => {
  const schema = freshSchema()
  await right(sessionStore(database, { schema }).prepare)
  await sql.unsafe(documented('Vacuum and fill factor', schema)).simple()
  const set = await sql`select relname from pg_class where relnamespace = ${schema}::regnamespace
    and 'autovacuum_vacuum_scale_factor=0.02' = any(reloptions) order by 1`
  t.strictSame(
    set.map(({ relname }) => relname as unknown),
    ['entry', 'listing', 'session'],
  )
})
