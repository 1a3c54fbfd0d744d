// Checks that every read of the library has the condition `ON_PRIMARY` (lib/db/database.ts), and that the condition
// changes no plan. slow/pgpool.spec.ts tests the condition with a real pooler.

import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { ON_PRIMARY, ONCE_ON_PRIMARY } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { quietPools, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { nodes, type Plan, planned, runStatements, type Statement } from './support/statements.js'
import { dropSchemas, freshSchema } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

const statements = await runStatements(database, freshSchema())
const names = new Set(statements.map(({ query }) => query.name))

t.test('each statement of the library was run', (t) => {
  const folder = new URL('../lib/', import.meta.url)
  const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8'))
  const source = sources.join('\n')
  const literal =
    source.match(/(?<=')(?:session|batch|principals|citus|admin|express|flow|late|schema)\.[\w.]+(?=')/g) ??
    []
  // The names of statements are the keys of `statementsOf('group', { … })`.
  const grouped = [...source.matchAll(/ statementsOf\('(\w+)', \{\n([\s\S]*?)\n\}\)/g)].flatMap(
    ([, group = '', texts = '']) =>
      [...texts.matchAll(/^ {2}'?([\w.]+)'?: (?=\(|locked)/gm)].map(([, key = '']) => `${group}.${key}`),
  )
  t.strictSame([...new Set(grouped.map((name) => name.replace(/\..*/, '')))].sort(), [
    'admin',
    'batch',
    'citus',
    'express',
    'flow',
    'late',
    'old',
    'principals',
    'session',
  ])
  const written = new Set([...literal, ...grouped])
  t.ok(written.size > 50, `${String(written.size)} names`)
  t.strictSame(
    [...written].filter((name) => !names.has(name)),
    [],
  )
  for (const name of ['find', 'findMany', 'lock', 'by.owner'])
    t.ok(
      [...names].some((one) => one.endsWith(`note.${name}`)),
      name,
    )
  t.end()
})

const WRITES = /\b(?:insert into|update|delete from|create|alter|analyze)\b/

t.test('each statement that writes nothing has a function that PostgreSQL calls volatile', async (t) => {
  const rows = await rowsOf(
    database,
    `select distinct proname::text as name from pg_proc where provolatile = 'v'`,
  )
  const functions = new Set(rows.map(({ name }) => String(name)))
  const isRead = ({ query }: Statement): boolean =>
    !WRITES.test(query.text) && query.name !== 'admin.route.plain'
  const reads = statements.filter(isRead)
  t.ok(reads.length > 25, `${String(reads.length)} reads`)
  const isVolatile = (text: string): boolean =>
    (text.match(/\w+(?=\()/g) ?? []).some((name) => functions.has(name))
  t.strictSame(
    reads.filter(({ query }) => !isVolatile(query.text)).map(({ query }) => query.name),
    [],
  )
})

/** Returns the nodes of a plan without the `Result` nodes. */
const shape = (plan: Plan): readonly string[] =>
  nodes(plan)
    .filter((node) => node['Node Type'] !== 'Result')
    .map((node) => `${node['Node Type']} ${node['Index Name'] ?? ''}`)

t.test('the condition changes no plan, and where there may be many rows it is asked once', async (t) => {
  for (const { query, params } of statements) {
    if (!query.text.includes(ON_PRIMARY)) continue
    const plan = await planned(database, query.text, params)
    const without = query.text.replaceAll(ONCE_ON_PRIMARY, 'true').replaceAll(ON_PRIMARY, 'true')
    t.strictSame(shape(plan), shape(await planned(database, without, params)), query.name)
    if (query.text.includes(ONCE_ON_PRIMARY))
      t.ok(
        nodes(plan).some((node) => node['One-Time Filter'] !== undefined),
        `${query.name}: once`,
      )
  }
})
