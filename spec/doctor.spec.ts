// Tests what `doctor` says about row-level security, collations, tables that were never analyzed, and late saves.

import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { buildSession, saveSession, sessionSet } from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { keyrow } from './support/cli.js'
import { quietPool } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { roleWith } from './support/roles.js'
import { freshSchema, right } from './support/stores.js'

const server = await newDatabase()
const sql = quietPool(server.url, { max: 2 })
const database = postgresDatabase(sql)
t.teardown(async () => {
  await right(database.close)
  await server.stop()
})

interface Diagnosis {
  readonly checks: readonly { readonly check: string; readonly state: string; readonly says: string }[]
}

const diagnosed = async (url: string, schema: string) => {
  const ran = await keyrow(['doctor', '--json', '--schema', schema], { env: { DATABASE_URL: url } })
  const { checks } = JSON.parse(ran.stdout) as Diagnosis
  const of = (name: string) => checks.find(({ check }) => check === name)
  return { code: ran.code, stdout: ran.stdout, of }
}

const ready = async (): Promise<string> => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  await saveSession(sessionSet('a', 1)(buildSession(store)))
  return schema
}

t.test('row-level security that hides rows is a problem, for the role that it applies to', async (t) => {
  const schema = await ready()
  const { role, url } = await roleWith(server.url, {}, '')
  await sql.unsafe(`grant usage on schema ${schema} to ${role}`)
  await sql.unsafe(`grant all on all tables in schema ${schema} to ${role}`)
  t.match(await diagnosed(url, schema), { code: 0 })

  await sql.unsafe(`alter table ${schema}.entry enable row level security`)
  const hidden = await diagnosed(url, schema)
  t.equal(hidden.code, 5)
  t.match(hidden.of('row security'), { state: 'problem', says: /hides rows of entry from .*bypassrls/ })
  t.match((await diagnosed(server.url, schema)).of('row security'), { state: 'ok' }, 'not of a superuser')

  await sql.unsafe(`create policy own on ${schema}.entry to ${role} using (key <> 'a')`)
  t.match((await diagnosed(url, schema)).of('row security'), { state: 'problem' })
  await sql.unsafe(`create policy whole on ${schema}.entry to ${role} using (true)`)
  t.match((await diagnosed(url, schema)).of('row security'), { state: 'ok' }, 'all rows are let through')
  await sql.unsafe(`create policy less on ${schema}.entry as restrictive using (key <> 'a')`)
  t.match((await diagnosed(url, schema)).of('row security'), { state: 'problem' })

  // Now the version cannot be read either.
  await sql.unsafe(`alter table ${schema}.metadata enable row level security`)
  t.match((await diagnosed(url, schema)).of('row security'), { says: /rows of entry, metadata from/ })
})

t.test('a collation that merges keys is a problem', async (t) => {
  const schema = await ready()
  t.match((await diagnosed(server.url, schema)).of('collation'), { state: 'ok' })
  await sql.unsafe(
    `create collation ${schema}.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
  )
  await sql.unsafe(`alter table ${schema}.entry alter column key type text collate ${schema}.blind`)
  await sql.unsafe(`alter table ${schema}.listing alter column principal type text collate ${schema}.blind`)
  const found = await diagnosed(server.url, schema)
  t.equal(found.code, 5)
  t.match(found.of('collation'), { state: 'problem', says: /entry\.key, listing\.principal .*collate "C"/ })
})

t.test('tables that nobody has analysed have no number of rows', async (t) => {
  const schema = await ready()
  const { stdout } = await diagnosed(server.url, schema)
  t.match(stdout, /"rows":\s*null/)
  t.notMatch(stdout, /-1\b/)
  const text = await keyrow(['doctor', '--schema', schema], { env: { DATABASE_URL: server.url } })
  t.match(text.stdout, /^entry +not counted /m)
  t.notMatch(text.stdout, /-1\b/)
})

t.test('a role whose commits do not wait for the disk is warned of', async (t) => {
  const schema = await ready()
  const { url } = await roleWith(server.url, { synchronous_commit: 'off' })
  const found = await diagnosed(url, schema)
  t.equal(found.code, 0)
  t.match(found.of('durability'), { state: 'warning' })
})

t.test('it tells whether some process stores late saves', async (t) => {
  const schema = await ready()
  t.match((await diagnosed(server.url, schema)).of('late saves'), { state: 'ok', says: /none/ })
  await sql.unsafe(
    `insert into ${schema}.late_save select id, '\\x00', now() - interval '5 minutes' from ${schema}.session`,
  )
  t.match((await diagnosed(server.url, schema)).of('late saves'), { state: 'ok', says: /5 (m|min).* ago/ })
  await sql.unsafe(`update ${schema}.late_save set stored_at = now() - interval '2 hours'`)
  t.match((await diagnosed(server.url, schema)).of('late saves'), { says: /none/ })
})
